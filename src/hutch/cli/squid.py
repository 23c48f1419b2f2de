"""Debian's Squid as an exit on this machine, for the demo and the tests; never its system service.

Exits are somebody else's proxies. This one stands in for them: an HTTP proxy with a user name and a
password, whose traffic leaves from a loopback address of its own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from hutch.errors import HostNotReady

_USER: Final = "proxy"  # Debian's, for this; Squid does not work as root
_READY_S: Final = 20.0
_POLL_S: Final = 0.05
_CHECKS_PASSWORDS: Final = "/usr/lib/squid/basic_ncsa_auth"
_INSTALL: Final = "Install it: sudo apt-get install --yes squid openssl"


class Squid:
    """``login`` is the user name and password that it asks for; without one it serves anybody.

    Raises ``HostNotReady`` if it cannot start.
    """

    def __init__(
        self, leaves_from: str = "127.0.0.1", *, login: tuple[str, str] | None = None
    ) -> None:
        self._program = shutil.which("squid", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if self._program is None or shutil.which("openssl") is None:
            raise HostNotReady("Squid is not installed.", hint=_INSTALL)
        self.leaves_from = leaves_from
        self._login = login
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._folder = Path(tempfile.mkdtemp(prefix="hutch-squid-"))
        self._folder.chmod(0o755)
        self._config = self._folder / "squid.conf"
        self._config.write_text("\n".join([*self._lines(), ""]))
        if os.getuid() == 0:
            owner = pwd.getpwnam(_USER)
            for path in (self._folder, *self._folder.glob("passwords")):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    @property
    def login(self) -> tuple[str, str]:
        """What to log in with."""
        return self._login or ("nobody", "nothing")

    @property
    def access_log(self) -> str:
        path = self._folder / "access.log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        """On the same port as before."""
        self._process = subprocess.Popen(
            [str(self._program), "-N", "-f", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + _READY_S
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(_POLL_S)
        self.kill()
        raise HostNotReady("Squid does not start.", hint=f"Look at `squid -N -f {self._config}`.")

    def kill(self) -> None:
        """At once, with its helpers, in the middle of whatever it does."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)

    def _lines(self) -> list[str]:
        common = [
            f"http_port 127.0.0.1:{self.port}",
            f"tcp_outgoing_address {self.leaves_from}",
            "via off",
            "forwarded_for delete",
            "cache deny all",
            "pid_filename none",
            "netdb_filename none",
            "pinger_enable off",
            "shutdown_lifetime 0 seconds",
            "cache_log /dev/null",
            "logfile_rotate 0",
            f"access_log stdio:{self._folder / 'access.log'}",
            f"coredump_dir {self._folder}",
        ]
        if self._login is None:
            return [*common, "http_access allow all"]
        user, password = self._login
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"],
            input=password,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        passwords = self._folder / "passwords"
        passwords.write_text(f"{user}:{hashed}\n")
        passwords.chmod(0o600)
        return [
            *common,
            f"auth_param basic program {_CHECKS_PASSWORDS} {passwords}",
            "auth_param basic children 2 startup=1",
            "acl known proxy_auth REQUIRED",
            "http_access allow known",
            "http_access deny all",
        ]
