"""A run ends when any client asks for it, whatever it is at; and after the time that one set."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import acp
import mcp
import pytest

from hutch.app import Hutch
from hutch.bridges.acp_agent import Conversation, HutchAgent
from hutch.bridges.mcp_server import server
from hutch.client import AsyncClient, Client
from hutch.runs.models import Run
from tests.orchestrator.conftest import Api, World, new_user, run_to_end, serving
from tests.orchestrator.runtime import asks, waits_for_cancel
from tests.orchestrator.test_hanging_engine import BackendThatHangs

State: TypeAlias = Literal["queued", "starting", "running", "asking"]
STATES: tuple[State, ...] = ("queued", "starting", "running", "asking")
HUTCH = Path(sys.executable).with_name("hutch")


@dataclass
class Place:
    """Where the next run of this user gets no further than ``state``."""

    hutch: Hutch
    api: Api
    key: str
    user_id: str
    state: State
    session_id: str | None
    before: str | None  # the run that was there first

    @property
    def options(self) -> dict[str, Any]:
        mode = "ask" if self.state == "asking" else None
        return {"session_id": self.session_id, "permission_mode": mode}

    async def arrived(self) -> Run:
        """The run, once it is in that state."""
        async with asyncio.timeout(20):
            while True:
                runs = await self.hutch.runs.page(
                    self.user_id, session_id=None, before=None, limit=1
                )
                if runs and runs[0].id != self.before and await self._is_there(runs[0]):
                    return runs[0]
                await asyncio.sleep(0.02)

    async def _is_there(self, run: Run) -> bool:
        if self.state == "asking":
            return bool(await self.hutch.runs.approvals(self.user_id, run.id))
        return run.state == ("running" if self.state == "running" else "queued")

    async def is_cancelled(self, run: Run) -> None:
        async with asyncio.timeout(20):
            ended = await self.hutch.runs.finished(self.user_id, run.id)
        assert (ended.state, ended.stop_reason) == ("cancelled", "cancelled")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Of one kind: what is tried here is before it."""
    return f"sqlite:///{tmp_path / 'hutch.db'}"


@pytest.fixture(params=STATES)
async def place(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    state: State = request.param
    async with at(world, state) as found:
        yield found


@asynccontextmanager
async def at(world: World, state: State) -> AsyncIterator[Place]:
    backend = BackendThatHangs(world.backend.port, world.settings.instance)
    async with replace(world, backend=backend).orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        key = (await hutch.accounts.create_key("user", user_id)).text
        async with serving(hutch) as api:
            place = Place(hutch, api, key, user_id, state, None, None)
            if state == "queued":
                world.runtime.script = waits_for_cancel
                asked = {"provider": "claude", "prompt": "first", "wait": 0}
                _, first = await api("POST", "/v1/runs", key, json=asked)
                place = replace(place, session_id=first["session_id"], before=first["id"])
            elif state == "starting":
                backend.answers.clear()
            else:
                place.before = (await run_to_end(hutch, user_id)).id
                world.runtime.script = asks if state == "asking" else waits_for_cancel
            try:
                yield place
            finally:
                backend.answers.set()
                if state == "queued" and place.before is not None:
                    await hutch.runs.cancel(user_id, place.before)
                    await hutch.runs.finished(user_id, place.before)


async def by_http(place: Place) -> Run:
    asked = {"provider": "claude", "prompt": "1", "wait": 0, **place.options}
    assert (await place.api("POST", "/v1/runs", place.key, json=asked))[0] == 200
    run = await place.arrived()
    assert (await place.api("POST", f"/v1/runs/{run.id}/cancel", place.key))[0] == 200
    return run


async def by_python(place: Place) -> Run:
    with Client(place.api.url, place.key) as client:
        await asyncio.to_thread(client.submit, "claude", "1", **place.options)
        run = await place.arrived()
        await asyncio.to_thread(client.cancel, run.id)
    return run


async def by_a_stream_of_python(place: Place) -> Run:
    with Client(place.api.url, place.key) as client:
        stream = client.stream("claude", "1", **place.options)
        reading = asyncio.create_task(asyncio.to_thread(lambda: list(stream)))
        run = await place.arrived()
        while not stream.run_id:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(stream.cancel)
        assert (await reading)[-1].raw["stop_reason"] == "cancelled"
    return run


async def by_asyncio(place: Place) -> Run:
    async with AsyncClient(place.api.url, place.key) as client:
        stream = client.stream("claude", "1", **place.options)

        async def read() -> str:
            return str([event async for event in stream][-1].raw["stop_reason"])

        reading = asyncio.create_task(read())
        run = await place.arrived()
        while not stream.run_id:
            await asyncio.sleep(0.02)
        await stream.cancel()
        assert await reading == "cancelled"
    return run


async def by_an_editor(place: Place) -> Run:
    class Editor:
        async def session_update(self, **_: Any) -> None: ...

        async def request_permission(self, **_: Any) -> Any:
            await asyncio.Event().wait()  # nobody looks

    async with AsyncClient(place.api.url, place.key) as client:
        agent = HutchAgent(client, "claude", mode=place.options["permission_mode"] or "auto")
        agent.on_connect(Editor())  # type: ignore[arg-type]  # as much as is needed
        session = (await agent.new_session()).session_id
        agent._conversations[session] = replace(
            agent._conversations[session], session_id=place.session_id
        )
        turn = asyncio.create_task(agent.prompt(session, [acp.text_block("1")]))
        run = await place.arrived()
        await agent.cancel(session)
        assert (await turn).stop_reason == "cancelled"
    return run


async def by_another_agent(place: Place) -> Run:
    async with AsyncClient(place.api.url, place.key) as client, mcp.Client(server(client)) as agent:
        asked = {"provider": "claude", "prompt": "1", "wait_s": 0, "session_id": place.session_id}
        await agent.call_tool("run", asked)
        run = await place.arrived()
        await agent.call_tool("cancel_run", {"run_id": run.id})
    return run


async def by_another_agent_that_gives_up(place: Place) -> Run:
    async with AsyncClient(place.api.url, place.key) as client, mcp.Client(server(client)) as agent:
        asked = {"provider": "claude", "prompt": "1", "session_id": place.session_id}
        call = asyncio.create_task(agent.call_tool("run", asked))
        run = await place.arrived()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await place.is_cancelled(run)
    return run


async def by_a_chat_client_that_goes_away(place: Place) -> Run:
    headers = {"x-hutch-session": place.session_id} if place.session_id else {}
    asked = {"model": "claude", "messages": [{"role": "user", "content": "1"}]}
    call = asyncio.create_task(
        place.api("POST", "/v1/chat/completions", place.key, json=asked, headers=headers)
    )
    run = await place.arrived()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return run


WAYS = (
    by_http,
    by_python,
    by_a_stream_of_python,
    by_asyncio,
    by_an_editor,
)


@pytest.mark.parametrize("way", WAYS)
async def test_cancel(place: Place, way: Callable[[Place], Awaitable[Run]]) -> None:
    await place.is_cancelled(await way(place))


@pytest.mark.parametrize(
    "way",
    [by_another_agent, by_another_agent_that_gives_up, by_a_chat_client_that_goes_away],
)
@pytest.mark.parametrize("place", ["queued", "starting", "running"], indirect=True)
async def test_cancel_of_who_cannot_be_asked(
    place: Place, way: Callable[[Place], Awaitable[Run]]
) -> None:
    await place.is_cancelled(await way(place))


@pytest.mark.parametrize("place", ["queued", "starting"], indirect=True)
async def test_ctrl_c(place: Place) -> None:
    session = ("--session", place.session_id) if place.session_id else ()
    # A shell's background jobs ignore SIGINT, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await asyncio.create_subprocess_exec(
        *(HUTCH, "run", "claude", "1", *session),
        env={**os.environ, "HUTCH_URL": place.api.url, "HUTCH_API_KEY": place.key},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    run = await place.arrived()
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"Traceback" not in said
    await place.is_cancelled(run)


async def test_an_editor_cancels_what_it_finds_under_way(world: World) -> None:
    class Editor:
        async def session_update(self, **_: Any) -> None: ...

    async with at(world, "running") as place, AsyncClient(place.api.url, place.key) as client:
        begun = await client.submit("claude", "1")
        run = await place.arrived()
        agent = HutchAgent(client, "claude")
        agent.on_connect(Editor())  # type: ignore[arg-type]  # as much as is needed
        loading = asyncio.create_task(agent.load_session(begun.session_id))
        while begun.session_id not in agent._conversations:
            await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            while not loading.done():
                await agent.cancel(begun.session_id)
                await asyncio.sleep(0.05)
        await place.is_cancelled(run)


@pytest.mark.parametrize("place", ["starting", "running"], indirect=True)
async def test_each_way_takes_a_time_limit(place: Place) -> None:
    async def mcp_run(client: AsyncClient) -> None:
        async with mcp.Client(server(client)) as agent:
            await agent.call_tool("run", {"provider": "claude", "prompt": "1", "timeout_s": 0.3})

    async def acp_prompt(client: AsyncClient) -> None:
        agent = HutchAgent(client, "claude", timeout_s=0.3)
        agent._conversations["a"] = Conversation()
        agent.on_connect(type("Editor", (), {"session_update": _nothing})())
        with pytest.raises(acp.RequestError) as refused:
            await agent.prompt("a", [acp.text_block("1")])
        told: Any = refused.value.data
        assert told["code"] == "timeout"

    async def chat(_: AsyncClient) -> None:
        asked = {"model": "claude", "messages": [{"role": "user", "content": "1"}]}
        headers = {"x-hutch-timeout": "0.3"}
        status, answer = await place.api(
            "POST", "/v1/chat/completions", place.key, json=asked, headers=headers
        )
        assert (status, answer["error"]["code"]) == (504, "timeout")

    async with AsyncClient(place.api.url, place.key) as client:
        for ask in (mcp_run, acp_prompt, chat):
            async with asyncio.timeout(20):
                await ask(client)
            [run] = await place.hutch.runs.page(
                place.user_id, session_id=None, before=None, limit=1
            )
            assert (run.state, run.error_code, run.timeout_s) == ("failed", "timeout", 0.3)


async def _nothing(*_: Any, **__: Any) -> None: ...
