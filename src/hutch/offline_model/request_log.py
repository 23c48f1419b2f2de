"""Every turn that the model was asked for, as lines of a file: one when it came, one when it ended.

A line is written at once, so that the log is whole to the moment at which the model is killed; a
turn without a second line broke off.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from hutch.offline_model.conversation import Conversation
from hutch.offline_model.recorded import Recorded

TEXTS_MAX: Final = 50  # of the user's in a conversation, the latest
TEXT_MAX: Final = 200  # characters of each


class RequestLog:
    def __init__(self, path: Path | None) -> None:
        """None: nothing is written."""
        self._file = path.open("ab", buffering=0) if path else None
        self._numbers = 0

    def begin(self, recorded: Recorded, conversation: Conversation, *, turn: str) -> str:
        """The id of the request in this log. ``turn``: what the CLI calls this turn, or at least
        its session; "" if it does not tell.
        """
        self._numbers += 1
        request_id = f"{os.getpid()}-{self._numbers}"
        texts = [text[:TEXT_MAX] for text in conversation.user_texts[-TEXTS_MAX:]]
        self._write(
            {
                "id": request_id,
                "began": time.time(),
                **recorded.public(),
                "turn": turn,
                "user_texts": texts,
                "tool_result": conversation.tool_result is not None,
            }
        )
        return request_id

    def end(self, request_id: str, recorded: Recorded) -> None:
        whole = recorded.status == 200 and not recorded.disconnected_early
        self._write({"id": request_id, "ended": time.time(), "whole": whole})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line).encode() + b"\n")
