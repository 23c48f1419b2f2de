"""A real PostgreSQL server of the tests' own, from the distribution's package."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from hutch.store.migrate import upgrade
from hutch.store.open import parse

_READY_S = 20
_TEMPLATE = "hutch_template"
_SETTINGS = {
    "listen_addresses": "",  # a socket in a directory of its own, and no port
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",  # the databases of tests live for seconds
    "max_connections": "200",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
}


def programs() -> Path:
    """Of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    assert found, "PostgreSQL is not installed; `make postgresql` installs it"
    return found[-1].parent


def _version(path: Path) -> int:
    return int(path.parts[-3])


@dataclass
class Server:
    """As the unprivileged user that the package has made, if we are root: it refuses to run as
    such. It ends with us, however we end.
    """

    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _made: int = 0

    def url(self, database: str) -> str:
        return f"postgresql://hutch@/{database}?host={self.directory}"

    def initialise(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        subprocess.run(
            (
                *self._user(),
                str(programs() / "initdb"),
                "--username=hutch",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                str(self.directory / "data"),
            ),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    def start(self) -> None:
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """To be called in a thread that stays: the server ends with that."""
        options = [f"-c{n}={v}" for n, v in (_SETTINGS | self.settings).items()]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (
                    *self._user("--pdeathsig=QUIT"),
                    str(programs() / "postgres"),
                    *("-D", str(self.directory / "data")),
                    *("-k", str(self.directory)),
                    *options,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while True:
            try:
                self.do("SELECT 1")
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, "PostgreSQL ended at once"
                assert time.monotonic() < until, "PostgreSQL is not ready"
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: ends connections and stops; SIGQUIT: at once, with a recovery at the start."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(_READY_S)

    def kill_backend(self, pid: object) -> None:
        """By SIGKILL, as the kernel does when memory is short: the server recovers from that."""
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)

    def do(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def new_database(self) -> str:
        """Its URL; with every table, and empty."""
        if not self._made:
            self.do(f"CREATE DATABASE {_TEMPLATE}")
            upgrade(parse(self.url(_TEMPLATE)))
        self._made += 1
        name = f"test_{self._made}"
        self.do(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.do(f"DROP DATABASE IF EXISTS {parse(url).database} WITH (FORCE)")

    @staticmethod
    def _user(*options: str) -> tuple[str, ...]:
        """Who runs the server, and that it does not outlive us."""
        if os.geteuid() != 0:
            return ("setpriv", *options) if options else ()
        return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *options)


@contextmanager
def running_server(**settings: str) -> Iterator[Server]:
    # Not below pytest's own directory, which the server's user may not enter; and short, since
    # the name of a socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="hutch-pg-"))
    try:
        server = Server(directory, settings)
        server.initialise()
        server.start()
        yield server
        if server._process is not None and server._process.poll() is None:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
