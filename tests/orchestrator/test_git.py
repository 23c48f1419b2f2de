"""Clones, and tokens for git hosts: checked, sealed, and at the gateway while they are needed."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from sqlalchemy import select, update

from hutch.app import Hutch
from hutch.store.tables import git_tokens
from tests.orchestrator.conftest import Api, World, new_user, run_to_end

TOKEN = "ghp_of-the-users-55d1"
BASIC = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
URL = "https://git.example.org/team/letters.git"
OK = {"outcome": "ok", "commit": "a" * 40, "branch": "main", "bytes": 4711}


def put_in(world: World, user_id: str) -> dict[str, tuple[str, str]]:
    """The gateway's paths of this user: where they lead, and what is put in."""
    (entry,) = [e for e in world.gateway.table._by_sandbox.values() if e.user_id == user_id]
    return {
        name: (remote.url, remote.headers[0][1].reveal()) for name, remote in entry.remotes.items()
    }


async def clone(api: Api, key: str, **asked: Any) -> tuple[int, Any]:
    return await api("POST", "/v1/git/clone", key, json={"url": URL, **asked})


async def test_a_token_is_kept_shown_by_its_host_alone_and_at_the_gateway(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    other = await new_user(hutch, "another")
    for user in (user_id, other):
        await run_to_end(hutch, user)
    path = "/v1/git/credentials/Git.Example.org:443"
    status, said = await api("PUT", path, key, json={"token": TOKEN})
    assert (status, said["host"], said["username"]) == (200, "git.example.org", "x-access-token")
    assert (await api("GET", "/v1/git/credentials", key))[1] == {"credentials": [said]}
    (row,) = await hutch.database.all(select(git_tokens))
    assert TOKEN.encode() not in row.sealed
    assert put_in(world, user_id) == {"git/git.example.org": ("https://git.example.org", BASIC)}
    assert put_in(world, other) == {}
    again = {"token": "other", "username": "x-token-auth"}
    assert (await api("PUT", path, key, json=again))[0] == 200
    assert put_in(world, user_id)["git/git.example.org"][1] != BASIC
    assert (await api("DELETE", path, key))[0] == 204
    assert (await api("DELETE", path, key))[0] == 404
    assert put_in(world, user_id) == {}


async def test_a_token_given_with_a_clone_is_there_for_as_long_as_that_takes(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    seen: list[dict[str, tuple[str, str]]] = []
    world.runtime.cloning = lambda: seen.append(put_in(world, user_id))
    world.runtime.clone_says = OK
    status, said = await clone(api, key, token=TOKEN, depth=1, branch="main")
    assert status == 200, said
    assert said == {"commit": "a" * 40, "branch": "main", "directory": "letters", "bytes": 4711}
    assert seen == [{"git/git.example.org": ("https://git.example.org", BASIC)}]
    assert put_in(world, user_id) == {}
    assert await hutch.database.all(select(git_tokens)) == []
    (told,) = world.runtime.clones
    assert TOKEN not in str(told)
    assert (told["url"], told["token"], told["keep"]) == (URL, True, False)
    await api("PUT", "/v1/git/credentials/git.example.org", key, json={"token": "kept"})
    await clone(api, key, token=TOKEN)
    assert seen[1]["git/git.example.org"][1] == BASIC
    assert put_in(world, user_id)["git/git.example.org"][1] != BASIC
    await clone(api, key)
    assert [told["keep"] for told in world.runtime.clones] == [False, True, True]


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [("exists", 409, "directory_exists"), ("not_found", 404, "repository_not_found"),
     ("branch_not_found", 404, "repository_not_found"), ("auth_failed", 422, "git_auth_failed"),
     ("not_allowed", 403, "host_not_allowed"), ("too_large", 413, "repository_too_large"),
     ("timeout", 504, "git_timeout"), ("unreachable", 502, "git_failed"),
     ("failed", 502, "git_failed"), ("nonsense", 502, "git_failed")],
)  # fmt: skip
async def test_what_went_wrong_has_a_code(
    world: World, api: Api, key: str, *, outcome: str, status: int, code: str
) -> None:
    world.runtime.clone_says = {"outcome": outcome, "message": "fatal: \x1b[2Jno"}
    answered, said = await clone(api, key)
    assert (answered, said["error"]["code"]) == (status, code)
    assert "\x1b" not in said["error"]["message"]


@pytest.mark.parametrize(
    "says",
    [{}, {"outcome": ["ok"]}, {"outcome": "failed", "message": {"a": 1}}],
)
async def test_a_container_that_says_nonsense(
    world: World, api: Api, key: str, says: dict[str, Any]
) -> None:
    world.runtime.clone_says = says
    assert (await clone(api, key))[0] == 502


async def test_nonsense_about_a_clone_is_left_out(world: World, api: Api, key: str) -> None:
    world.runtime.clone_says = {"outcome": "ok", "commit": "../x", "branch": 7, "bytes": -1}
    status, said = await clone(api, key)
    assert (status, said["commit"], said["branch"], said["bytes"]) == (200, None, None, 0)


@pytest.mark.parametrize(
    "asked",
    [*({"url": url} for url in
       ("http://git.example.org/a", "file:///etc", "ext::sh", "-u", "ssh://git@example.org/a",
        "https://a:b@example.org/a", "https://example.org", "https://example.org/", "git@x.org:a",
        "https://example.org/a/../b", "https://example.org/a?b", "https://example.org/a#b",
        "https://example.org:25/a", "https://[::1]/a", "https://0x7f.1/a", "https://exa mple.org/a",
        "https://example.org/%2e%2e/a", "https://example.org/a\nb", "https://b\u00fccher.example/a",
        "https://example.org/.git")),
     *({"directory": directory} for directory in
       ("../a", "/etc", "a/../../b", "-a", "a/-b", ".git", "a/.GIT/hooks", ".", "", "a//b", "a\nb",
        ".hutch-clone-1", "a/" * 9 + "b")),
     *({"branch": branch} for branch in ("-u", "--upload-pack=x", "a..b", "a b", "")),
     {"depth": 0}, {"timeout_s": 601}, {"timeout_s": 0}, {"token": "a\nb"}, {"token": ""},
     {"token": "x", "username": "a:b"}],
)  # fmt: skip
async def test_what_git_could_take_for_something_else_is_refused(
    world: World, api: Api, key: str, asked: dict[str, Any]
) -> None:
    status, said = await clone(api, key, **asked)
    if asked == {"directory": ""}:  # as if it was left out
        return
    assert (status, said["error"]["code"]) == (400, "invalid_request"), said
    assert world.runtime.clones == []


async def test_a_token_that_does_not_open_keeps_nothing_from_working(
    world: World, hutch: Hutch, api: Api, user_id: str, key: str
) -> None:
    for host in ("a.example.org", "b.example.org:8443"):
        await api("PUT", f"/v1/git/credentials/{host}", key, json={"token": TOKEN})
    broken = update(git_tokens).where(git_tokens.c.host == "a.example.org")
    await hutch.database.write(broken.values(sealed=b"\x01" + bytes(40)))
    await run_to_end(hutch, user_id)
    assert put_in(world, user_id).keys() == {"git/b.example.org:8443"}
