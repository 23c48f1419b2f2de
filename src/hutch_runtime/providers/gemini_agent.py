"""One Gemini session: its turns, one at a time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import Any, Final, Literal

from hutch_runtime.approvals import Verdict
from hutch_runtime.attachments import note
from hutch_runtime.home import Home
from hutch_runtime.jsonrpc import ConnectionLost, RpcError
from hutch_runtime.protocol import LINE_MAX_BYTES
from hutch_runtime.providers.base import AgentDied, Ask, Outcome, Prompt, RunError, Turn
from hutch_runtime.providers.gemini_errors import MODEL_NOT_FOUND_CLASS, error_code, readable
from hutch_runtime.providers.gemini_events import TurnTranslator, stop_reason
from hutch_runtime.providers.gemini_permissions import answer, question
from hutch_runtime.providers.gemini_reports import take_report
from hutch_runtime.providers.rpc_process import RpcAgent, RpcProcess

# The CLI's own default, DEFAULT_GEMINI_MODEL. With no model, or "auto", it puts a call to a router
# in front of each prompt.
DEFAULT_MODEL: Final = "gemini-2.5-pro"
# Of a session: whether it asks before it does something.
FREE: Final = "yolo"
ASKING: Final = "default"
# A text that begins like "/help" or "$ init" the CLI takes for a command of its own and never shows
# to the model. It looks at all leading text blocks together, so a block in front prevents that.
_COMMAND_MARKS: Final = ("/", "$")
_GUARD: Final = "The user's message follows."


class GeminiAgent(RpcAgent):
    """``acp_session`` is the id on the wire; ``session`` what the files and callers know. ``mode``:
    that the session is in; None if that is not known.
    """

    def __init__(
        self,
        process: RpcProcess,
        session: str,
        acp_session: str,
        *,
        resumed: Literal["resumed"] | None,
        reports: Home,
        mode: str | None = FREE,
    ) -> None:
        super().__init__(process, session, resumed)
        self.updates = 0  # heard so far
        self._acp_session = acp_session
        self._reports = reports
        self._model: str | None = None
        self._mode = mode
        self._ask: Ask | None = None  # in a turn that has to ask
        self._asking: set[asyncio.Future[Verdict]] = set()
        self._turn: Turn | None = None
        self._translator: TurnTranslator | None = None
        self._asked = False  # the prompt is with the CLI
        self._cancelled = False

    async def prompt(self, prompt: Prompt, turn: Turn) -> Outcome:
        translator = self._translator = TurnTranslator(turn.emit)
        self._turn, self._ask = turn, prompt.ask
        self._cancelled = False
        try:
            outcome = await self._run(blocks(prompt), prompt.model or DEFAULT_MODEL, translator)
        except ConnectionLost as error:
            raise AgentDied(str(error)) from error
        finally:
            if self._asked:  # our task was cancelled: the CLI would go on
                self._asked = False
                await self._tell_cancel()
            for waiting in self._asking:
                waiting.cancel()
            translator.close()
            self._translator = self._turn = self._ask = None
        return Outcome(outcome.stop_reason, outcome.error, translator.text)

    async def cancel(self) -> None:
        if self._translator is None or self._cancelled:
            return
        self._cancelled = True
        if self._asked:
            await self._tell_cancel()

    async def close(self) -> None:
        if not self.end("closed"):
            return
        await self.cancel()
        self._process.unlisten(self._acp_session, self)

    def heard(self, method: str, params: dict[str, Any], line: str) -> None:
        self.updates += 1
        if self._translator is None or self._turn is None:
            return
        update = params.get("update")
        if method == "session/update" and isinstance(update, dict):
            self._translator.update(update, line)
        else:
            self._turn.emit("unparsed", line=line)

    async def permission(self, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request to allow a tool call: yes in a turn that asks nobody. It is the
        only thing that is said of such a call's start.
        """
        call, options, translator = params.get("toolCall"), params.get("options"), self._translator
        if translator is None or not isinstance(call, dict):
            return answer(options, "deny")
        translator.tool(call)
        if self._ask is None:
            return answer(options, "allow")
        waiting = asyncio.ensure_future(self._ask(question(call)))
        self._asking.add(waiting)
        try:
            verdict = await waiting
        except asyncio.CancelledError:  # the turn is over
            return answer(options, "cancel")
        finally:
            self._asking.discard(waiting)
        if verdict == "deny":
            translator.denied(call)
        return answer(options, verdict)

    def unreadable(self, line: str) -> None:
        if self._turn is not None:
            self._turn.emit("unparsed", line=line)

    def line_dropped(self, size: int) -> None:
        if self._turn is not None:
            self._turn.emit(
                "truncated", scope="line", limit_bytes=LINE_MAX_BYTES, dropped_bytes=size
            )

    def died(self, reason: str) -> None:
        self.end(reason)

    async def _run(
        self, content: list[dict[str, str]], model: str, translator: TurnTranslator
    ) -> Outcome:
        request = self._process.connection.request
        here = {"sessionId": self._acp_session}
        try:
            if model != self._model:
                await request("session/set_model", {**here, "modelId": model})
                self._model = model
            mode = FREE if self._ask is None else ASKING
            if mode != self._mode:
                await request("session/set_mode", {**here, "modeId": mode})
                self._mode = mode
            if self._cancelled:
                return Outcome("cancelled")
            self._asked = True
            asking = {**here, "prompt": content}
            result = await request("session/prompt", asking, timeout_s=None)
            self._asked = False
        except RpcError as error:
            self._asked = False
            if self._cancelled:
                return Outcome("cancelled")
            return Outcome("error", self._read_error(error))
        except TimeoutError:
            return Outcome("error", RunError("provider_error", "Gemini did not answer"))
        answer = result if isinstance(result, dict) else {}
        translator.close()
        translator.usage(answer)
        stop = stop_reason(answer)
        if stop is None:
            said = f"unknown stop reason {answer.get('stopReason')!r:.100}"
            return Outcome("error", RunError("provider_error", said))
        return Outcome(stop)

    def _read_error(self, error: RpcError) -> RunError:
        code = error_code(error.code, error.message)
        lost_class = take_report(self._reports, MODEL_NOT_FOUND_CLASS, error.message)
        if code == "provider_error" and lost_class:
            code = "model_not_found"
        return RunError(code, readable(error.message))

    async def _tell_cancel(self) -> None:
        with contextlib.suppress(ConnectionLost):
            notify = self._process.connection.notify
            await notify("session/cancel", {"sessionId": self._acp_session})


def blocks(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt's content blocks; the user's text is the last, byte for byte."""
    text = {"type": "text", "text": prompt.text}
    images = [
        {
            "type": "image",
            "mimeType": one.attachment.media_type,
            "data": base64.b64encode(one.attachment.content).decode(),
        }
        for one in prompt.placed
        if one.attachment.is_image
    ]
    if prompt.placed:
        return [{"type": "text", "text": note(prompt.placed)}, *images, text]
    # What JavaScript's trim takes away and Python's does not is the byte order mark.
    if prompt.text.replace("\ufeff", " ").lstrip().startswith(_COMMAND_MARKS):
        return [{"type": "text", "text": _GUARD}, text]
    return [text]
