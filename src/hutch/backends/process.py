"""Sandboxes as plain local processes: for tests, and laptops without Docker. **No isolation.**

Agents run as the user who runs Hutch, with that user's files and network. Nothing is limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

from hutch.backends.base import (
    LABEL_IMAGE,
    BackendEvent,
    BackendState,
    Capabilities,
    EventKind,
    FirewallLook,
    Image,
    Observed,
    SandboxSpec,
    Stats,
)
from hutch.backends.event_feed import EventFeed
from hutch.backends.process_record import Record, Records
from hutch.backends.process_table import Process, family, look, reap, send
from hutch.config import Settings
from hutch.errors import BackendError, HostNotReady

_ADDRESS: Final = "127.0.0.1"
_POLL_S: Final = 0.02
_PIECE: Final = 65536
_KILL_S: Final = 5  # a process in the kernel's hands can outlive its SIGKILL a little
_PROGRAM: Final = (sys.executable, "-m", "hutch_runtime")
_WARNING: Final = (
    "The process backend isolates NOTHING: agents run as this user, with all files and the whole "
    "network. Use HUTCH_BACKEND=docker for anything but tests."
)


class ProcessBackend:
    """``program`` is what runs in each sandbox; tests put a simpler one."""

    def __init__(self, settings: Settings, *, program: Sequence[str] = _PROGRAM) -> None:
        if not settings.insecure_process_backend:
            raise HostNotReady(
                "The process backend runs agents on this machine with no isolation: a prompt can "
                "read and change every file of this user.",
                hint="Use HUTCH_BACKEND=docker. For tests on a machine where nothing matters, set "
                "HUTCH_INSECURE_PROCESS_BACKEND=true.",
            )
        self._instance = settings.instance
        self._records = Records(settings.data_dir / "processes")
        self._program = tuple(program)
        self._feed = EventFeed()
        self._watched: dict[int, int] = {}  # pid: its pidfd

    async def prepare(self) -> str:
        self._records.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _ADDRESS

    async def capabilities(self) -> Capabilities:
        return Capabilities(isolation="none", freeze=True, own_address=False, warning=_WARNING)

    async def keep_firewall(self) -> FirewallLook:
        return FirewallLook(restored=False)

    async def create(self, spec: SandboxSpec) -> Observed:
        known = self._records.read(spec.incarnation)
        if known is None:
            directory = self._records.directory(spec.incarnation)
            for name in ("home", "workspace", "tmp"):
                (directory / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            known = Record(
                spec.instance, spec.sandbox_id, spec.incarnation, _free_port(), dict(spec.env)
            )
            self._records.write(known)
        return self._observe(known)

    async def start(self, handle: str) -> Observed:
        record = self._there(handle)
        if record.pid is None:
            pid = self._spawn(record)
            process = look(pid)
            record = record.with_process(pid, process.started if process else 0)
            self._records.write(record)
            self._watch_exit(record, pid)
            self._tell(record, "started")
        return self._observe(record)

    async def stop(self, handle: str, *, grace_s: float = 5) -> None:
        record = self._records.read(handle)
        if record is None or (process := _alive(record)) is None:
            return
        everybody = family(process.pid)
        send([process], signal.SIGTERM)
        send(everybody, signal.SIGCONT)
        try:
            async with asyncio.timeout(grace_s):
                await self._until_over(record)
        except TimeoutError:
            everybody += family(process.pid)
        send(everybody, signal.SIGKILL)  # what the main process leaves goes with it
        await self._killed(record)

    async def freeze(self, handle: str) -> None:
        record = self._there(handle)
        send(family(self._alive(record).pid), signal.SIGSTOP)
        self._tell(record, "frozen")

    async def unfreeze(self, handle: str) -> None:
        record = self._there(handle)
        send(family(self._alive(record).pid), signal.SIGCONT)
        self._tell(record, "unfrozen")

    async def reclaim(self, handle: str) -> int:
        self._there(handle)
        return 0  # their memory is this user's, and the kernel's business

    async def destroy(self, handle: str) -> None:
        record = self._records.read(handle)
        if record is not None and (process := _alive(record)) is not None:
            send(family(process.pid), signal.SIGKILL)
            await self._killed(record)
        self._records.forget(handle)  # first, or noting its exit would write into what is removed
        directory = self._records.directory(handle)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        if record is not None:
            self._tell(record, "destroyed")

    async def list(self) -> list[Observed]:
        return [self._observe(r) for r in self._records.all() if r.instance == self._instance]

    async def inspect(self, handle: str) -> Observed | None:
        record = self._records.read(handle)
        return self._observe(record) if record else None

    async def processes(self) -> set[str]:
        return set()  # a record outlives its processes, never the other way round

    async def stats(self, handle: str) -> Stats:
        process = _alive(self._there(handle))
        members = family(process.pid) if process else []
        return Stats(
            cpu_seconds=sum(p.cpu_seconds for p in members),
            memory_bytes=sum(p.resident_bytes for p in members),
            memory_limit_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            pids=sum(p.threads for p in members),
        )

    async def execute(
        self, handle: str, argv: Sequence[str], *, within_s: float, output_max: int
    ) -> bytes:
        record = self._there(handle)
        self._alive(record)
        program = await asyncio.create_subprocess_exec(
            *argv,
            env=self._environment(record),
            cwd=self._records.directory(record.incarnation) / "workspace",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert program.stdout is not None  # noqa: S101  (a pipe was asked for)
        output = bytearray()
        try:
            async with asyncio.timeout(within_s):
                while piece := await program.stdout.read(output_max - len(output)):
                    output += piece
        except TimeoutError:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            while await program.stdout.read(_PIECE):  # its end is told once nothing is left to read
                pass
            await program.wait()
        return bytes(output)

    async def image(self, name: str) -> Image | None:
        """There is one, whatever it is called: the runtime of this very installation."""
        return Image("process", (name,), {LABEL_IMAGE: "1"}, 0.0)

    async def images(self) -> Sequence[Image]:
        return ()

    async def remove_image(self, image: Image) -> bool:  # noqa: ARG002  (there is nothing to remove)
        return False

    def watch(self) -> AsyncIterator[BackendEvent]:
        for record in self._records.all():  # those of an earlier orchestrator too
            if record.instance == self._instance and (process := _alive(record)) is not None:
                self._watch_exit(record, process.pid)
        return self._feed.watch()

    async def cleanup(self) -> None:
        for observed in await self.list():
            await self.destroy(observed.handle)

    async def close(self) -> None:
        for pid in tuple(self._watched):
            self._unwatch(pid)
        self._feed.end()

    def _environment(self, record: Record) -> dict[str, str]:
        directory = self._records.directory(record.incarnation)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            **record.env,
            "HOME": str(directory / "home"),
            "TMPDIR": str(directory / "tmp"),
            "HUTCH_WORKSPACE": str(directory / "workspace"),
            "HUTCH_RUNTIME_HOST": _ADDRESS,
            "HUTCH_RUNTIME_PORT": str(record.port),
        }

    def _spawn(self, record: Record) -> int:
        directory = self._records.directory(record.incarnation)
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # Not a Popen: that one complains when it is dropped while the process lives on, which is
        # what a backend's close() is meant to do.
        return os.posix_spawnp(
            "env",
            ["env", "-C", str(directory / "workspace"), *self._program],
            self._environment(record),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(directory / "runtime.log"), log_flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    def _watch_exit(self, record: Record, pid: int) -> None:
        if pid in self._watched:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._watched[pid] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._on_exit, record, pid)

    def _on_exit(self, record: Record, pid: int) -> None:
        self._unwatch(pid)
        self._note_exit(record, pid)
        self._tell(record, "exited")

    def _unwatch(self, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    def _note_exit(self, record: Record, pid: int) -> None:
        code = reap(pid)
        if code is not None and self._records.read(record.incarnation) is not None:
            self._records.write(record.with_exit(code))

    def _observe(self, record: Record) -> Observed:
        state: BackendState = "created"
        if record.pid is not None:
            process = _alive(record)
            if process is None:
                state = "exited"
                self._note_exit(record, record.pid)
                record = self._records.read(record.incarnation) or record
            else:
                state = "frozen" if process.state == "T" else "running"
        return Observed(
            handle=record.incarnation,
            sandbox_id=record.sandbox_id,
            incarnation=record.incarnation,
            state=state,
            address=_ADDRESS if state in {"running", "frozen"} else None,
            port=record.port,
            isolation="none",
            exit_code=record.exit_code if state == "exited" else None,
        )

    def _there(self, handle: str) -> Record:
        record = self._records.read(handle)
        if record is None:
            raise BackendError("The sandbox is gone; somebody removed it.")
        return record

    def _alive(self, record: Record) -> Process:
        process = _alive(record)
        if process is None:
            raise BackendError("The sandbox's process does not run.")
        return process

    async def _killed(self, record: Record) -> None:
        try:
            async with asyncio.timeout(_KILL_S):
                await self._until_over(record)
        except TimeoutError:
            raise BackendError("A sandbox's process does not end.") from None

    async def _until_over(self, record: Record) -> None:
        while _alive(record) is not None:  # noqa: ASYNC110  (another process, maybe not our child)
            await asyncio.sleep(_POLL_S)

    def _tell(self, record: Record, kind: EventKind) -> None:
        self._feed.publish(BackendEvent(record.sandbox_id, record.incarnation, kind))


def _alive(record: Record) -> Process | None:
    process = look(record.pid) if record.pid is not None else None
    if process is None or process.state == "Z" or process.started != record.started:
        return None
    return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        return int(probe.getsockname()[1])
