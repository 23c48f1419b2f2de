"""Terminals through the API, on real PTYs, and a container that lies about them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from hutch.api import terminal_websocket
from hutch.app import Hutch
from hutch.client import AsyncClient, Client
from hutch.client import NotFound as NotThere
from hutch.client.terminals import Notice
from hutch.errors import NotFound
from hutch.terminals import service as terminals_module
from hutch_runtime import frames
from hutch_runtime.frames import OUTPUT_WINDOW_BYTES
from tests.orchestrator.conftest import Api, World, new_user, serving
from tests.orchestrator.terminals import a_runtime, shell


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Of one kind: nothing of a terminal is stored."""
    return f"sqlite:///{tmp_path / 'hutch.db'}"


@pytest.fixture(autouse=True)
async def runtime(world: World, tmp_path: Path) -> AsyncIterator[None]:
    async with a_runtime(tmp_path) as port:
        world.backend.port = port
        yield


async def rests(hutch: Hutch, user_id: str) -> bool:
    return await hutch.sandboxes.rest(await hutch.sandboxes.of(user_id), "frozen")


async def none_left(hutch: Hutch, user_id: str) -> None:
    async with asyncio.timeout(10):
        while hutch.uses.count(user_id, "terminals"):
            await asyncio.sleep(0.01)


async def opened(api: Api, key: str, *command: str, **fields: Any) -> str:
    body = {"command": list(command) or None, **fields}
    status, made = await api("POST", "/v1/terminals", key, json=body)
    assert status == 201, made
    terminal_id: str = made["id"]
    return terminal_id


async def audited(hutch: Hutch) -> list[dict[str, Any]]:
    lines = [json.loads(link.line) for link in await hutch.audit.oldest(after=0, limit=1000)]
    return [line for line in lines if "terminal" in line["action"]]


async def test_a_shell_from_its_beginning_to_its_end(
    hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    async with shell(api.url, key, rows=30, columns=90, term="xterm") as one:
        ready = await one.heard("ready")
        assert (ready["offset"], ready["lost"], ready["input"]) == (0, 0, 0)
        await one.type(b"stty size; echo $TERM\r")
        assert b"30 90\r\nxterm" in await one.until(b"xterm\r\n")
        await one.say("resize", rows=33, columns=91)
        await one.type(b"stty size\r")
        await one.until(b"33 91\r\n")
        assert (await one.heard("written"))["input"] > 0
        (listed,) = (await api("GET", "/v1/terminals", key))[1]["terminals"]
        assert (listed["id"], listed["attached"], listed["tty"]) == (ready["terminal"], True, True)
        assert not await rests(hutch, user_id)
        await one.type(b"exit 5\r")
        assert await one.the_end() == 1000
        assert one.said[-1] == {"type": "exit", "code": 5, "reason": ""}
    await none_left(hutch, user_id)
    # Whoever was cut off before they heard of the end.
    async with shell(api.url, key, terminal=ready["terminal"], after=one.offset - 1) as late:
        assert await late.the_end() == 1000
        assert (late.said[-1]["code"], late.output) == (5, one.output[-1:])
    assert (await api("GET", "/v1/terminals", key))[1] == {"terminals": []}
    assert await rests(hutch, user_id)
    line, _ = await audited(hutch)
    assert (line["action"], line["user"]) == ("WS /v1/terminal", user_id)
    assert line["target"] == {"terminal_id": ready["terminal"]}
    assert line["scope"] == "user"


async def test_come_back_to_also_after_a_restart(world: World) -> None:
    async with world.orchestrator() as first, serving(first) as api:
        user_id = await new_user(first, "someone")
        key = (await first.accounts.create_key("user", user_id)).text
        async with shell(api.url, key) as one:
            terminal_id = (await one.heard("ready"))["terminal"]
            await one.type(b"X=from-before; echo beg''un\r")
            await one.until(b"begun\r\n")
            await one.type(b"sleep 0.2; echo meanw''hile\r")
            await one.until(b"0.2")
            seen = one.offset
            # It is told that the service goes down.
            await first.terminals.close()
            assert await one.the_end() == 1012
            assert one.said[-1]["code"] == "unavailable"
    async with world.orchestrator() as second, serving(second) as api:
        (found,) = (await api("GET", "/v1/terminals", key))[1]["terminals"]
        assert (found["id"], found["attached"]) == (terminal_id, False)
        assert not await rests(second, user_id)
        async with shell(api.url, key, terminal=terminal_id, after=seen) as one:
            await one.until(b"meanwhile\r\n")
            assert one.ready["lost"] == 0
            assert one.ready["offset"] == seen
            await one.type(b"echo $X\r")
            await one.until(b"\nfrom-before\r\n")
            async with shell(api.url, key, terminal=terminal_id) as other:
                assert await one.the_end() == 4409
                assert b"begun" in await other.until(b"from-before")
        assert (await api("DELETE", f"/v1/terminals/{terminal_id}", key))[0] == 204
        assert (await api("DELETE", f"/v1/terminals/{terminal_id}", key))[0] == 404
        assert (await api("GET", "/v1/terminals", key))[1] == {"terminals": []}


async def test_who_may_not(
    hutch: Hutch, api: Api, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await opened(api, key, "sleep", "60")
    other = (await hutch.accounts.create_key("user", await new_user(hutch, "other"))).text
    made = (await api("POST", "/v1/keys", key, json={"name": "r", "read_only": True}))[1]
    reading = made["key"]

    async def refused(key: str = "", **options: Any) -> tuple[int | None, str]:
        async with shell(api.url, key, **options) as one:
            code = await one.the_end()
            assert [said["type"] for said in one.said] == ["error"]
            return code, one.said[0]["code"]

    assert await refused(other, terminal=mine) == (4404, "not_found")
    assert (await api("DELETE", f"/v1/terminals/{mine}", other))[0] == 404
    assert (await api("GET", "/v1/terminals", other))[1] == {"terminals": []}
    for nonsense in ("term_none", "", "../health", "%00", "x" * 2000):
        assert await refused(key, terminal=nonsense) == (4404, "not_found")
    assert await refused() == (4401, "unauthorized")
    assert await refused("hutch_user_no") == (4401, "unauthorized")
    assert await refused(key, headers={"x-hutch-user": "user_other"}) == (4403, "forbidden")
    assert await refused(reading) == (4403, "read_only_key")
    assert await refused(reading, terminal=mine) == (4403, "read_only_key")
    assert (await api("POST", "/v1/terminals", reading, json={}))[0] == 403
    assert (await api("POST", "/v1/tickets", reading, json={"terminal": True}))[0] == 403
    for bad in ({"after": "x"}, {"rows": 0}, {"columns": 1001}, {"rows": "1e3"}, {"term": "ü"}):
        assert await refused(key, **bad) == (4400, "invalid_request")
    bodies: tuple[dict[str, Any], ...] = (
        {"rows": 0},
        {"command": []},
        {"command": ["a\0"]},
        {"more": 1},
        {"tty": "x"},
    )
    for body in bodies:
        assert (await api("POST", "/v1/terminals", key, json=body))[0] == 400
    # A ticket is for one thing, once.
    run = (await api("POST", "/v1/tickets", key, json={"terminal": True}))[1]
    assert run["run_id"] is None
    protocols = ("hutch.terminal", run["ticket"])
    async with shell(api.url, terminal=mine, protocols=protocols) as one:
        await one.heard("ready")
        assert one.socket.protocol == "hutch.terminal"
    assert await refused(terminal=mine, protocols=protocols) == (4401, "unauthorized")
    assert (await api("POST", "/v1/tickets", key, json={}))[0] == 400
    both = {"terminal": True, "run_id": "run_x"}
    assert (await api("POST", "/v1/tickets", key, json=both))[0] == 400
    # A revoked key's shell does not stay.
    monkeypatch.setattr(terminal_websocket, "_KEY_LOOKED_AT_EVERY_S", 0.05)
    brief = (await api("POST", "/v1/keys", key, json={"name": "brief"}))[1]
    async with shell(api.url, brief["key"], terminal=mine) as one:
        await one.heard("ready")
        await api("DELETE", f"/v1/keys/{brief['id']}", key)
        assert await one.the_end() == 4401
    told = [(line["action"], line["result"]) for line in await audited(hutch)]
    assert sorted(told) == [
        ("POST /v1/terminals", "ok"),
        ("WS /v1/terminal", "ok"),
        ("WS /v1/terminal", "ok"),
    ]


async def test_limits(api: Api, key: str) -> None:
    for _ in range(4):
        last = await opened(api, key, "sleep", "60")
    status, answer = await api("POST", "/v1/terminals", key, json={})
    assert (status, answer["error"]["code"]) == (429, "too_many_uses")
    async with shell(api.url, key) as one:
        assert await one.the_end() == 4429
    await api("DELETE", f"/v1/terminals/{last}", key)
    await opened(api, key, "sleep", "60")


async def test_switched_off(world: World) -> None:
    world.settings = world.settings.model_copy(update={"terminals": 0})
    async with world.orchestrator() as hutch, serving(hutch) as api:
        key = (await hutch.accounts.create_key("user", await new_user(hutch, "x"))).text
        assert (await api("POST", "/v1/terminals", key, json={}))[0] == 403
        async with shell(api.url, key) as one:
            assert await one.the_end() == 4403


async def test_one_that_nobody_looks_at_ends_and_lets_its_container_rest(
    hutch: Hutch, api: Api, key: str, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals_module, "LOOK_EVERY_S", 0.05)
    await opened(api, key, "sleep", "0.5")
    assert not await rests(hutch, user_id)
    await none_left(hutch, user_id)
    assert await rests(hutch, user_id)


@pytest.mark.parametrize("says_what_it_saw", [False, True])
async def test_a_client_that_does_not_read_holds_up_its_program(
    hutch: Hutch, api: Api, key: str, user_id: str, *, says_what_it_saw: bool
) -> None:
    terminal_id = await opened(api, key, "yes", tty=False)

    async def produced() -> int:
        """Once it grows no more."""
        sandbox = await hutch.sandboxes.of(user_id)
        last = -1
        while last != (now := (await hutch.terminals._living(sandbox))[terminal_id]["offset"]):
            last = now
            await asyncio.sleep(0.4)
        return last

    async with shell(api.url, key, terminal=terminal_id) as slow:
        await slow.heard("ready")
        if says_what_it_saw:
            await slow.say("seen", offset=0)
            while len(slow.output) < OUTPUT_WINDOW_BYTES:
                await slow.read()
            await slow.say("seen", offset=0)
        most = OUTPUT_WINDOW_BYTES + 64 * 1024 if says_what_it_saw else 32 * 2**20
        before = await produced()
        if not says_what_it_saw:
            assert before < most
        else:
            await slow.say("seen", offset=slow.offset)
            await slow.until(b"y\ny\n")


async def test_what_a_client_may_not_say(api: Api, key: str) -> None:
    terminal_id = await opened(api, key, "sleep", "60")
    for text in (
        "",
        "x",
        "[]",
        "[" * 50_000,
        "{}",
        '{"type": "x"}',
        '{"type": "resize"}',
        '{"type": "resize", "rows": 0, "columns": 5}',
        '{"type": "resize", "rows": 5, "columns": 1e9}',
        '{"type": "seen", "offset": -1}',
    ):
        async with shell(api.url, key, terminal=terminal_id) as one:
            await one.socket.send_str(text)
            assert await one.the_end() == 4400, text
            assert one.said[-1]["type"] == "error"


async def test_when_its_container_ends(hutch: Hutch, api: Api, key: str, user_id: str) -> None:
    async with shell(api.url, key) as one:
        await one.heard("ready")
        ending = asyncio.create_task(hutch.sandboxes.destroy(user_id))
        assert await one.the_end() == 1011
        assert one.said[-1]["code"] == "sandbox_failed"
        assert "ended" in one.said[-1]["message"]
        await ending
    await none_left(hutch, user_id)
    with pytest.raises(NotFound):
        await hutch.terminals.end(user_id, one.ready["terminal"])


async def test_the_clients_lose_and_double_nothing_however_often_they_are_cut(
    api: Api, key: str
) -> None:
    content = random.randbytes(400_000)  # noqa: S311  any
    notices: list[str] = []

    def heard(notice: Notice) -> None:
        notices.append(notice.kind)

    async with (
        AsyncClient(api.url, key) as client,
        client.terminal(["cat"], tty=False, on_notice=heard) as cat,
    ):

        async def enter() -> None:
            await cat.send(content)
            await cat.end_input()

        entering = asyncio.create_task(enter())
        came = bytearray()
        cuts = 0
        async for data in cat:
            came += data
            if cuts < 8 and random.random() < 0.3 and cat._socket is not None:  # noqa: S311  anywhere
                cuts += 1
                cat._socket.transport.abort()
        await entering
    assert cuts > 0
    assert bytes(came) == content
    assert cat.exit is not None
    assert (cat.exit.code, cat.lost) == (0, 0)
    assert notices[:2] == ["broken", "back"]


async def test_the_client_that_waits(hutch: Hutch, api: Api, key: str, user_id: str) -> None:
    def use() -> tuple[str, bytes, int]:
        with Client(api.url, key) as client:
            with client.terminal(rows=20, columns=60) as one:
                one.resize(21, 61)
                one.send(b"stty size; exit 4\r")
                shown = b"".join(one)
                assert one.exit is not None
                code = one.exit.code
            with client.terminal(["sleep", "60"]) as left:
                left.detach()
            (found,) = client.terminals()
            with client.terminal(["sleep", "60"]):  # ended when it is left
                pass
            with client.terminal(terminal_id=found.id), pytest.raises(NotThere):
                client.terminal(terminal_id="term_none").__enter__()
            assert [one.id for one in client.terminals()] == [left.id]
            client.end_terminal(left.id)
            return left.id, shown, code

    _, shown, code = await asyncio.to_thread(use)
    assert b"21 61\r\n" in shown
    assert code == 4
    await none_left(hutch, user_id)


LIES = (
    b"\x07nonsense",
    b"\x00\xff\xff\xff\xff",
    frames.frame(frames.CONTROL, b"[]"),
    frames.frame(frames.CONTROL, b"[" * 50_000),
    frames.control("ready", offset=-1, lost=0, input=0, written=0),
    frames.control("ready", offset=0, lost="x", input=0, written=0),
    frames.control("ready", offset=0, lost=0, input=0),
    frames.control("exit", code=10**9, reason=""),
    frames.control("exit", code=0, reason=["x"]),
    frames.control("warning", ends_in_s="soon"),
    b"",
)


async def test_a_container_that_lies_is_cut_off(
    world: World, tmp_path: Path, api: Api, key: str
) -> None:
    lies = iter(LIES)

    async def attach(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": next(lies)})

    async with a_runtime(tmp_path, attach=attach) as port:
        world.backend.port = port
        terminal_id = await opened(api, key, "sleep", "60")
        for lie in LIES:
            async with shell(api.url, key, terminal=terminal_id) as one:
                assert await one.the_end() == 1011, lie
                assert one.output == b""
                assert not [said for said in one.said if said["type"] != "error"]
