"""Logins inside the sandbox: the real Codex against a sign-in service of our own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hutch_runtime.agents import Pool
from hutch_runtime.home import Home
from hutch_runtime.logins.files import ABSENT_SHA256, Glance, LoginFile
from hutch_runtime.logins.service import Logins
from hutch_runtime.protocol import LOGIN_MAX_BYTES
from tests.logins.authority import Authority, moved_codex, running_authority
from tests.runtime.runtime_process import Runtime, running_runtime, until

AUTH = ".codex/auth.json"
CLAUDE = ".claude/.credentials.json"


@pytest.fixture
def authority() -> Iterator[Authority]:
    with running_authority() as running:
        yield running


@contextlib.asynccontextmanager
async def runtime_for(authority: Authority, directory: Path) -> AsyncIterator[Runtime]:
    async with running_runtime(
        directory, authority.url, prewarm="codex", HUTCH_CLI_CODEX=moved_codex(authority)
    ) as runtime:
        yield runtime


async def put(runtime: Runtime, login: Any, *, name: str = AUTH, to: str = "codex") -> int:
    content = login if isinstance(login, bytes) else json.dumps(login).encode()
    files = {name: base64.b64encode(content).decode()}
    return (await runtime.http.put(f"/logins/{to}", json={"files": files})).status_code


async def get(runtime: Runtime, *, after: str = ABSENT_SHA256, wait: int = 0) -> dict[str, Any]:
    answer = await runtime.http.get(f"/logins/codex?after={after}&wait={wait}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def content(found: dict[str, Any]) -> bytes:
    return base64.b64decode(found["files"][AUTH])


async def test_a_login_pays_and_its_renewal_is_told_at_once(
    authority: Authority, tmp_path: Path
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        assert await put(runtime, authority.sign_in()) == 200
        path = tmp_path / "home" / AUTH
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        events = await runtime.run("r1", "hello", provider="codex")
        assert events[-1]["stop_reason"] == "end_turn", events[-1]
        assert "model 200" in authority.calls
        given = await get(runtime)
        assert given["state"] == "present"
        assert (given["on"], given["taken"]) == (True, True)

        authority.expire()
        following = asyncio.create_task(get(runtime, after=given["sha256"], wait=20))
        session = events[0]["session"]
        events = await runtime.run("r2", "again", provider="codex", session=session)
        assert events[-1]["stop_reason"] == "end_turn", events[-1]
        renewed = await asyncio.wait_for(following, 5)
        assert authority.newest(content(renewed))
        assert renewed["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert renewed["history"] == [given["sha256"], renewed["sha256"]]


async def test_a_refused_renewal_is_an_error_of_the_credential(
    authority: Authority, tmp_path: Path
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        await put(runtime, authority.sign_in())
        authority.revoke()
        events = await runtime.run("r1", "hello", provider="codex")
        assert events[-1]["error"]["code"] == "provider_auth"


async def test_without_its_login_an_agent_pays_with_the_placeholder_again(
    authority: Authority, tmp_path: Path
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        await put(runtime, authority.sign_in())
        await runtime.run("r1", "hello", provider="codex")
        assert (await runtime.http.delete("/logins/codex")).status_code == 200
        assert not (tmp_path / "home" / AUTH).exists()
        assert (await get(runtime))["state"] == "absent"
        authority.calls.clear()
        events = await runtime.run("r2", "hello", provider="codex")
        assert events[-1]["error"]["code"] == "provider_auth"
        assert authority.calls.count("model 401") == len(authority.calls)


async def test_the_same_login_again_restarts_nothing(authority: Authority, tmp_path: Path) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        login = authority.sign_in()
        await put(runtime, login)
        await until(lambda health: health["agents"] and health["agents"][0]["pid"], runtime)
        before = (await runtime.health())["agents"][0]["pid"]
        await put(runtime, login)
        assert (await runtime.health())["agents"][0]["pid"] == before
        await put(runtime, authority.sign_in())
        await until(
            lambda h: [a["pid"] for a in h["agents"] if a["pid"]] not in ([], [before]), runtime
        )


async def test_nothing_but_a_login_is_taken(authority: Authority, tmp_path: Path) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        login = authority.sign_in()
        assert await put(runtime, login, name="../.codex/auth.json") == 400
        assert await put(runtime, login, name=".bashrc") == 400
        assert await put(runtime, b"{") == 400
        assert await put(runtime, {"tokens": {"access_token": "", "refresh_token": ""}}) == 400
        assert await put(runtime, {**login, "x": "y" * LOGIN_MAX_BYTES}) == 400
        assert await put(runtime, login, to="gemini") == 400
        unknown = await runtime.http.get(
            "/logins/codex", headers={"authorization": "Bearer another"}
        )
        assert unknown.status_code == 401
        assert not (tmp_path / "home" / AUTH).exists()


async def test_a_half_written_file_is_never_handed_out(
    authority: Authority, tmp_path: Path
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        await put(runtime, authority.sign_in())
        path = tmp_path / "home" / AUTH
        before = await get(runtime)
        whole = json.dumps(authority.sign_in()).encode()
        following = asyncio.create_task(get(runtime, after=before["sha256"], wait=20))
        await asyncio.sleep(0.3)
        with path.open("r+b") as file:  # in place, a piece at a time
            file.truncate()
            for start in range(0, len(whole), 300):
                file.write(whole[start : start + 300])
                file.flush()
                await asyncio.sleep(0.02)
        assert content(await asyncio.wait_for(following, 5)) == whole


async def test_only_what_two_reads_agree_on_is_handed_out(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codex writes over the former content, so that a read in between may even parse."""
    mixed, whole = (json.dumps(authority.sign_in()).encode() for _ in range(2))
    reads = [Glance(each) for each in (mixed, b'{"tok', whole, whole)]
    monkeypatch.setattr(LoginFile, "glance", lambda _self: reads.pop(0))
    pool = Pool({}, prewarm=(), idle_s=900)
    logins = Logins(lambda _provider: pytest.fail("nothing is started"), pool, Home(tmp_path))
    reading = await logins.changed("codex", ABSENT_SHA256, wait_s=5)
    assert (reading.state, reading.content) == ("present", whole)


@pytest.mark.parametrize("left", [b"", b'{"tokens": {"acc', b'{"tokens": null}', b"[1]"])
async def test_a_file_that_no_cli_can_go_on_with_is_told_as_that(
    authority: Authority, tmp_path: Path, left: bytes
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        await put(runtime, authority.sign_in())
        before = await get(runtime)
        (tmp_path / "home" / AUTH).write_bytes(left)
        found = await get(runtime, after=before["sha256"], wait=10)
        assert (found["state"], found["files"]) == ("blanked", {})


def test_a_link_that_an_agent_put_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / "secret").write_text(json.dumps({"tokens": {}}))
    (tmp_path / AUTH).symlink_to(tmp_path / "secret")
    reading = LoginFile("codex", Home(tmp_path)).glance().reading("codex")
    assert reading is None  # as if half written: unusable in the end


async def test_codex_signs_in_by_its_device_code(authority: Authority, tmp_path: Path) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        started = (await runtime.http.post("/logins/codex/start")).json()
        assert started["url"] == f"{authority.url}/codex/device"
        assert started["code"] in authority.device_codes
        assert started["state"] == "pending"
        authority.approve(started["code"])
        found = await get(runtime, wait=20)
        assert authority.newest(content(found))
        await _sign_in(runtime, "codex", "done")
        found = await get(runtime)
        assert (found["on"], found["taken"]) == (True, False)
        events = await runtime.run("r1", "hello", provider="codex")
        assert events[-1]["stop_reason"] == "end_turn", events[-1]


async def test_a_sign_in_is_ended_by_delete_and_by_the_next_one(
    authority: Authority, tmp_path: Path
) -> None:
    async with runtime_for(authority, tmp_path) as runtime:
        first = (await runtime.http.post("/logins/codex/start")).json()
        second = (await runtime.http.post("/logins/codex/start")).json()
        assert second["code"] != first["code"]
        assert (await runtime.http.delete("/logins/codex")).status_code == 200
        authority.approve(first["code"])
        authority.approve(second["code"])
        await asyncio.sleep(2.5)  # it would ask every second
        assert (await get(runtime))["state"] == "absent"
        state = (await runtime.http.get("/logins/codex/sign-in")).json()["state"]
        assert state == "none"


FAKE_CLAUDE = """
import json, os, pathlib, sys
if sys.argv[1:3] != ["auth", "login"]:
    sys.exit(3)
assert os.isatty(0)
print("Opening browser to sign in")
print("\\x1b]8;;https://claude.ai/oauth/x?a=1\\x07\\x1b[94mhttps://claude.ai/oauth/x?a=1\\x1b[39m\\x1b]8;;\\x07")
if input("Paste code here if prompted > ") != "right#state":
    sys.exit("Login failed: the code is not valid")
tokens = {"accessToken": "a", "refreshToken": "r", "expiresAt": 1}
path = pathlib.Path(os.environ["HOME"], ".claude", ".credentials.json")
path.parent.mkdir(exist_ok=True)
path.write_text(json.dumps({"claudeAiOauth": tokens}))
"""


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [("right#state", "done", ""), ("wrong", "failed", "Login failed: the code is not valid")],
)
async def test_claude_signs_in_at_a_terminal_of_its_own(
    tmp_path: Path, code: str, state: str, reason: str
) -> None:
    """What stands in for the service here is the CLI: its sign-in can't be moved to another."""
    program = tmp_path / "claude.py"
    program.write_text(FAKE_CLAUDE)
    async with running_runtime(
        tmp_path, "http://127.0.0.1:9", prewarm="", HUTCH_CLI_CLAUDE=f"python3 {program}"
    ) as runtime:
        assert (
            await runtime.http.post("/logins/claude/code", json={"code": "x"})
        ).status_code == 400
        started = (await runtime.http.post("/logins/claude/start")).json()
        assert started["url"] == "https://claude.ai/oauth/x?a=1"
        answer = await runtime.http.post("/logins/claude/code", json={"code": code})
        assert answer.status_code == 200
        assert (await _sign_in(runtime, "claude", state))["reason"] == reason
        assert (tmp_path / "home" / CLAUDE).exists() == (state == "done")


async def test_the_real_claude_gives_a_link_of_its_own(tmp_path: Path) -> None:
    async with running_runtime(tmp_path, "http://127.0.0.1:9", prewarm="") as runtime:
        started = (await runtime.http.post("/logins/claude/start")).json()
        assert started["url"].startswith("https://claude.ai/oauth/authorize?"), started
        assert (
            await runtime.http.post("/logins/claude/code", json={"code": "x\ny"})
        ).status_code == 400
        assert (await runtime.http.delete("/logins/claude")).status_code == 200


async def _sign_in(runtime: Runtime, provider: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = (await runtime.http.get(f"/logins/{provider}/sign-in")).json()
            if found["state"] != "pending":
                assert found["state"] == state, found
                return found
            await asyncio.sleep(0.05)
