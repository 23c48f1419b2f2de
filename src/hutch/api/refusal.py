"""Why a request gets no answer, before an endpoint's protocol gives it a shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    code: str
    message: str
    hint: str = ""
    param: str | None = None  # the field of the request, where one is to blame
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """For protocols that have no field for a hint."""
        return f"{self.message} {self.hint}".strip()
