"""Who is asking: the address decides, the placeholder only where an address is shared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import aiohttp
import pytest
from aiohttp import web

from hutch.gateway.base import FakeGateway
from tests.gateway.conftest import Setup


async def test_the_source_address_decides(setup: Setup) -> None:
    for address, user in (("127.0.0.2", "user_a"), ("127.0.0.3", "user_b")):
        async with setup.session(address) as http:
            # Whatever it claims: even the other one's placeholder, even the real key.
            claim = {"x-api-key": "placeholder-sbx_b", "authorization": "Bearer real-claude-user_a"}
            async with http.post(f"{setup.base}/claude/v1/messages", headers=claim) as response:
                assert response.status == 200
                assert await response.text() == "from upstream"
        assert setup.upstream.seen.pop().values("x-api-key") == [f"real-claude-{user}"]


async def test_an_unknown_address_gets_nothing(setup: Setup) -> None:
    for first in (b"GET /claude/v1/messages HTTP/1.1\r\nHost: h\r\n\r\n", b"CONNECT", b""):
        began = time.perf_counter()
        with contextlib.suppress(ConnectionError):
            assert await setup.raw("127.0.0.4", first) == b""
        assert time.perf_counter() - began < 1
    assert setup.upstream.seen == []


async def test_on_the_shared_address_the_placeholder_decides(setup: Setup) -> None:
    for name in ("p", "q"):
        await setup.control.put(setup.entry("127.0.0.1", f"user_{name}", sandbox=f"sbx_{name}"))
    async with setup.session("127.0.0.1") as http:
        for header, value, status in (
            ("x-api-key", "placeholder-sbx_p", 200),
            ("X-Goog-Api-Key", "placeholder-sbx_p", 200),
            ("Authorization", "Bearer placeholder-sbx_p", 200),
            ("authorization", "bearer placeholder-sbx_p", 200),
            ("x-api-key", "placeholder-sbx_p ", 200),  # HTTP trims it
            ("x-api-key", "placeholder-sbx_", 403),
            ("x-api-key", "placeholder-sbx_pp", 403),
            ("x-api-key", "Placeholder-sbx_p", 403),
            ("x-api-key", "placeholder-sbx_a", 403),  # of a sandbox with an address of its own
            ("authorization", "placeholder-sbx_p", 403),
            ("accept", "*/*", 403),
        ):
            async with http.get(f"{setup.base}/claude/x", headers={header: value}) as response:
                assert response.status == status, (header, value)
                if status == 200:
                    assert setup.upstream.seen.pop().values("x-api-key") == ["real-claude-user_p"]
        async with http.get(f"{setup.base}/gemini/x?key=placeholder-sbx_q&a=b") as response:
            assert response.status == 200
    seen = setup.upstream.seen.pop()
    assert seen.values("x-goog-api-key") == ["real-gemini-user_q"]
    assert seen.target == "/base/x?a=b"


async def test_a_reused_address_belongs_to_its_new_sandbox(setup: Setup) -> None:
    await setup.control.put(setup.entry("127.0.0.2", "user_c", sandbox="sbx_c"))
    await setup.control.remove("sbx_a", "inc_of_sbx_a")  # comes late: must not take it away
    async with setup.session("127.0.0.2") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    assert setup.upstream.seen.pop().values("x-api-key") == ["real-claude-user_c"]


async def test_what_a_dead_sandbox_asked_for_ahead_is_not_its_successors(setup: Setup) -> None:
    """It sends two requests at once; while the first waits for its answer, the sandbox ends and its
    address goes to another user's.
    """
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slowly(_: web.BaseRequest) -> web.StreamResponse:
        setup.upstream.handler = None
        asked.set()
        await answer.wait()
        return web.Response(text="late")

    setup.upstream.handler = slowly
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", setup.gateway.port, local_addr=("127.0.0.2", 0)
    )
    writer.write(b"".join(b"POST /claude/%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(3)))
    await asked.wait()
    await setup.control.remove("sbx_a", "inc_of_sbx_a")
    await setup.control.put(setup.entry("127.0.0.2", "user_c", sandbox="sbx_c"))
    answer.set()
    said = await reader.readuntil(b"late")
    said += await reader.readuntil(b"403")
    writer.close()
    assert said.startswith(b"HTTP/1.1 200")
    assert "user_c" not in repr(setup.upstream.seen)
    # Its successor's own connections are its own.
    async with setup.session("127.0.0.2") as http, http.get(f"{setup.base}/claude/x") as response:
        assert response.status == 200
    assert setup.upstream.seen.pop().values("x-api-key") == ["real-claude-user_c"]


async def test_a_late_removal_spares_the_next_incarnation(setup: Setup) -> None:
    await setup.control.put(setup.entry("127.0.0.5", incarnation="inc_2"))
    await setup.control.remove("sbx_a", "inc_of_sbx_a")
    async with setup.session("127.0.0.5") as http:
        async with http.get(f"{setup.base}/codex/x") as response:
            assert response.status == 200
        await setup.control.remove("sbx_a", "inc_2")
        # On a connection that it still has, too.
        async with http.get(f"{setup.base}/codex/x") as response:
            assert response.status == 403
    for address in ("127.0.0.2", "127.0.0.5"):
        async with setup.session(address) as http:
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.get(f"{setup.base}/codex/x")


async def test_without_a_user_or_a_credential(setup: Setup) -> None:
    await setup.control.put(setup.entry("127.0.0.2", None))
    bare = setup.entry("127.0.0.3", "user_b", sandbox="sbx_b")
    bare.routes.clear()  # type: ignore[attr-defined]  # a dict in this test
    await setup.control.put(bare)
    messages = []
    for address in ("127.0.0.2", "127.0.0.3"):
        async with setup.session(address) as http:
            async with http.post(f"{setup.base}/claude/v1/messages", data=b"{}") as response:
                assert response.status == 403
                said = json.loads(await response.text())
                assert (said["type"], said["error"]["type"]) == ("error", "permission_error")
                messages.append(said["error"]["message"])
            async with http.post(f"{setup.base}/codex/v1/responses", data=b"{}") as response:
                said = json.loads(await response.text())
                assert said["error"]["type"] == "permission_error"
            async with http.post(f"{setup.base}/gemini/v1beta/x", data=b"{}") as response:
                said = json.loads(await response.text())
                assert (said["error"]["code"], said["error"]["status"]) == (
                    403,
                    "PERMISSION_DENIED",
                )
    assert "has no user yet" in messages[0]
    assert "no credential for claude is stored: PUT /v1/credentials/claude" in messages[1]
    assert setup.upstream.seen == []


async def test_before_the_first_table_it_waits_and_then_says_so(unsynced: Setup) -> None:
    async with unsynced.session("127.0.0.2") as http:
        async with http.get(f"{unsynced.base}/claude/x") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "2"
        # One entry is not the table: who is missing could be somebody's.
        await unsynced.control.put(unsynced.entry("127.0.0.2"))
        waiting = asyncio.ensure_future(http.get(f"{unsynced.base}/claude/x"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await unsynced.control.put_table([unsynced.entry("127.0.0.2")])
        async with await waiting as response:
            assert response.status == 200


async def test_the_table_changes_under_load(setup: Setup) -> None:
    """No request is lost, none sees half a table, while it is replaced again and again."""
    seen: set[str] = set()
    done = asyncio.Event()

    async def ask() -> int:
        count = 0
        async with setup.session("127.0.0.2") as http:
            while not done.is_set():
                async with http.get(f"{setup.base}/claude/x") as response:
                    assert response.status == 200
                    await response.read()
                count += 1
                seen.update(setup.upstream.seen.pop().values("x-api-key"))
        return count

    asking = [asyncio.ensure_future(ask()) for _ in range(4)]
    for number in range(100):
        await setup.control.put_table(
            [
                setup.entry("127.0.0.2", f"user_{number}"),
                *(setup.entry(f"127.0.1.{n}", sandbox=f"sbx_{n}") for n in range(50)),
            ]
        )
    done.set()
    assert sum(await asyncio.gather(*asking)) > 50
    assert len(seen) > 10
    assert seen <= {f"real-claude-user_{n}" for n in range(100)} | {"real-claude-user_a"}


def test_the_fake_forgets_when_it_restarts() -> None:
    fake = FakeGateway()
    before = fake.table
    fake.restart()
    assert fake.table is not before
