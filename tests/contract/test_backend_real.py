"""What the backends do that start real processes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.contract.conftest import IMAGE, Bench, docker, open_kind, settings_of
from tests.contract.waiting import eventually

# Writes how far it has counted, ten times a second, to where the test can read it.
COUNT = "i=0; while :; do i=$((i+1)); echo $i > {path}; sleep 0.1; done"


async def count(bench: Bench, handle: str) -> int:
    if bench.kind == "process":
        path = bench.settings.data_dir / "processes" / handle / "workspace" / "count"
        text = path.read_text() if path.exists() else "0"
    else:
        text = await asyncio.to_thread(docker, "logs", "--tail", "1", handle)
    return int(text.strip() or 0)


async def test_freeze_stops_the_process_and_unfreeze_goes_on(real: Bench) -> None:
    path = "count" if real.kind == "process" else "/dev/stdout"
    made = await real.backend.create(real.spec(COUNT.format(path=path)))
    await real.backend.start(made.handle)

    async def counted(to: int) -> bool:
        return await count(real, made.handle) >= to

    await eventually(lambda: counted(3))
    await real.backend.freeze(made.handle)
    await asyncio.sleep(0.3)
    before = await count(real, made.handle)
    await asyncio.sleep(1)
    assert await count(real, made.handle) == before
    await real.backend.unfreeze(made.handle)
    await eventually(lambda: counted(before + 3))


async def test_a_restarted_orchestrator_finds_and_ends_them(real: Bench) -> None:
    made = await real.backend.create(real.spec())
    started = await real.backend.start(made.handle)
    await real.backend.close()
    successor = real.again()
    try:
        assert await successor.list() == [started]
        events = successor.watch()
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.2)
        await successor.stop(made.handle, grace_s=0)
        async with asyncio.timeout(20):
            event = await waiting
            while event.kind != "exited":
                event = await anext(events)
        assert event.incarnation == started.incarnation
        await events.aclose()  # type: ignore[attr-defined]
    finally:
        await successor.cleanup()
        await successor.close()


async def test_another_instances_sandboxes_are_not_seen_nor_touched(
    real: Bench, tmp_path: Path
) -> None:
    async with settings_of(real.kind, tmp_path / "other") as other_settings:
        other = open_kind(real.kind, other_settings)
        try:
            await other.prepare()
            theirs = await real.backend.create(real.spec())
            await real.backend.start(theirs.handle)
            assert await other.list() == []
            assert await other.inspect(theirs.handle) is None
            await other.cleanup()
            assert [o.state for o in await real.backend.list()] == ["running"]
        finally:
            await other.cleanup()
            await other.close()


async def test_children_go_with_the_main_process(real: Bench) -> None:
    made = await real.backend.create(real.spec("sleep 601 & sleep 601 & exec sleep 601"))
    await real.backend.start(made.handle)

    async def all_there() -> bool:
        return (await real.backend.stats(made.handle)).pids >= 3

    await eventually(all_there)
    await real.backend.destroy(made.handle)
    assert _sleepers() == []


def _sleepers() -> list[str]:
    everybody = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [entry.name for entry in everybody if _command(entry) == [b"sleep", b"601"]]


def _command(entry: Path) -> list[bytes]:
    try:
        return (entry / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


async def test_an_image_is_known_by_its_id(engine: Bench) -> None:
    """A name may move to another image; what was made of the first stays, and keeps it there."""
    backend = engine.backend
    assert await backend.image("hutch-test-backend:no-such") is None
    found = await backend.image(IMAGE)
    assert found is not None
    assert found.id.startswith("sha256:")
    assert found.holds_runtime
    assert IMAGE in found.names
    assert found.made_at > 1e9
    assert found.id in {image.id for image in await backend.images()}
    again = await backend.image(found.id)
    assert again is not None
    assert again.id == found.id
    spec = replace(engine.spec(), image=found.id)
    made = await backend.create(spec)
    assert not await backend.remove_image(replace(found, names=()))
    await backend.destroy(made.handle)
