"""One Codex thread: its turns, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final, Literal

from hutch_runtime.approvals import Verdict
from hutch_runtime.attachments import note
from hutch_runtime.jsonrpc import ConnectionLost, RpcError
from hutch_runtime.protocol import LINE_MAX_BYTES, StopReason
from hutch_runtime.providers.base import AgentDied, Ask, Outcome, Prompt, RunError, Turn
from hutch_runtime.providers.codex_approvals import answer, question
from hutch_runtime.providers.codex_events import TurnTranslator, read_totals
from hutch_runtime.providers.rpc_process import FAREWELL_TIMEOUT_S, RpcAgent, RpcProcess

Totals = tuple[int, int, int]
# Of a thread. untrusted: whatever is not known to change nothing is asked about.
FREE: Final = "never"
ASKING: Final = "untrusted"


class _Running:
    """The turn that runs now. Its id is known, and it can be interrupted, from ``turn/started``."""

    def __init__(self, turn: Turn, totals: Totals | None, ask: Ask | None) -> None:
        self.turn = turn
        self.ask = ask
        self.asking: set[asyncio.Future[Verdict]] = set()
        self.translator = TurnTranslator(turn.emit, totals)
        self.turn_id: str | None = None
        self.cancelled = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class CodexAgent(RpcAgent):
    def __init__(
        self,
        process: RpcProcess,
        session: str,
        *,
        resumed: Literal["resumed"] | None,
        model: str | None,
        default_model: str | None,
        totals: Totals | None,
    ) -> None:
        super().__init__(process, session, resumed)
        self.model = model  # that the thread uses now: a turn's model stays for those after it
        self.default_model = default_model
        self._totals = totals
        self._asks = False  # as the thread was told: it holds for later turns too
        self._running: _Running | None = None
        self._interrupts: set[asyncio.Task[None]] = set()

    async def prompt(self, prompt: Prompt, turn: Turn) -> Outcome:
        running = self._running = _Running(turn, self._totals, prompt.ask)
        params: dict[str, Any] = {"threadId": self.session, "input": content(prompt)}
        wanted = prompt.model or self.default_model
        if wanted != self.model:
            params["model"] = wanted
        if prompt.options.output_schema is not None:
            params["outputSchema"] = json.loads(prompt.options.output_schema)
        asks = prompt.ask is not None
        if asks != self._asks:
            params["approvalPolicy"] = ASKING if asks else FREE
        try:
            await self._process.connection.request("turn/start", params)
            self.model, self._asks = wanted, asks
            await running.ended
        except ConnectionLost as error:
            raise AgentDied(str(error)) from error
        except RpcError as error:
            return Outcome("error", RunError("provider_error", error.message))
        except TimeoutError:
            return Outcome("error", RunError("provider_error", "Codex did not take the prompt"))
        finally:
            for waiting in running.asking:
                waiting.cancel()
            running.translator.close()
            self._totals = running.translator.totals
            if running.ended.done():
                running.ended.exception()  # seen, or asyncio complains when both futures failed
            elif running.turn_id is not None:
                self._interrupt(running.turn_id)
            self._running = None
        return _outcome(running.translator)

    async def cancel(self) -> None:
        running = self._running
        if running is None or running.cancelled:
            return
        running.cancelled = True
        if running.turn_id is not None:
            self._interrupt(running.turn_id)

    async def approval(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request for approval: yes in a turn that asks nobody."""
        running = self._running
        if running is None or _turn_id(params) != running.turn_id:
            return answer(method, params, "deny")
        if running.ask is None:
            return answer(method, params, "allow")
        asked = question(method, params, running.translator.begun)
        waiting = asyncio.ensure_future(running.ask(asked))
        running.asking.add(waiting)
        try:
            return answer(method, params, await waiting)
        except asyncio.CancelledError:  # the turn is over
            return answer(method, params, "cancel")
        finally:
            running.asking.discard(waiting)

    async def close(self) -> None:
        if not self.end("closed"):
            return
        await self.cancel()
        await asyncio.gather(*self._interrupts)
        self._process.unlisten(self.session, self)
        await self._ask_quietly("thread/unsubscribe", {"threadId": self.session})

    def heard(self, method: str, params: dict[str, Any], line: str) -> None:
        running = self._running
        turn_id = _turn_id(params)
        if running is not None and method == "turn/started" and running.turn_id is None:
            running.turn_id = turn_id
            if running.cancelled and turn_id is not None:
                self._interrupt(turn_id)
        if running is not None and turn_id in {None, running.turn_id}:
            running.translator.take(method, params, line)
            if running.translator.status is not None and not running.ended.done():
                running.ended.set_result(None)
        elif method == "thread/tokenUsage/updated":
            # Of an earlier turn: Codex says it when a thread is resumed.
            self._totals = read_totals(params.get("tokenUsage"), "total") or self._totals
            if running is not None:
                running.translator.begin_from(self._totals)

    def unreadable(self, line: str) -> None:
        if self._running is not None:
            self._running.turn.emit("unparsed", line=line)

    def line_dropped(self, size: int) -> None:
        if self._running is not None:
            self._running.turn.emit(
                "truncated", scope="line", limit_bytes=LINE_MAX_BYTES, dropped_bytes=size
            )

    def died(self, reason: str) -> None:
        self.end(reason)
        if self._running is not None and not self._running.ended.done():
            self._running.ended.set_exception(ConnectionLost(reason))

    def _interrupt(self, turn_id: str) -> None:
        params = {"threadId": self.session, "turnId": turn_id}
        task = asyncio.get_running_loop().create_task(self._ask_quietly("turn/interrupt", params))
        self._interrupts.add(task)
        task.add_done_callback(self._interrupts.discard)

    async def _ask_quietly(self, method: str, params: dict[str, Any]) -> None:
        # Dead, or the turn ended by itself: there is nothing left to let go of.
        with contextlib.suppress(ConnectionLost, RpcError, TimeoutError):
            await self._process.connection.request(method, params, timeout_s=FAREWELL_TIMEOUT_S)


def content(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt's text as it is; images as such, and where the files are."""
    # "text_elements" are marks that a user interface would draw.
    texts = [note(prompt.placed), prompt.text] if prompt.placed else [prompt.text]
    images = [
        {"type": "localImage", "path": str(one.path)}
        for one in prompt.placed
        if one.attachment.is_image
    ]
    return [*images, *({"type": "text", "text": text, "text_elements": []} for text in texts)]


def _turn_id(params: dict[str, Any]) -> str | None:
    turn_id = params.get("turnId")
    turn = params.get("turn")
    if turn_id is None and isinstance(turn, dict):
        turn_id = turn.get("id")
    return turn_id if isinstance(turn_id, str) else None


def _outcome(translator: TurnTranslator) -> Outcome:
    text = translator.text
    stop: StopReason = "end_turn"
    if translator.status == "interrupted":
        stop = "cancelled"
    elif translator.status != "completed":
        failure = translator.failure
        if failure is not None and failure.refusal:
            stop = "refusal"
        else:
            error = (
                RunError(failure.code, failure.message)
                if failure is not None
                else RunError("provider_error", f"the turn ended as {translator.status}")
            )
            return Outcome("error", error, text)
    return Outcome(stop, None, text)
