"""What every backend does alike: fake, process, Docker with runc, Docker with gVisor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from hutch.backends.base import WALL_SANDBOX, BackendEvent, Observed
from hutch.backends.fake import FakeBackend
from hutch.errors import BackendError
from hutch.ids import new_id
from tests.contract.conftest import Bench
from tests.contract.waiting import eventually


async def until(bench: Bench, handle: str, state: str) -> Observed:
    async def there() -> bool:
        observed = await bench.backend.inspect(handle)
        assert observed is not None
        return observed.state == state

    await eventually(there)
    observed = await bench.backend.inspect(handle)
    assert observed is not None
    return observed


async def expect(events: AsyncIterator[BackendEvent], kind: str, incarnation: str) -> None:
    async with asyncio.timeout(20):
        async for event in events:
            if event.kind == kind and event.incarnation == incarnation:
                return
    pytest.fail(f"the events ended without {kind}")


async def test_a_life(bench: Bench) -> None:
    spec = bench.spec()
    made = await bench.backend.create(spec)
    assert (made.state, made.address) == ("created", None)
    assert (made.sandbox_id, made.incarnation) == (spec.sandbox_id, spec.incarnation)

    started = await bench.backend.start(made.handle)
    assert started.state == "running"
    assert started.address
    assert started.handle == made.handle
    assert started.isolation == (await bench.backend.capabilities()).isolation
    assert started.exit_code is None

    await bench.backend.stop(made.handle, grace_s=1)
    stopped = await until(bench, made.handle, "exited")
    assert stopped.exit_code in {137, 143}
    assert stopped.address is None
    assert not stopped.oom_killed

    await bench.backend.destroy(made.handle)
    assert await bench.backend.inspect(made.handle) is None
    assert await bench.backend.list() == []


async def test_create_start_stop_and_destroy_may_be_repeated(bench: Bench) -> None:
    spec = bench.spec()
    first, second = await asyncio.gather(bench.backend.create(spec), bench.backend.create(spec))
    assert first == second
    started = await bench.backend.start(first.handle)
    assert await bench.backend.start(first.handle) == started
    assert await bench.backend.create(spec) == started
    assert await bench.backend.list() == [started]
    for _ in range(2):
        await bench.backend.stop(first.handle, grace_s=0)
    for _ in range(2):
        await bench.backend.destroy(first.handle)
    await bench.backend.stop(first.handle)


async def test_two_removals_at_once(bench: Bench) -> None:
    made = await bench.backend.create(bench.spec())
    await bench.backend.start(made.handle)
    await asyncio.gather(*(bench.backend.destroy(made.handle) for _ in range(3)))
    assert await bench.backend.inspect(made.handle) is None


async def test_what_was_never_started_is_destroyed_too(bench: Bench) -> None:
    made = await bench.backend.create(bench.spec())
    await bench.backend.destroy(made.handle)
    assert await bench.backend.list() == []


async def test_calls_on_the_gone(bench: Bench) -> None:
    made = await bench.backend.create(bench.spec())
    await bench.backend.destroy(made.handle)
    for call in (
        bench.backend.start,
        bench.backend.freeze,
        bench.backend.unfreeze,
        bench.backend.stats,
    ):
        with pytest.raises(BackendError):
            await call(made.handle)


async def test_freeze_and_unfreeze_may_be_repeated(bench: Bench) -> None:
    made = await bench.backend.create(bench.spec())
    await bench.backend.start(made.handle)
    for _ in range(2):
        await bench.backend.freeze(made.handle)
    frozen = await until(bench, made.handle, "frozen")
    assert frozen.address
    for _ in range(2):
        await bench.backend.unfreeze(made.handle)
    await until(bench, made.handle, "running")


async def test_a_frozen_one_can_be_stopped_and_destroyed(bench: Bench) -> None:
    for end in ("stop", "destroy"):
        made = await bench.backend.create(bench.spec())
        await bench.backend.start(made.handle)
        await bench.backend.freeze(made.handle)
        async with asyncio.timeout(20):
            await getattr(bench.backend, end)(made.handle)
    assert [o.state for o in await bench.backend.list()] == ["exited"]


async def test_stats(bench: Bench) -> None:
    hold = "import time; x = b'x' * (48 << 20); time.sleep(99)"
    made = await bench.backend.create(bench.spec(f'exec python3 -c "{hold}"'))
    await bench.backend.start(made.handle)

    async def holds() -> bool:
        return (await bench.backend.stats(made.handle)).memory_bytes >= 48 << 20

    await eventually(holds)
    stats = await bench.backend.stats(made.handle)
    assert 0 < stats.cpu_seconds < 60
    assert stats.memory_bytes < stats.memory_limit_bytes
    assert 1 <= stats.pids <= 512


async def test_watch_tells_start_freeze_and_end(bench: Bench) -> None:
    events = bench.backend.watch()
    spec = bench.spec()
    made = await bench.backend.create(spec)
    await bench.backend.start(made.handle)
    await expect(events, "started", spec.incarnation)
    await bench.backend.freeze(made.handle)
    await expect(events, "frozen", spec.incarnation)
    await bench.backend.unfreeze(made.handle)
    await expect(events, "unfrozen", spec.incarnation)
    await bench.backend.stop(made.handle, grace_s=0)
    await expect(events, "exited", spec.incarnation)
    await bench.backend.destroy(made.handle)
    await expect(events, "destroyed", spec.incarnation)
    await events.aclose()  # type: ignore[attr-defined]  # each is an async generator


async def test_the_exit_code_is_told(bench: Bench) -> None:
    events = bench.backend.watch()
    spec = bench.spec("exit 7")
    made = await bench.backend.create(spec)
    await bench.backend.start(made.handle)
    if isinstance(bench.backend, FakeBackend):
        bench.backend.end(made.handle, exit_code=7)
    await expect(events, "exited", spec.incarnation)
    ended = await until(bench, made.handle, "exited")
    assert (ended.exit_code, ended.oom_killed) == (7, False)
    assert await bench.backend.list() == [ended]
    await events.aclose()  # type: ignore[attr-defined]


async def test_cleanup_leaves_nothing_and_can_be_repeated(bench: Bench) -> None:
    for _ in range(2):
        await bench.backend.start((await bench.backend.create(bench.spec())).handle)
    for _ in range(2):
        await bench.backend.cleanup()
        assert await bench.backend.list() == []
    await bench.backend.prepare()
    assert (await bench.backend.create(bench.spec())).state == "created"


async def test_a_program_inside(bench: Bench) -> None:
    # The door runs programs only where walls are tried.
    spec = replace(bench.spec(), sandbox_id=f"{WALL_SANDBOX}{new_id('sbx')}")
    made = await bench.backend.create(spec)
    handle = (await bench.backend.start(made.handle)).handle

    async def says(*argv: str, within_s: float = 20, output_max: int = 1000) -> bytes:
        return await bench.backend.execute(handle, argv, within_s=within_s, output_max=output_max)

    assert (await says("echo", "both")).strip().endswith(b"both")
    assert len(await says("echo", "x" * 99, output_max=10)) == 10
    if bench.real:
        assert await says("sh", "-c", "echo out; echo error >&2; cat; exit 3") == b"out\n"
        assert await says("sh", "-c", "echo first; sleep 60", within_s=1) == b"first\n"
        assert await says("sh", "-c", "yes", output_max=5000) == b"y\n" * 2500
    await bench.backend.stop(handle, grace_s=1)
    await until(bench, handle, "exited")
    with pytest.raises(BackendError):
        await says("echo", "nobody")
