"""What the image is made of besides the lock files. This file is an input: a change rebuilds it."""

from __future__ import annotations

from typing import Final

PUBLIC: Final = "node:24-trixie-slim"
SUITE: Final = "trixie"
PYTHON: Final = "3.13"  # Debian 13's, which both bases are
PACKAGES: Final = (
    *("bash", "ca-certificates", "curl", "git", "less", "nodejs", "procps", "python3", "ripgrep"),
    *("tini", "vim"),  # an editor and a pager are for people at a terminal
)
# 75 MB that no agent reads; the public image leaves out the same. Licences stay.
LEFT_OUT: Final = (
    *("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright"),
    *("path-exclude=/usr/share/locale/*", "path-include=/usr/share/locale/locale.alias"),
    *("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/info/*"),
    "path-exclude=/usr/share/lintian/*",
)
# Debian 12's npm does not look at `libc` and fetches what is for musl as well: the bases are glibc.
# Codex's voice mode wants a microphone (45 MB). The others are sources of a module for terminals
# that Gemini brings ready-made as well.
UNUSED: Final = (
    "node_modules/@*/*-musl",
    "node_modules/@openai/codex-linux-*/vendor/*/codex-resources/voice",
    *("node_modules/nan", "node_modules/node-addon-api"),
)
