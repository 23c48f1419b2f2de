"""Lines that the real CLIs wrote: codex 0.169.0 and gemini 0.61.0 on a stub of the model APIs.

Each file is one turn. Paths and addresses were replaced, and echoes cut out of long answers;
nothing else was changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def recorded(name: str) -> list[tuple[dict[str, Any], str]]:
    """Each message of ``name`` (``codex/shell``) with the line that it came in."""
    path = Path(__file__).parent / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(json.loads(line), line) for line in lines]
