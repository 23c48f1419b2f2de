"""The end of a user: the key first, and no trace in any file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from hutch.app import Hutch
from hutch.errors import DoesNotOpen, NotFound, Unauthorized, Unavailable
from hutch.exits.models import NewExit
from hutch.secrets import Secret
from hutch.store.tables import allowed_hosts, credentials, data_keys, users
from tests.orchestrator.conftest import Api, World, new_user, run_to_end

PROMPT = "a prompt that nobody else may read 5512"


def files_with(needle: bytes, directory: Path) -> list[str]:
    return [p.name for p in directory.rglob("*") if p.is_file() and needle in p.read_bytes()]


async def sealed_things(hutch: Hutch, user_id: str) -> list[bytes]:
    """The wrapped key and every ciphertext of theirs."""
    keys = await hutch.database.all(select(data_keys.c.wrapped).where(data_keys.c.owner == user_id))
    rows = await hutch.database.all(
        select(credentials.c.sealed).where(credentials.c.user_id == user_id)
    )
    return [bytes(row[0]) for row in (*keys, *rows)]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # its files are ours to read
async def test_no_file_has_a_trace(world: World, hutch: Hutch) -> None:
    stays = await new_user(hutch, "stays")
    leaves = await new_user(hutch, "leaves")
    await run_to_end(hutch, leaves, PROMPT)
    await run_to_end(hutch, stays)
    traces = [*await sealed_things(hutch, leaves), PROMPT.encode(), leaves.encode()]
    assert len(traces) == 6
    directory = world.settings.data_dir
    assert all(files_with(trace, directory) for trace in traces)
    await hutch.deletion.delete(leaves)
    assert [trace for trace in traces if files_with(trace, directory)] == []
    # Somebody else's are still there, and open.
    assert all(files_with(trace, directory) for trace in await sealed_things(hutch, stays))
    assert len(await hutch.vault.reveal(stays)) == 3


async def test_it_says_what_went(hutch: Hutch, api: Api) -> None:
    admin = (await hutch.accounts.create_key("admin")).text
    user_id = await new_user(hutch, "leaver")
    await hutch.accounts.create_key("user", user_id)
    await run_to_end(hutch, user_id)
    await run_to_end(hutch, user_id)
    await hutch.database.write(
        insert(allowed_hosts).values(user_id=user_id, host="a.example", port=443, created_at=0.0)
    )
    status, gone = await api("DELETE", f"/v1/admin/users/{user_id}", admin)
    assert status == 200
    assert len(gone.pop("data_key")) == 16
    assert gone.pop("container").startswith("sbx_")
    assert gone.pop("events") >= 4
    assert gone == {
        "user_id": user_id,
        "name": "leaver",
        "opens": False,
        "credentials": 3,
        "api_keys": 1,
        "sessions": 2,
        "runs": 2,
        "agreements": 0,
        "allowed_hosts": 1,
        "exits": [],
    }
    assert (await api("DELETE", f"/v1/admin/users/{user_id}", admin))[0] == 404


async def test_their_exit_is_free_for_somebody_else(world: World) -> None:
    world.settings = world.settings.model_copy(update={"egress": "exits"})
    async with world.orchestrator() as hutch:
        await hutch.exits.import_([NewExit("static", "127.0.0.1", 3128, "name", Secret("word"))])
        user_id = await new_user(hutch, "leaver")
        await run_to_end(hutch, user_id)
        lease = hutch.exits.of(user_id)
        assert lease is not None
        gone = await hutch.deletion.delete(user_id)
        assert gone.traces.exits == [lease.exit.id]
        assert hutch.exits.of(user_id) is None
        assert files_with(user_id.encode(), world.settings.data_dir) == []
        other = await new_user(hutch, "next")
        assert (await hutch.exits.lease(other)).exit.id == lease.exit.id


async def test_the_key_goes_first_and_the_rest_when_asked_again(world: World, hutch: Hutch) -> None:
    user_id = await new_user(hutch, "leaver")
    key = (await hutch.accounts.create_key("user", user_id)).text
    await run_to_end(hutch, user_id)
    info = await hutch.vault.info(user_id, "claude")
    kept = await hutch.database.first(
        select(credentials.c.sealed).where(
            credentials.c.user_id == user_id, credentials.c.provider == "claude"
        )
    )
    assert kept is not None
    handle = (await hutch.sandboxes.of(user_id)).handle
    assert handle is not None

    # The container does not end: as after a crash, only what came before it has happened.
    async def hangs(_user_id: str) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hutch.control.deletion._CONTAINER_WITHIN_S", 0.05)
        patch.setattr(hutch.sandboxes, "destroy", hangs)
        with pytest.raises(Unavailable, match="key is destroyed"):
            await hutch.deletion.delete(user_id)
    context = f"credential claude {info.kind} {info.version}"
    with pytest.raises(DoesNotOpen):
        await hutch.data_keys.open(user_id, context, kept.sealed)
    with pytest.raises(Unauthorized):
        await hutch.accounts.authenticate(key)
    assert await hutch.vault.all(user_id) != []
    gone = await hutch.deletion.delete(user_id)
    assert (gone.data_key, gone.opens, gone.traces.credentials) == (None, False, 3)
    assert gone.container
    assert await world.backend.list() == []
    with pytest.raises(NotFound):
        await hutch.accounts.user(user_id)


async def test_a_crash_after_any_step(world: World) -> None:
    """The process dies after so many steps; the next one completes the deletion."""
    steps = ("vault.shred", "accounts.revoke_keys", "runs.end_all", "accounts.delete_user")
    for step in steps:
        async with world.orchestrator() as hutch:
            user_id = await new_user(hutch, f"leaver at {step}")
            await run_to_end(hutch, user_id)
            sealed = await sealed_things(hutch, user_id)
            part, name = step.split(".")
            reached = asyncio.Event()
            target = getattr(hutch, part)
            method = getattr(target, name)

            async def dies_after(
                user_id: str, method: object = method, reached: asyncio.Event = reached
            ) -> None:
                await method(user_id)  # type: ignore[operator]  # one of the four above
                reached.set()
                await asyncio.Event().wait()

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(target, name, dies_after)
                deleting = asyncio.create_task(hutch.deletion.delete(user_id))
                await reached.wait()
                deleting.cancel()
                await asyncio.gather(deleting, return_exceptions=True)
            assert [s for s in sealed[:1] if files_with(s, world.settings.data_dir)] == []
        async with world.orchestrator() as hutch:
            row = await hutch.database.first(select(users).where(users.c.id == user_id))
            if row is not None:
                gone = await hutch.deletion.delete(user_id)
                assert not gone.opens
            for table in (users, credentials, data_keys):
                assert await hutch.database.all(select(table)) == [], step
        assert await world.backend.list() == []


async def test_a_user_without_anything(hutch: Hutch) -> None:
    user = await hutch.accounts.create_user("new", "free")
    gone = await hutch.deletion.delete(user.id)
    assert (gone.data_key, gone.opens, gone.container) == (None, False, None)


async def test_the_proof_is_tried_also_without_credentials(hutch: Hutch) -> None:
    user_id = await new_user(hutch, "leaver")
    for provider in ("claude", "codex", "gemini"):
        await hutch.vault.delete(user_id, provider)
    gone = await hutch.deletion.delete(user_id)
    assert gone.data_key
    assert not gone.opens


async def test_a_proof_that_fails_is_not_hidden(hutch: Hutch) -> None:
    user_id = await new_user(hutch, "leaver")

    async def does_nothing(_owner: str) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hutch.data_keys, "destroy", does_nothing)
        gone = await hutch.deletion.delete(user_id)
    assert gone.opens
