from __future__ import annotations

import json
from pathlib import Path

import pytest

from hutch_runtime.settings import SettingsError, read_settings

_GOOD = {
    "HUTCH_RUNTIME_KEY_SHA256": "ab" * 32,
    "HUTCH_GATEWAY_URL": "http://172.20.0.1:8485/",
    "HUTCH_PLACEHOLDER_KEY": "placeholder",
    "HUTCH_PREWARM": "gemini, claude",
    "HOME": "/home/app",
    "PATH": "/usr/bin",
    "SECRET": "of the image",
}


def test_what_is_given_and_what_is_not() -> None:
    settings = read_settings(_GOOD)
    assert settings.key_sha256 == bytes.fromhex("ab" * 32)
    assert settings.gateway_url == "http://172.20.0.1:8485"
    assert settings.prewarm == ("claude", "gemini")
    assert (settings.port, settings.agent_pids, settings.agent_idle_s) == (3000, 256, 900)
    assert settings.cli["codex"] == ("codex",)


def test_agents_get_little_of_our_environment() -> None:
    settings = read_settings(_GOOD)
    passed_on = {"HOME": "/home/app", "PATH": "/usr/bin", "LANG": "C.UTF-8"}
    assert settings.setup("claude").environment == passed_on


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUTCH_RUNTIME_KEY_SHA256", ""),
        ("HUTCH_RUNTIME_KEY_SHA256", "the key itself"),
        ("HUTCH_GATEWAY_URL", ""),
        ("HUTCH_GATEWAY_URL", "172.20.0.1:8485"),
        ("HUTCH_PLACEHOLDER_KEY", ""),
        ("HUTCH_PREWARM", "claude,cursor"),
        ("HUTCH_AGENT_IDLE_S", "soon"),
        ("HUTCH_AGENT_IDLE_S", "-1"),
        ("HUTCH_AGENT_IDLE_S", "nan"),
        ("HUTCH_RUNTIME_PORT", "http"),
        ("HOME", ""),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        read_settings({**_GOOD, name: value})
    if "key" in value:
        assert value not in str(caught.value)


def test_versions(tmp_path: Path) -> None:
    path = tmp_path / "versions.json"
    env = {**_GOOD, "HUTCH_VERSIONS_FILE": str(path)}
    unknown = {"claude": "unknown", "codex": "unknown", "gemini": "unknown", "runtime": "unknown"}
    assert read_settings(env).versions == unknown
    path.write_text("not json")
    assert read_settings(env).versions == unknown
    path.write_text(json.dumps({"claude": "2.1.330", "other": 1}))
    assert read_settings(env).versions == {**unknown, "claude": "2.1.330"}
