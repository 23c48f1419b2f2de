"""A run, carried through whatever happens on the way: once, to an end, with its whole log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.errors import (
    CredentialMissing,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    PromptTooLarge,
    SessionBusy,
)
from hutch.runs import dispatch
from hutch.runs.models import LogEntry, Run
from hutch.runs.rows import RunRows
from hutch.runs.service import NewRun
from hutch.sandboxes.rows import SandboxRows
from hutch.store.open import open_database
from hutch_runtime.protocol import PROMPT_MAX_BYTES
from tests.orchestrator.conftest import World, log_of, new_user, run_to_end
from tests.orchestrator.runtime import (
    answers,
    as_json,
    finished,
    never_ends,
    says_nothing,
    waits_for_cancel,
    waits_for_release,
)


def assert_whole(log: list[LogEntry]) -> None:
    assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
    assert [entry.type for entry in log].count("run.finished") == 1
    assert log[-1].type == "run.finished"


async def until_text(hutch: Hutch, run: Run, text: str) -> None:
    entries = await hutch.runs.events(run.user_id, run.id)
    async for entry in entries:
        if entry.data.get("text") == text:
            return


async def test_a_run_ends_with_its_answer_and_its_log(hutch: Hutch, user_id: str) -> None:
    run = await run_to_end(hutch, user_id, "one two")
    assert (run.state, run.stop_reason, run.text) == ("succeeded", "end_turn", "one two")
    assert run.usage is not None
    assert run.usage["input_tokens"] == 3
    assert run.cli_version == "1.2.3"
    assert run.timings["sandbox_ms"] <= run.timings["first_event_ms"] <= run.timings["total_ms"]
    log = await log_of(hutch, run)
    assert_whole(log)
    assert [e.data["text"] for e in log if e.type == "text.delta"] == ["one", "two"]


async def test_following_from_anywhere_gives_the_rest(hutch: Hutch, user_id: str) -> None:
    run = await run_to_end(hutch, user_id, "a b c d e")
    log = await log_of(hutch, run)
    for after in range(len(log) + 2):
        assert await log_of(hutch, run, after) == log[after:]


async def test_live_followers_see_what_is_stored(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.script = waits_for_release
    run = await hutch.runs.submit(user_id, NewRun("claude", "hello"))
    followers = [asyncio.create_task(log_of(hutch, run, after)) for after in (0, 1, 2)]
    await until_text(hutch, run, "before")
    world.runtime.release.set()
    logs = await asyncio.gather(*followers)
    stored = await log_of(hutch, run)
    assert_whole(stored)
    assert [log == stored[after:] for after, log in enumerate(logs)] == [True, True, True]


async def test_a_stream_that_breaks_off_is_read_on(
    world: World, hutch: Hutch, user_id: str
) -> None:
    world.runtime.cut_after = 1
    run = await run_to_end(hutch, user_id, "a b c d e f")
    log = await log_of(hutch, run)
    assert_whole(log)
    assert "".join(e.data["text"] for e in log if e.type == "text.delta") == "abcdef"
    assert world.runtime.executions == [run.id]


async def test_a_run_outlives_the_orchestrator(world: World) -> None:
    world.runtime.script = waits_for_release
    async with world.orchestrator() as first:
        user_id = await new_user(first, "someone")
        run = await first.runs.submit(user_id, NewRun("claude", "hello"))
        await until_text(first, run, "before")
    world.runtime.release.set()
    async with world.orchestrator() as second:
        ended = await second.runs.finished(user_id, run.id)
        assert (ended.state, ended.text) == ("succeeded", "beforeafter")
        log = await log_of(second, run)
        assert_whole(log)
        assert [e.data["text"] for e in log if e.type == "text.delta"] == ["before", "after"]
    assert world.runtime.executions == [run.id]


async def test_what_somebody_has_seen_is_never_taken_back(world: World) -> None:
    """The orchestrator dies, and the container before the next one has looked: the end that it
    writes comes after everything that a follower saw.
    """
    world.runtime.script = waits_for_release
    seen: list[LogEntry] = []
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        run = await hutch.runs.submit(user_id, NewRun("claude", "on"))
        async for entry in await hutch.runs.events(user_id, run.id):
            seen.append(entry)
            if entry.data.get("text") == "before":
                break
    (handle,) = [one.handle for one in await world.backend.list()]
    world.backend.end(handle, exit_code=137)
    async with world.orchestrator() as hutch:
        run = await hutch.runs.finished(user_id, run.id)
        rest = await log_of(hutch, run, after=seen[-1].seq)
        assert run.error_code == "sandbox_lost"
        assert_whole(seen + rest)
        assert await log_of(hutch, run) == seen + rest


async def test_a_run_that_a_lost_sandbox_may_have_begun_is_begun_nowhere_else(world: World) -> None:
    """Killed between the sandbox's acceptance and its first word, and then the sandbox too."""
    world.runtime.script = says_nothing
    async with world.orchestrator() as hutch:
        user_id = await new_user(hutch, "someone")
        run = await hutch.runs.submit(user_id, NewRun("claude", "once"))
        async with asyncio.timeout(5):
            while not world.runtime.executions:
                await asyncio.sleep(0.001)
        (sandbox,) = await hutch.sandboxes.all()
    await world.backend.cleanup()
    database = open_database(world.settings.database)
    await SandboxRows(database).observe(sandbox.id, "failed", at=1.0)
    await database.close()
    world.runtime.runs.clear()  # a new sandbox knows nothing of the run
    world.runtime.script = answers
    async with world.orchestrator() as hutch:
        run = await hutch.runs.finished(user_id, run.id)
    assert (run.state, run.error_code) == ("failed", "sandbox_lost")
    assert world.runtime.executions == [run.id]


async def test_nonsense_from_a_sandbox_ends_the_run(
    world: World, hutch: Hutch, user_id: str
) -> None:
    world.runtime.raw = [b'{"no": "event"}']
    run = await run_to_end(hutch, user_id)
    assert (run.state, run.error_code) == ("failed", "sandbox_misbehaved")
    assert_whole(await log_of(hutch, run))


async def test_a_sandbox_that_skips_events_is_not_believed(
    world: World, hutch: Hutch, user_id: str
) -> None:
    run = await hutch.runs.submit(user_id, NewRun("claude", "x"))
    kind, data = finished()
    world.runtime.raw = [
        as_json({"run_id": run.id, "seq": 2, "time": 1.0, "type": kind, **data}),
    ]
    ended = await hutch.runs.finished(user_id, run.id)
    assert ended.error_code == "sandbox_misbehaved"


async def test_a_container_that_ends_takes_the_run_along(
    world: World, hutch: Hutch, user_id: str
) -> None:
    world.runtime.script = waits_for_release
    run = await hutch.runs.submit(user_id, NewRun("claude", "hello"))
    await until_text(hutch, run, "before")
    first = await hutch.sandboxes.of(user_id)
    assert first.handle is not None
    world.backend.end(first.handle, exit_code=137, oom_killed=True)
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.error_code) == ("failed", "sandbox_lost")
    assert ended.error_message is not None
    assert "more memory than it may" in ended.error_message
    assert_whole(await log_of(hutch, run))
    world.runtime.release.set()
    again = await run_to_end(hutch, user_id)
    assert again.state == "succeeded"
    assert again.incarnation != ended.incarnation


async def test_a_session_of_a_lost_container_says_so(hutch: Hutch, user_id: str) -> None:
    run = await run_to_end(hutch, user_id)
    await hutch.sandboxes.destroy(user_id)
    later = await hutch.runs.submit(user_id, NewRun("claude", "go on", session_id=run.session_id))
    ended = await hutch.runs.finished(user_id, later.id)
    assert (ended.state, ended.error_code) == ("failed", "session_lost")


async def test_a_session_goes_on_with_the_clis_own_id(
    world: World, hutch: Hutch, user_id: str
) -> None:
    run = await run_to_end(hutch, user_id)
    later = await hutch.runs.submit(user_id, NewRun("claude", "go on", session_id=run.session_id))
    await hutch.runs.finished(user_id, later.id)
    assert world.runtime.runs[later.id].session == run.provider_session


async def test_runs_of_one_session_take_turns(world: World, hutch: Hutch, user_id: str) -> None:
    first = await run_to_end(hutch, user_id)
    runs = [
        await hutch.runs.submit(
            user_id, NewRun("claude", f"number {n}", session_id=first.session_id)
        )
        for n in range(5)
    ]
    for run in runs:
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert world.runtime.most_at_once == 1
    assert world.runtime.executions == [first.id, *(run.id for run in runs)]


async def test_a_container_that_dies_while_the_end_is_stored_makes_no_second_end(
    world: World, hutch: Hutch, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunRows.save

    async def slow(rows: RunRows, run: Run, entries: list[LogEntry]) -> None:
        await save(rows, run, entries)
        if run.finished and await world.backend.list():
            await world.backend.cleanup()
            hutch.driver.wake("containers")
            await asyncio.sleep(20)  # cut off by the news of it

    monkeypatch.setattr(RunRows, "save", slow)
    run = await hutch.runs.submit(user_id, NewRun("claude", "to the end"))
    async with asyncio.timeout(10):
        run = await hutch.runs.finished(user_id, run.id)
    assert (run.state, run.error_code) == ("succeeded", None)
    assert [entry.type for entry in await log_of(hutch, run)].count("run.finished") == 1
    assert await hutch.runs.get(user_id, run.id) == run


async def test_a_user_of_the_free_tier_has_two_at_once(
    world: World, hutch: Hutch, user_id: str
) -> None:
    world.runtime.script = waits_for_release
    runs = [await hutch.runs.submit(user_id, NewRun("claude", f"{n}")) for n in range(7)]
    await until_text(hutch, runs[0], "before")
    world.runtime.release.set()
    for run in runs:
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
    assert world.runtime.most_at_once == 2


async def test_cancel_ends_a_live_run(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.script = waits_for_cancel
    run = await hutch.runs.submit(user_id, NewRun("claude", "x"))
    await asyncio.sleep(0.1)
    await hutch.runs.cancel(user_id, run.id)
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.stop_reason, ended.error_code) == ("cancelled", "cancelled", None)
    assert (await hutch.runs.cancel(user_id, run.id)).state == "cancelled"  # harmless


async def test_cancel_ends_a_waiting_run_unexecuted(
    world: World, hutch: Hutch, user_id: str
) -> None:
    first = await run_to_end(hutch, user_id)
    world.runtime.script = waits_for_release
    ahead = await hutch.runs.submit(user_id, NewRun("claude", "x", session_id=first.session_id))
    waiting = await hutch.runs.submit(user_id, NewRun("claude", "y", session_id=first.session_id))
    await until_text(hutch, ahead, "before")
    await hutch.runs.cancel(user_id, waiting.id)
    assert (await hutch.runs.finished(user_id, waiting.id)).state == "cancelled"
    assert waiting.id not in world.runtime.runs
    world.runtime.release.set()
    assert (await hutch.runs.finished(user_id, ahead.id)).state == "succeeded"


async def test_a_run_out_of_time_ends_as_timeout(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.script = waits_for_cancel
    run = await hutch.runs.submit(user_id, NewRun("claude", "x", timeout_s=0.3))
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.error_code) == ("failed", "timeout")


async def test_a_sandbox_deaf_to_cancel_cannot_hold_a_run(
    world: World, hutch: Hutch, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_CANCEL_S", 0.3)
    world.runtime.script = never_ends
    world.runtime.deaf_to_cancel = True
    run = await hutch.runs.submit(user_id, NewRun("claude", "x", timeout_s=0.3))
    ended = await hutch.runs.finished(user_id, run.id)
    assert (ended.state, ended.error_code) == ("failed", "timeout")
    assert_whole(await log_of(hutch, run))


async def test_an_idempotency_key_runs_once(world: World, hutch: Hutch, user_id: str) -> None:
    new = NewRun("claude", "once", idempotency_key="k1")
    runs = await asyncio.gather(*(hutch.runs.submit(user_id, new) for _ in range(20)))
    assert len({run.id for run in runs}) == 1
    await hutch.runs.finished(user_id, runs[0].id)
    assert (await hutch.runs.submit(user_id, new)).id == runs[0].id
    assert world.runtime.executions == [runs[0].id]
    with pytest.raises(IdempotencyMismatch):
        await hutch.runs.submit(user_id, NewRun("claude", "other", idempotency_key="k1"))
    other = await new_user(hutch, "somebody else")  # keys are each user's own
    assert (await hutch.runs.submit(other, new)).id != runs[0].id


async def test_a_twin_waits_for_the_run_that_is_only_just_stored(
    hutch: Hutch, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = asyncio.Event()
    add = RunRows.add

    async def add_and_linger(rows: RunRows, run: Run, *more: Any) -> None:
        await add(rows, run, *more)
        stored.set()
        await asyncio.sleep(0.1)

    async def ask() -> Run:
        run = await hutch.runs.submit(user_id, NewRun("claude", "once", idempotency_key="k"))
        return await hutch.runs.finished(user_id, run.id)

    monkeypatch.setattr(RunRows, "add", add_and_linger)
    first = asyncio.create_task(ask())
    await stored.wait()
    assert (await ask()).state == "succeeded"
    assert (await first).state == "succeeded"


async def test_bad_requests_are_refused_before_anything_is_stored(
    hutch: Hutch, user_id: str
) -> None:
    largest = "x" * PROMPT_MAX_BYTES
    for new, error in (
        (NewRun("claude", "  \n"), InvalidRequest),
        (NewRun("claude", largest + "x"), PromptTooLarge),
        (NewRun("claude", "\ud800"), InvalidRequest),
        (NewRun("claude", "x", timeout_s=1e9), InvalidRequest),
        (NewRun("claude", "x", session_id="ses_nope"), NotFound),
        (NewRun("claude", "x", session_id="ses_" + "0" * 20), NotFound),
    ):
        with pytest.raises(error):
            await hutch.runs.submit(user_id, new)
    assert await hutch.runs.page(user_id, session_id=None, before=None, limit=10) == []


async def test_no_credential_no_run(hutch: Hutch, user_id: str) -> None:
    await hutch.vault.delete(user_id, "claude")
    with pytest.raises(CredentialMissing):
        await hutch.runs.submit(user_id, NewRun("claude", "x"))


async def test_a_session_keeps_its_provider_and_its_owner(hutch: Hutch, user_id: str) -> None:
    run = await run_to_end(hutch, user_id)
    with pytest.raises(InvalidRequest):
        await hutch.runs.submit(user_id, NewRun("codex", "x", session_id=run.session_id))
    other = await new_user(hutch, "somebody else")
    with pytest.raises(NotFound):
        await hutch.runs.submit(other, NewRun("claude", "x", session_id=run.session_id))
    with pytest.raises(NotFound):
        await hutch.runs.get(other, run.id)
    with pytest.raises(NotFound):
        await hutch.runs.events(other, run.id)


async def test_deleting_a_session_takes_its_runs(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.script = waits_for_release
    run = await hutch.runs.submit(user_id, NewRun("claude", "x"))
    await until_text(hutch, run, "before")
    with pytest.raises(SessionBusy):
        await hutch.sessions.delete(user_id, run.session_id)
    world.runtime.release.set()
    await hutch.runs.finished(user_id, run.id)
    await hutch.sessions.delete(user_id, run.session_id)
    with pytest.raises(NotFound):
        await hutch.runs.get(user_id, run.id)


async def test_pages_hold_each_run_once(hutch: Hutch, user_id: str) -> None:
    made = [(await run_to_end(hutch, user_id)).id for _ in range(5)]
    seen: list[str] = []
    before = None
    while page := await hutch.runs.page(user_id, session_id=None, before=before, limit=2):
        seen += [run.id for run in page]
        before = page[-1].id
    assert seen == made[::-1]
