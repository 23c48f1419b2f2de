from __future__ import annotations

from typing import Annotated

import typer

from hutch_runtime.protocol import PROVIDERS


def _names() -> list[str]:
    return list(PROVIDERS)


ProviderArgument = Annotated[
    str, typer.Argument(help="claude, codex or gemini", autocompletion=_names)
]
