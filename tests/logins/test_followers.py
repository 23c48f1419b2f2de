"""What is in the vault follows what the real Codex does with its login, in a runtime process."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hutch.errors import NeedsLogin, SandboxFailed
from hutch.logins import follower as follower_module
from hutch.logins.follower import BLANKED, DEAD, LOST, REMOVED, TWO_WRITERS
from tests.logins.conftest import AUTH, World, until_newest
from tests.logins.following import USER, Following, vault_in


def auth_file(world: World) -> Path:
    return world.directory / f"container{world._containers}" / "home" / AUTH


async def ready(it: Following) -> None:
    await it.logins.ready(it.sandbox, "codex")


async def until_needed(it: Following, provider: str = "codex") -> str:
    async with asyncio.timeout(5):
        while True:
            info = await it.vault.info(USER, provider)  # type: ignore[arg-type]  # one of the two
            if info.state == "needs_login":
                return info.reason
            await asyncio.sleep(0.02)


async def test_what_the_cli_renews_is_stored_and_a_new_container_goes_on_with_it(
    world: World,
) -> None:
    await world.sign_in()
    for _ in range(2):
        async with world.container() as runtime, world.following(runtime) as it:
            await ready(it)
            for _ in range(2):
                world.authority.expire()
                last = await world.run(runtime)
                assert last["stop_reason"] == "end_turn", last
                await until_newest(world)
            assert it.logins.report()["renewals"] == 2
    assert world.authority.replayed == 0
    assert world.authority.families[0].refreshes == 4


async def test_a_renewal_that_nobody_saw_is_stored_at_the_next_start(world: World) -> None:
    await world.sign_in()
    async with world.container() as runtime:
        async with world.following(runtime) as it:
            await ready(it)
        for _ in range(3):
            world.authority.expire()
            assert (await world.run(runtime))["stop_reason"] == "end_turn"
        assert not world.authority.newest((await world.stored())[0])
        async with world.following(runtime) as it:
            await ready(it)
            await until_newest(world)


async def test_what_was_renewed_a_moment_ago_is_stored_before_the_container_ends(
    world: World,
) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        world.authority.expire()
        await world.run(runtime)
        await it.logins.flush(it.sandbox)
        assert world.authority.newest((await world.stored())[0])


async def test_ending_a_container_that_does_not_answer_takes_no_longer_than_it_may(
    world: World,
) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        runtime.process.send_signal(19)
        began = asyncio.get_running_loop().time()
        await it.logins.flush(it.sandbox)
        assert asyncio.get_running_loop().time() - began < 6
        runtime.process.send_signal(18)


async def test_a_login_that_the_provider_refuses_needs_a_new_one(world: World) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        world.authority.revoke()
        last = await world.run(runtime)
        assert last["error"]["code"] == "provider_auth"
        needed = await it.logins.refused(it.sandbox, "codex")
        assert needed is not None
        assert "hutch login codex" in needed.message
        assert await until_needed(it) == DEAD
        with pytest.raises(NeedsLogin):
            await ready(it)
        with pytest.raises(NeedsLogin):
            await it.vault.require(USER, "codex")


async def test_a_sign_in_service_that_is_down_costs_nobody_their_login(world: World) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        world.authority.expire()
        world.authority.overloaded = True
        last = await world.run(runtime)
        assert last["error"]["code"] == "provider_error", last
        world.authority.overloaded = False
        assert (await world.run(runtime))["stop_reason"] == "end_turn"


@pytest.mark.parametrize(
    ("left", "reason"), [(b'{"tokens": null}', BLANKED), (b'{"tok', BLANKED), (None, REMOVED)]
)
async def test_an_emptied_file_is_never_stored_over_a_login(
    world: World, left: bytes | None, reason: str
) -> None:
    await world.sign_in()
    before, _ = await world.stored()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        if left is None:
            auth_file(world).unlink()
        else:
            auth_file(world).write_bytes(left)
        assert await until_needed(it) == reason
    assert await world.stored() == (before, "needs_login")


async def test_a_login_that_the_user_stores_anew_replaces_the_one_in_the_container(
    world: World,
) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        fresh = json.dumps(world.authority.sign_in()).encode()
        await it.vault.put_login(USER, "codex", {AUTH: fresh}, expected_version=None)
        # Before anybody is told, the CLI renews the former: that one goes nowhere.
        world.authority.expire()
        await world.run(runtime)
        async with asyncio.timeout(5):
            while auth_file(world).read_bytes() != fresh:
                await asyncio.sleep(0.05)
        assert await world.stored() == (fresh, "ok")
        await it.logins.credentials_changed(USER)
        await ready(it)
        world.authority.families[0].alive = False
        assert (await world.run(runtime))["stop_reason"] == "end_turn"


async def test_without_its_credential_the_container_has_no_login(world: World) -> None:
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        assert auth_file(world).exists()
        await it.vault.put(USER, "codex", "api_key", "sk-proj-0123456789abcdef")
        await it.logins.credentials_changed(USER)
        await ready(it)
        assert not auth_file(world).exists()
        assert await it.logins.refused(it.sandbox, "codex") is None


async def test_two_who_renew_one_login_are_found_out(world: World) -> None:
    """As when a container that was thought dead lives on: neither wins in silence."""
    await world.sign_in()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        info = await it.vault.info(USER, "codex")
        theirs = json.dumps(world.authority.sign_in()).encode()
        await it.vault.put_login(USER, "codex", {AUTH: theirs}, expected_version=info.version)
        world.authority.expire()
        await world.run(runtime)
        assert await until_needed(it) == TWO_WRITERS


async def test_a_container_with_a_successor_writes_nothing(world: World) -> None:
    await world.sign_in()
    before = await world.stored()
    async with world.container() as runtime, world.following(runtime) as it:
        await ready(it)
        it.sandboxes.current = replace(it.sandbox, incarnation="inc_of_the_successor")
        world.authority.expire()
        await world.run(runtime)
        await it.logins.flush(it.sandbox)
    assert await world.stored() == before


async def test_a_sign_in_ends_in_the_vault(world: World) -> None:
    async with vault_in(world.data) as vault:
        await vault.put(USER, "codex", "api_key", "sk-proj-0123456789abcdef")
    async with world.container() as runtime, world.following(runtime) as it:
        started = await it.logins.start(USER, "codex")
        assert (await it.logins.sign_in(USER, "codex")).state == "pending"
        world.authority.approve(started.code)
        async with asyncio.timeout(15):
            while (await it.logins.sign_in(USER, "codex")).state == "pending":
                await asyncio.sleep(0.1)
        assert (await it.logins.sign_in(USER, "codex")).state == "done"
        assert (await it.vault.info(USER, "codex")).kind == "login"
        assert it.changed == [USER]
        await ready(it)
        world.authority.expire()
        assert (await world.run(runtime))["stop_reason"] == "end_turn"
        await until_newest(world)


async def test_a_sign_in_goes_on_through_a_restart(world: World) -> None:
    async with world.container() as runtime:
        async with world.following(runtime) as it:
            started = await it.logins.start(USER, "codex")
        world.authority.approve(started.code)
        async with world.following(runtime) as it:
            async with asyncio.timeout(15):
                while not it.changed:
                    await asyncio.sleep(0.05)
        assert world.authority.newest((await world.stored())[0])


async def test_a_sign_in_that_leads_elsewhere_is_not_shown(world: World) -> None:
    async with world.container() as runtime, world.following(runtime) as it:
        it.logins._sign_in_hosts = frozenset({"auth.openai.com"})
        with pytest.raises(SandboxFailed, match="nobody signs in"):
            await it.logins.start(USER, "codex")
        assert (await it.logins.sign_in(USER, "codex")).state == "none"


CLAUDE = """
import json, os, pathlib
print("https://127.0.0.1/oauth")
input()
path = pathlib.Path(os.environ["HOME"], ".claude", ".credentials.json")
path.parent.mkdir(exist_ok=True)
tokens = {"accessToken": "the-access-token", "refreshToken": "the-refresh-token"}
path.write_text(json.dumps({"claudeAiOauth": tokens}))
"""


async def test_a_claude_login_that_may_not_be_stored_is_lost_with_its_container(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = world.directory / "claude.py"
    program.write_text(CLAUDE)
    monkeypatch.setattr(follower_module, "_LEFTOVER_AFTER_S", 0.1)
    async with world.container(HUTCH_CLI_CLAUDE=f"python3 {program}") as runtime:
        async with world.following(runtime) as it:
            await it.logins.start(USER, "claude")
            await it.logins.enter(USER, "claude", "code")
            async with asyncio.timeout(10):
                while (await it.logins.sign_in(USER, "claude")).state == "pending":
                    await asyncio.sleep(0.05)
            assert (await it.vault.info(USER, "claude")).state == "ok"
            files, _ = await it.vault.login_files(USER, "claude")
            assert set(files.values()) == {b""}
        async with world.following(runtime) as it:  # a restart of ours loses nothing
            await it.logins.ready(it.sandbox, "claude")
            assert (await it.vault.info(USER, "claude")).state == "ok"
    async with world.container() as runtime, world.following(runtime) as it:
        with pytest.raises(NeedsLogin):
            await it.logins.ready(it.sandbox, "claude")
        assert await until_needed(it, "claude") == LOST
