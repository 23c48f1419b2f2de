"""Secrets come by a prompt that shows nothing, or by standard input: never as arguments, which
every process of the machine can read.
"""

from __future__ import annotations

import sys

import typer

from hutch.errors import InvalidRequest


def read_secret(what: str) -> str:
    if sys.stdin.isatty():
        text = str(typer.prompt(what, hide_input=True, err=True))
    else:
        text = sys.stdin.read()
    if not text.strip():
        raise InvalidRequest(f"No {what} was given.", hint="Pipe it in, or type it at the prompt.")
    return text.strip()
