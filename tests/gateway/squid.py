"""Debian's Squid as an exit: a process of the test's own, never the machine's service."""

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

from hutch.gateway.table import ExitProxy
from hutch.secrets import Secret

_USER = "proxy"  # Debian's, for this; Squid does not work as root
_READY_S = 20
_HELPER = "/usr/lib/squid/basic_ncsa_auth"


class Squid:
    """Leaves from ``leaves_from``; with a ``login`` it wants that user name and password."""

    def __init__(
        self, *, leaves_from: str = "127.0.0.1", login: tuple[str, str] | None = None
    ) -> None:
        program = shutil.which("squid") or "/usr/sbin/squid"
        assert Path(program).exists(), "apt-get install squid"
        self._folder = Path(tempfile.mkdtemp(prefix="hutch-squid-"))
        self._folder.chmod(0o755)
        self._login = login
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        lines = [
            f"http_port 127.0.0.1:{self.port}",
            "pid_filename none",
            "cache deny all",
            "cache_log /dev/null",
            f"access_log stdio:{self._folder / 'access.log'}",
            "logfile_rotate 0",
            "netdb_filename none",
            "pinger_enable off",
            "shutdown_lifetime 0 seconds",
            f"coredump_dir {self._folder}",
            "via off",
            "forwarded_for delete",
            f"tcp_outgoing_address {leaves_from}",
        ]
        if login is not None:
            passwords = self._folder / "passwords"
            hashed = subprocess.run(
                ["openssl", "passwd", "-6", "-stdin"],
                input=login[1], capture_output=True, text=True, check=True, timeout=10,
            ).stdout.strip()  # fmt: skip
            passwords.write_text(f"{login[0]}:{hashed}\n")
            lines += [
                f"auth_param basic program {_HELPER} {passwords}",
                "auth_param basic children 2 startup=1",
                "acl known proxy_auth REQUIRED",
                "http_access allow known",
            ]
        else:
            lines.append("http_access allow all")
        lines.append("http_access deny all")
        self._config = self._folder / "squid.conf"
        self._config.write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._program = program
        self.start()

    def exit(self, name: str, *, password: str | None = None) -> ExitProxy:
        user, right = self._login or ("nobody", "nothing")
        return ExitProxy(name, "127.0.0.1", self.port, user, Secret(password or right))

    @property
    def access_log(self) -> str:
        path = self._folder / "access.log"
        return path.read_text() if path.exists() else ""

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-N", "-f", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, "squid ended"
            time.sleep(0.05)
        raise TimeoutError("squid does not listen")

    def kill(self) -> None:
        """At once, with its helpers, in the middle of whatever it does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder)
