"""``hutch mcp``: tools by which another agent starts runs, reads them and ends them.

Standard output is the protocol's; nothing else is written there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import wraps
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field
from pydantic_core import to_jsonable_python

from hutch.client import AsyncClient, ClientError
from hutch.client import events as ev
from hutch.client.models import Run

P = ParamSpec("P")
T = TypeVar("T")

_TEXT_MAX: Final = 100_000  # characters of an answer; what reads it pays for each
_READS: Final = ToolAnnotations(read_only_hint=True)
_INSTRUCTIONS: Final = (
    "Runs prompts with Claude Code, Codex CLI or Gemini CLI in an isolated container of the user's "
    "own. `run` waits for the answer; go on with its session_id. For long work use wait_s=0, then "
    "`get_run`."
)

Provider = Annotated[Literal["claude", "codex", "gemini"], Field(description="Which agent.")]
RunId = Annotated[str, Field(description="run_…")]
Wait = Annotated[float, Field(ge=0, description="Wait for its end, at most so many seconds.")]


def server(client: AsyncClient) -> MCPServer[Any]:
    made: MCPServer[Any] = MCPServer(
        "hutch", version=version("hutch"), instructions=_INSTRUCTIONS, log_level="ERROR"
    )

    @made.tool(annotations=ToolAnnotations(destructive_hint=True, open_world_hint=True))
    @_told
    async def run(  # noqa: PLR0917  the protocol passes them by name
        context: Context[Any, Any],
        provider: Provider,
        prompt: str,
        session_id: Annotated[
            str | None, Field(description="Go on with this conversation; new if left out.")
        ] = None,
        model: Annotated[str | None, Field(description="The CLI's default if left out.")] = None,
        wait_s: Wait = 300,
        timeout_s: Annotated[
            float | None,
            Field(
                gt=0, description="End it after so many seconds; the service's limit if left out."
            ),
        ] = None,
    ) -> dict[str, Any]:
        """Run a prompt in the user's container; `text` is the answer once it has succeeded."""
        submitting = asyncio.create_task(
            client.submit(provider, prompt, session_id=session_id, model=model, timeout_s=timeout_s)
        )
        try:
            begun = await asyncio.shield(submitting)
        except asyncio.CancelledError:  # it may be accepted all the same
            _forget(client, submitting)
            raise
        if wait_s:
            await _followed(client, context, begun.id, wait_s)
        return _shown(await client.get_run(begun.id))

    @made.tool(annotations=_READS)
    @_told
    async def get_run(run_id: RunId, wait_s: Wait = 0) -> dict[str, Any]:
        """The state of a run, and its answer once it has ended."""
        return _shown(await client.get_run(run_id, wait_s=min(wait_s, 60)))

    @made.tool()
    @_told
    async def cancel_run(run_id: RunId) -> dict[str, Any]:
        """End a run; its session goes on."""
        return _shown(await client.cancel(run_id))

    @made.tool(annotations=_READS)
    @_told
    async def list_runs(
        session_id: str | None = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """The latest runs, newest first, with a beginning of each answer."""
        page = await client.run_page(limit=limit, session_id=session_id)
        return {"runs": [{**_shown(run), "text": run.text[:200]} for run in page.runs]}

    @made.tool(annotations=_READS)
    @_told
    async def list_sessions(limit: Annotated[int, Field(ge=1, le=100)] = 20) -> dict[str, Any]:
        """Conversations that can be gone on with, last used first."""
        return {"sessions": to_jsonable_python(await client.sessions(limit=limit))}

    @made.tool(annotations=_READS)
    @_told
    async def get_container() -> dict[str, Any]:
        """The user's container: its state, what it uses, and the versions of the CLIs in it."""
        found: dict[str, Any] = to_jsonable_python(await client.container())
        return found

    return made


_forgetting: set[asyncio.Task[None]] = set()


def _forget(client: AsyncClient, submitting: asyncio.Task[Run]) -> None:
    """End the run that comes of it, without anybody who waits."""

    async def forget() -> None:
        with suppress(ClientError):
            await client.cancel((await submitting).id)

    task = asyncio.create_task(forget())
    _forgetting.add(task)
    task.add_done_callback(_forgetting.discard)


async def _followed(
    client: AsyncClient, context: Context[Any, Any], run_id: str, wait_s: float
) -> None:
    """Until the run has ended or the time is over; what it does is reported as progress."""
    step = 0
    try:
        async with asyncio.timeout(wait_s):
            async for event in client.follow(run_id):
                match event:
                    case ev.ToolStarted(kind=kind, name=name):
                        step += 1
                        await context.report_progress(step, message=f"{kind}: {name}")
                    case ev.Queued(position=position):
                        await context.report_progress(step, message=f"number {position} in line")
    except TimeoutError:
        pass
    except asyncio.CancelledError:  # whoever asked has given up, and nobody else knows of the run
        await asyncio.shield(client.cancel(run_id))
        raise


def _shown(run: Run) -> dict[str, Any]:
    text = run.text
    if len(text) > _TEXT_MAX:
        text = f"{text[:_TEXT_MAX]}\n… ({len(text) - _TEXT_MAX} characters were left out)"
    return {
        "run_id": run.id,
        "session_id": run.session_id,
        "provider": run.provider,
        "state": run.state,
        "text": text,
        "error": to_jsonable_python(run.error),
        "usage": to_jsonable_python(run.usage),
    }


def _told(
    tool: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """What the service refuses, as an error that an agent can read."""

    @wraps(tool)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await tool(*args, **kwargs)
        except ClientError as error:
            raise ToolError(f"{error} {error.hint}".strip()) from None

    return told
