"""Files over the API, from a client's socket to the runtime's: what comes through, what is refused,
and what a container that lies gets by with.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hutch.app import Hutch
from hutch.config import Settings
from hutch.files import service
from hutch.gateway.base import FakeGateway
from hutch_runtime.files.routes import FileRoutes
from hutch_runtime.files.tree import Tree
from hutch_runtime.identity import Identity
from tests.orchestrator.conftest import Api, World, new_user
from tests.orchestrator.runtime import ScriptedBackend, ScriptedRuntime

MEGABYTE = b"0123456789abcdef" * 65536


class FilesRuntime:
    """The real endpoints over real files; ``lies`` answers instead where it is set."""

    def __init__(self, root: Path) -> None:
        self.lies: Callable[[Request], Awaitable[Response]] | None = None
        self.asked = 0
        self._real = FileRoutes(Tree(root, Identity())).all()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        routes = [
            Route(path, self._either(endpoint), methods=[method])
            for path, method, endpoint in self._real
        ]
        routes.append(Route("/health", self._health))
        server = uvicorn.Server(
            uvicorn.Config(Starlette(routes=routes), port=0, log_level=60, lifespan="off")
        )
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
        server.should_exit = server.force_exit = True
        await task

    def _either(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self.asked += 1
            try:
                return await (self.lies or endpoint)(request)
            except ClientDisconnect:  # as the whole runtime does
                return Response(status_code=400)

        return answer

    async def _health(self, _: Request) -> Response:
        return JSONResponse(ScriptedRuntime().health)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


@pytest.fixture
def files_runtime(root: Path) -> FilesRuntime:
    return FilesRuntime(root)


@pytest.fixture
def database_url() -> str:
    """On one database: files are none of its business."""
    return ""


@pytest.fixture
async def world(
    tmp_path: Path, database_url: str, files_runtime: FilesRuntime
) -> AsyncIterator[World]:
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr(database_url),
        pool_size=0,
        workspace_mb=4,
    )
    async with files_runtime.serving() as port:
        backend = ScriptedBackend(port, settings.instance)
        yield World(settings, ScriptedRuntime(), backend, FakeGateway())


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"] if isinstance(answer[1], dict) else ""


def where(path: str, what: str = "/content", **more: str) -> str:
    query = "&".join(f"{name}={value}" for name, value in {"path": path, **more}.items())
    return f"/v1/files{what}?{query}"


async def test_a_file_there_and_back(api: Api, key: str) -> None:
    status, written = await api("PUT", where("a/b"), key, data=io.BytesIO(MEGABYTE))
    assert (status, written["size"]) == (201, len(MEGABYTE))
    assert api.headers["etag"] == written["etag"]
    assert (await api("PUT", where("a/b"), key, data=io.BytesIO(MEGABYTE)))[0] == 200
    status, text = await api("GET", where("/workspace/a/b"), key)
    assert (status, text) == (200, MEGABYTE.decode())
    assert api.headers["content-type"] == "application/octet-stream"
    assert api.headers["last-modified"].endswith("GMT")
    tag = api.headers["etag"]
    assert (await api("GET", where("a/b"), key, headers={"if-none-match": tag}))[0] == 304
    status, page = await api("GET", "/v1/files?path=a", key)
    assert [(e["name"], e["type"], e["etag"]) for e in page["entries"]] == [("b", "file", tag)]
    moved = {"path": "a/b", "to": "c"}
    assert (await api("POST", "/v1/files/move", key, json=moved))[0] == 204
    assert (await api("DELETE", where("c", ""), key))[0] == 204
    assert code(await api("GET", where("c"), key)) == (404, "file_not_found")
    assert code(await api("GET", where("a"), key)) == (400, "is_a_directory")


PARTS: list[tuple[dict[str, str], int, str, str | None]] = [
    ({"range": "bytes=2-4"}, 206, "cde", "bytes 2-4/10"),
    ({"range": "bytes=-3"}, 206, "hij", "bytes 7-9/10"),
    ({"range": "bytes=0-"}, 206, "abcdefghij", "bytes 0-9/10"),
    ({"range": "bytes=0-1,4-5"}, 200, "abcdefghij", None),
    ({"range": "lines=1-2"}, 200, "abcdefghij", None),
    ({"range": "bytes=4-2"}, 200, "abcdefghij", None),
    ({"range": "bytes=1-2", "if-range": '"other"'}, 200, "abcdefghij", None),
    ({"range": "bytes=1-2", "if-range": "Mon, 01 Jan 2024 00:00:00 GMT"}, 200, "abcdefghij", None),
]


async def test_parts(api: Api, key: str, root: Path) -> None:
    (root / "f").write_text("abcdefghij")
    for headers, status, text, shown in PARTS:
        assert await api("GET", where("f"), key, headers=headers) == (status, text), headers
        assert api.headers.get("content-range") == shown
    answer = await api("GET", where("f"), key, headers={"range": "bytes=10-"})
    assert code(answer) == (416, "invalid_range")


async def test_conditions(api: Api, key: str, root: Path) -> None:
    none, anything = {"if-none-match": "*"}, {"if-match": "*"}
    refused = (412, "precondition_failed")
    assert code(await api("PUT", where("f"), key, data=b"1", headers=anything)) == refused
    assert (await api("PUT", where("f"), key, data=b"1", headers=none))[0] == 201
    tag = api.headers["etag"]
    assert (
        code(await api("PUT", where("f"), key, data=io.BytesIO(MEGABYTE), headers=none)) == refused
    )
    assert (await api("PUT", where("f"), key, data=b"2", headers={"if-match": tag}))[0] == 200
    for old in (tag, "W/" + tag, "x"):
        answer = await api("PUT", where("f"), key, data=b"3", headers={"if-match": old})
        assert code(answer) == refused
    assert (root / "f").read_text() == "2"


async def test_size_errors_come_before(
    world: World, api: Api, key: str, root: Path, files_runtime: FilesRuntime
) -> None:
    large = bytes(5 << 20)
    answer = await api("PUT", where("f"), key, data=io.BytesIO(large))
    assert code(answer) == (413, "file_too_large")
    assert "4 MB" in answer[1]["error"]["message"]
    assert world.backend.specs == []  # nobody was woken for it

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield large[: 1 << 20]

    for what in ("/content", "/archive"):  # no length is said
        answer = await api("PUT", where("f", what), key, data=pieces())
        assert code(answer) in {(413, "file_too_large"), (400, "invalid_archive")}, answer
    await becomes_empty(root)
    for what, tags in (("/content", {"if-match": "*"}), ("/archive", {})):
        before = files_runtime.asked
        answer = await api(
            "PUT", where("f", what), key, data=io.BytesIO(b"x" * (3 << 20)), headers=tags
        )
        assert answer[0] in {400, 412}, "a refusal comes through to who is still sending"
        assert files_runtime.asked == before + 1
    await becomes_empty(root)


async def becomes_empty(root: Path) -> None:
    """A runtime whose connection breaks off clears up a moment later."""
    async with asyncio.timeout(10):
        while list(root.iterdir()):
            await asyncio.sleep(0.01)


async def test_archives(api: Api, key: str, root: Path) -> None:
    (root / "from").mkdir()
    (root / "from/x").write_bytes(MEGABYTE)
    async with api._http.get(
        api.url + where("from", "/archive"), headers={"authorization": f"Bearer {key}"}
    ) as response:
        packed = await response.read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == [".", "./x"]
    status, done = await api("PUT", where("to", "/archive"), key, data=io.BytesIO(packed))
    assert (status, done) == (200, {"entries": 1, "bytes": len(MEGABYTE)})
    assert (root / "to/x").read_bytes() == MEGABYTE
    answer = await api("PUT", where("to", "/archive"), key, data=b"no archive")
    assert code(answer) == (400, "invalid_archive")
    assert code(await api("GET", where("none", "/archive"), key)) == (404, "file_not_found")


async def test_a_path_that_is_none(world: World, api: Api, key: str) -> None:
    for path in ("../x", "/etc/passwd", "a%00b", "x" * 300):
        assert code(await api("GET", where(path), key)) == (400, "invalid_path")
    assert world.backend.specs == []


async def test_a_read_only_key_reads(hutch: Hutch, api: Api, user_id: str, root: Path) -> None:
    made = await hutch.accounts.create_key("user", user_id, read_only=True)
    (root / "f").write_text("x")
    assert (await api("GET", where("f"), made.text))[0] == 200
    for method, path in (
        ("PUT", where("f")),
        ("DELETE", where("f", "")),
        ("PUT", "/v1/files/archive"),
    ):
        assert code(await api(method, path, made.text)) == (403, "read_only_key")
    assert (root / "f").read_text() == "x"


async def test_who_is_on_the_way_keeps_the_container_awake_and_has_so_many(
    hutch: Hutch, api: Api, key: str, user_id: str, root: Path
) -> None:
    (root / "f").write_bytes(MEGABYTE * 4)
    other = await new_user(hutch, "other")
    readings = [await hutch.files.read(user_id, "f") for _ in range(service.AT_ONCE_MAX)]
    sandbox = await hutch.sandboxes.of(user_id)
    assert not await hutch.sandboxes.rest(sandbox, "frozen")
    assert code(await api("GET", "/v1/files", key)) == (429, "too_many_uses")
    await hutch.files.listing(other, "")
    for reading in readings:
        await reading.close()
    assert (await api("GET", "/v1/files", key))[0] == 200
    assert await hutch.sandboxes.rest(sandbox, "frozen")
    assert (await api("GET", "/v1/files", key))[0] == 200  # and it is woken for it


async def test_who_goes_in_the_middle_lets_go(
    hutch: Hutch, api: Api, key: str, user_id: str, root: Path
) -> None:
    (root / "f").write_bytes(b"before")
    sandbox = await hutch.sandboxes.ensure(user_id)
    begun = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield MEGABYTE
        begun.set()
        await asyncio.Event().wait()

    sending = asyncio.create_task(api("PUT", where("f"), key, data=pieces()))
    await begun.wait()
    sending.cancel()
    await asyncio.wait({sending})
    async with asyncio.timeout(10):
        while hutch.sandboxes.idle_since(sandbox) is None or len(list(root.iterdir())) > 1:
            await asyncio.sleep(0.01)
    assert (root / "f").read_bytes() == b"before"


async def test_a_container_that_ends_breaks_it_off(
    hutch: Hutch, api: Api, key: str, user_id: str, files_runtime: FilesRuntime
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await asyncio.Event().wait()

    async def lies(_: Request) -> Response:
        return StreamingResponse(endless())

    files_runtime.lies = lies
    async with api._http.get(
        api.url + where("", "/archive"), headers={"authorization": f"Bearer {key}"}
    ) as response:
        assert await response.content.read(1000) == b"x" * 1000
        await hutch.sandboxes.destroy(user_id)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


ENTRY = {
    "name": "f",
    "reachable": True,
    "type": "file",
    "size": 10,
    "modified": 1.0,
    "mode": 420,
    "tag": "ab",
    "target": None,
}


NONSENSE: list[Any] = [
    None,
    [],
    {**ENTRY, "name": "x" * 300},
    {**ENTRY, "size": -1},
    {**ENTRY, "size": "10"},
    {**ENTRY, "type": "gift"},
    {**ENTRY, "modified": "now"},
    {**ENTRY, "tag": 'a"\r\nset-cookie: x'},
    {**ENTRY, "target": 3},
    {**ENTRY, "mode": 4096},
]


async def test_nonsense_is_told_from_files(api: Api, key: str, files_runtime: FilesRuntime) -> None:
    entry: Any = None

    async def lies(request: Request) -> Response:
        if request.url.path == "/files":
            return JSONResponse({"entries": [entry], "next": None})
        return JSONResponse({"entry": entry})

    files_runtime.lies = lies
    for entry in NONSENSE:  # noqa: B007  what the lies are made of
        assert code(await api("GET", "/v1/files", key)) == (503, "unavailable")
        assert code(await api("PUT", where("f"), key, data=b"x")) == (503, "unavailable")


async def test_an_agent_may_set_any_time(api: Api, key: str, root: Path) -> None:
    (root / "f").write_text("x")
    for at in (-(2**40), 2**40, 2**33):
        os.utime(root / "f", (at, at))
        assert (await api("GET", "/v1/files", key))[0] == 200
        assert (await api("GET", where("f"), key))[0] == 200


async def test_lies_about_a_file_do_not_pass_for_it(
    api: Api, key: str, files_runtime: FilesRuntime
) -> None:
    said = {"x-hutch-file": json.dumps(ENTRY), "x-hutch-first": "0", "content-length": "10"}
    sent, headers = b"0123456789", said

    async def lies(_: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield sent

        return StreamingResponse(pieces(), headers=headers)

    files_runtime.lies = lies
    for lie in (
        {"x-hutch-first": "5"},
        {"x-hutch-first": "-1"},
        {"x-hutch-first": "one"},
        {"x-hutch-file": "[" * 5000},
        {"x-hutch-file": "{}"},
    ):
        headers = {**said, **lie}
        assert code(await api("GET", where("f"), key)) == (503, "unavailable")
    sent, headers = b"0123", said
    with pytest.raises(aiohttp.ClientPayloadError):
        await api("GET", where("f"), key)


async def test_an_older_image_is_named_as_the_reason(
    api: Api, key: str, files_runtime: FilesRuntime
) -> None:
    async def lies(_: Request) -> Response:
        return Response("Not Found", 404)

    files_runtime.lies = lies
    assert code(await api("GET", "/v1/files", key)) == (400, "not_supported")
