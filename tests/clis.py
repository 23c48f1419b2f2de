"""Where the real CLIs are."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from hutch_runtime.protocol import Provider

_CLONE = Path(__file__).resolve().parents[1]
_ARCH = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_PROGRAM: dict[Provider, str] = {
    "claude": f"@anthropic-ai/claude-code-linux-{_ARCH}/claude",
    "codex": f"@openai/codex-linux-{_ARCH}/vendor/*/bin/codex",
    "gemini": "@google/gemini-cli/bundle/gemini.js",
}


def cli_argv(provider: Provider) -> list[str]:
    """How to start ``provider``'s real CLI on this machine; arguments go behind it.

    Looks in ``$HUTCH_TEST_CLI_DIR`` (a ``node_modules``), else where the image's build installs
    the CLIs. Raises ``FileNotFoundError``: a test without its CLI fails, it does not skip.
    """
    given = os.environ.get("HUTCH_TEST_CLI_DIR")
    modules = Path(given) if given else _CLONE / "image" / "build" / "clis" / "node_modules"
    found = sorted(modules.glob(_PROGRAM[provider]))
    if not found:
        raise FileNotFoundError(
            f"no {provider} CLI: {modules / _PROGRAM[provider]} is not there; build the image "
            "(it installs the pinned CLIs), or set HUTCH_TEST_CLI_DIR to a node_modules with them"
        )
    program = str(found[0])
    return ["node", program] if program.endswith(".js") else [program]
