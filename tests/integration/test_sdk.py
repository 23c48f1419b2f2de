"""The examples of docs/sdk.md, one after the other as a reader would type them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, User

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


def test_the_examples(
    service: Service,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service_key = service.admin.call("POST", "/v1/admin/service-keys")["key"]
    monkeypatch.setenv("HUTCH_URL", service.url)
    monkeypatch.setenv("HUTCH_API_KEY", user.key)
    monkeypatch.setenv("HUTCH_SERVICE_KEY", service_key)
    monkeypatch.setenv("SOME_USER", user.id)
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 8
    scope: dict[str, Any] = {"__name__": "example"}
    for example in examples:
        exec(compile(example, str(PAGE), "exec"), scope)  # noqa: S102  our own page
    said = capsys.readouterr().out
    assert 'you said "Say hello."' in said
    assert "ended with end_turn None" in said
    assert "not_found 404" in said
    assert "provider_auth" in said
    assert 'you said "Three."' in said
    assert "direct" in said
