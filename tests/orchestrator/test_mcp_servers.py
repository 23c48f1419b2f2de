"""A user's MCP servers: kept sealed, known to their sandbox before a prompt, and to the gateway."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from hutch.app import Hutch
from hutch.store.tables import mcp_servers
from tests.orchestrator.conftest import Api, World, new_user, run_to_end

SECRET = "s3cret-of-the-users-7a1b"
FAR = {"url": "https://mcp.example.org/v1?team=7", "headers": {"Authorization": f"Bearer {SECRET}"}}
NOTES = {"command": "python3", "args": ["notes.py"], "env": {"TOKEN": SECRET}}
TOLD = {"name": "notes", "command": "python3", "args": ["notes.py"], "env": {"TOKEN": SECRET}}


async def put(api: Api, key: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    status, said = await api("PUT", f"/v1/mcp-servers/{name}", key, json=body)
    assert status == 200, said
    return dict(said)


async def test_it_is_stored_shown_without_secrets_and_deleted(
    hutch: Hutch, api: Api, key: str
) -> None:
    far = await put(api, key, "far", FAR)
    assert far["type"] == "http"
    assert (far["url"], far["headers"]) == ("https://mcp.example.org/v1", ["Authorization"])
    notes = await put(api, key, "notes", NOTES)
    assert (notes["type"], notes["env"], notes["args"]) == ("stdio", ["TOKEN"], ["notes.py"])
    status, page = await api("GET", "/v1/mcp-servers", key)
    assert (status, page) == (200, {"mcp_servers": [far, notes]})
    assert (await api("GET", "/v1/mcp-servers/far", key))[1] == far
    (row,) = await hutch.database.all(select(mcp_servers))
    assert SECRET.encode() not in row.sealed
    again = await put(api, key, "far", {**FAR, "headers": {}})
    assert (again["created_at"], again["headers"]) == (far["created_at"], [])
    assert (await api("DELETE", "/v1/mcp-servers/far", key))[0] == 204
    assert (await api("DELETE", "/v1/mcp-servers/far", key))[0] == 404
    assert (await api("GET", "/v1/mcp-servers/far", key))[0] == 404


@pytest.mark.parametrize(
    "body",
    [{}, {**FAR, **NOTES}, {"command": "x", "headers": {}, "url": None, "env": {"A=B": "x"}},
     {"command": ""}, {"command": "x", "headers": {"A": "b"}}, {"command": "a\0b"},
     {"command": "x", "env": {"A": "a\0b"}},
     *({"url": url} for url in ("ftp://example.org", "https://", "https://a@example.org/",
                                "https://example.org/#x", "https://example.org:25/", "https://0x7f.1/",
                                "https://exa mple.org/", "https://b\u00fccher.example/")),
     *({"url": "https://example.org", "headers": headers} for headers in
       ({"Host": "x"}, {"A b": "x"}, {"A": ""}, {"A": "a\nB: c"}, {"Transfer-Encoding": "x"}))],
)  # fmt: skip
async def test_what_could_not_work_or_does_harm_is_refused(
    api: Api, key: str, body: dict[str, Any]
) -> None:
    status, said = await api("PUT", "/v1/mcp-servers/some", key, json=body)
    assert (status, said["error"]["code"]) == (400, "invalid_request"), said
    assert SECRET not in str(said)
    assert (await api("GET", "/v1/mcp-servers", key))[1] == {"mcp_servers": []}


@pytest.mark.parametrize("name", ["A", "a_b", "-a", "a-", "a" * 33, "a.b", "a%2Fb"])
async def test_a_name_is_one_that_all_three_take(api: Api, key: str, name: str) -> None:
    assert (await api("PUT", f"/v1/mcp-servers/{name}", key, json=NOTES))[0] in {400, 404}


async def test_there_are_bounds(api: Api, key: str) -> None:
    large = {"command": "x", "args": ["y" * 4096] * 15}
    await put(api, key, "one", large)
    assert (await api("PUT", "/v1/mcp-servers/two", key, json=large))[0] == 400
    await api("DELETE", "/v1/mcp-servers/one", key)
    for number in range(20):
        await put(api, key, f"n{number}", {"command": "x"})
    status, said = await api("PUT", "/v1/mcp-servers/more", key, json={"command": "x"})
    assert (status, said["error"]["code"]) == (409, "conflict")
    await put(api, key, "n7", NOTES)  # in place of one


async def test_the_sandbox_is_told_before_the_next_prompt_and_once(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    await run_to_end(hutch, user_id)
    assert world.runtime.mcp_servers == [], "who has none costs nothing"
    await put(api, key, "notes", NOTES)
    await put(api, key, "far", FAR)
    await run_to_end(hutch, user_id)
    await run_to_end(hutch, user_id)
    # Of one outside it hears the name alone.
    assert world.runtime.mcp_servers[-1] == [{"name": "far"}, TOLD]
    told = len(world.runtime.mcp_servers)
    assert told <= 2
    await run_to_end(hutch, user_id)
    assert len(world.runtime.mcp_servers) == told
    for name in ("notes", "far"):
        await api("DELETE", f"/v1/mcp-servers/{name}", key)
    await run_to_end(hutch, user_id)
    assert world.runtime.mcp_servers[-1] == []


async def test_a_new_container_is_told_that_there_are_none_any_more(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    await put(api, key, "notes", NOTES)
    await run_to_end(hutch, user_id)
    await hutch.sandboxes.hibernate(user_id)  # its files have the server
    await api("DELETE", "/v1/mcp-servers/notes", key)
    async with world.orchestrator() as later:  # which remembers nothing of it
        world.runtime.mcp_servers.clear()
        await run_to_end(later, user_id)
    assert world.runtime.mcp_servers == [[]]


async def test_the_gateway_knows_the_secret_of_one_outside_and_of_nobody_elses(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    other = await new_user(hutch, "another")
    await put(api, key, "far", FAR)
    await put(api, key, "notes", NOTES)
    for user in (user_id, other):
        await run_to_end(hutch, user)
    entries = {entry.user_id: entry for entry in world.gateway.table._by_sandbox.values()}
    (remote,) = [entries[user_id].remotes["mcp/far"]]
    assert (remote.url, remote.headers[0][1].reveal()) == (FAR["url"], f"Bearer {SECRET}")
    assert entries[user_id].remotes.keys() == {"mcp/far"}
    assert entries[other].remotes == {}
    await api("DELETE", "/v1/mcp-servers/far", key)  # at once
    entries = {entry.user_id: entry for entry in world.gateway.table._by_sandbox.values()}
    assert entries[user_id].remotes == {}


async def test_an_older_image_says_so_to_those_alone_who_have_some(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    await run_to_end(hutch, user_id)
    world.runtime.knows_mcp = False
    await put(api, key, "notes", NOTES)
    run = await run_to_end(hutch, user_id)
    assert (run.state, run.error_code) == ("failed", "not_supported")


async def test_what_does_not_open_keeps_nothing_from_working(
    world: World, hutch: Hutch, api: Api, key: str, user_id: str
) -> None:
    await put(api, key, "notes", NOTES)
    await hutch.database.write(update(mcp_servers).values(sealed=b"\x01" + bytes(40)))
    run = await run_to_end(hutch, user_id)
    assert run.state == "succeeded"
    assert world.runtime.mcp_servers[-1] == []
