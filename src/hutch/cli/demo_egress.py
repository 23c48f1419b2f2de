"""``hutch demo egress``: three users behind three exits, seen from the other end.

On a service of its own, beside whatever runs here: real containers and CLIs, the offline model, and
three Squid servers for exits, each with an address of its own. It fails unless everything that it
says was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml
from rich.console import Console

from hutch.backends.base import Observed
from hutch.backends.open import open_backend
from hutch.cli import leaks
from hutch.cli.demo import KEY_VARIABLES
from hutch.cli.profile import admin_client, client_with
from hutch.cli.squid import Squid
from hutch.cli.tables import table
from hutch.cli.up import down, start
from hutch.client import ApiError, Client
from hutch.config import Settings
from hutch.errors import HostNotReady
from hutch_runtime.protocol import PROVIDERS, Provider

USERS: Final = 3
# Loopback addresses that nothing else uses, so that the model can tell the exits apart.
ADDRESSES: Final = tuple(f"127.0.0.{21 + number}" for number in range(USERS))
_DOWN_S: Final = 2.0  # an exit is away for so long
_UP_S: Final = 1.0
_KEYS: Final[dict[Provider, str]] = {
    "claude": "sk-ant-api03-{}",
    "codex": "sk-proj-{}",
    "gemini": "AIza{}",
}


@dataclass
class Tenant:
    """One user of the demo, and what the runs showed."""

    id: str
    client: Client
    keys: dict[Provider, str]
    squid: Squid
    exit_id: str = ""
    ip: str = ""
    succeeded: int = 0
    refused: int = 0  # with exit_unavailable
    wrong: list[str] = field(default_factory=list)
    peers: Counter[str] = field(default_factory=Counter)


def demo_egress(console: Console, *, runs: int) -> bool:
    """``runs`` of each user, twice: with all exits up, and while they are killed and revived."""
    if os.geteuid() != 0:
        raise HostNotReady(
            "The demo reads the memory of containers, which takes root.",
            hint="Run it again with sudo.",
        )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hutch-egress-")))
        squids = [stack.enter_context(_squid(address)) for address in ADDRESSES]
        settings = _settings(folder / "data")
        stack.callback(down, settings, Console(quiet=True))
        start(settings, lambda text: console.print(text, markup=False, highlight=False))
        tenants = stack.enter_context(_tenants(settings, squids))

        console.print(f"\n{runs} runs of each user, all exits up …")
        _everybody(tenants, runs)
        failed = [problem for tenant in tenants for problem in tenant.wrong]
        failed += [f"{t.id}: {t.refused} runs were refused" for t in tenants if t.refused]
        _show(tenants)

        console.print(f"\n{runs} runs of each user, while exits are killed and revived …")
        ended = threading.Event()
        with ThreadPoolExecutor(1) as chaos:
            killing = chaos.submit(_kill_and_revive, squids, ended)
            try:
                _everybody(tenants, runs)
            finally:
                ended.set()
            kills = killing.result()
        failed += [problem for tenant in tenants for problem in tenant.wrong]
        if not kills:
            failed.append("the runs ended before an exit was killed: ask for more --runs")
        _show(tenants)
        console.print(f"{kills} kills; what could not leave through its exit did not leave.")

        failed += _at_the_model(settings, tenants)
        console.print("\nSearching containers' memory, processes, database and logs …")
        failed += _search(settings, tenants)
    for problem in dict.fromkeys(failed):
        console.print(f"FAILED: {problem}", style="bold red", markup=False)
    if not failed:
        console.print("No key and no password was found; nobody left but through their own exit.")
    return not failed


def _settings(data_dir: Path) -> Settings:
    """A service of the demo's own: other ports, other data, and the offline model for all three."""
    for variables in KEY_VARIABLES.values():
        for name in variables:
            os.environ.pop(name, None)
    api, gateway, model = _free_ports(3)
    ours = {
        "DATA_DIR": str(data_dir),
        "PORT": str(api),
        "GATEWAY_PORT": str(gateway),
        "OFFLINE_MODEL_PORT": str(model),
        "EGRESS": "exits",
        "POOL_SIZE": "0",  # every container of the demo is a tenant's
        "EXIT_PROBE_URL": f"http://127.0.0.1:{model}/ip",
        "EXIT_PROBE_EVERY_S": "5",
    }
    # The programs that are started read their settings from the environment.
    os.environ.update({f"HUTCH_{name}": value for name, value in ours.items()})
    for name in ("HUTCH_URL", "HUTCH_API_KEY", "HUTCH_ADMIN_KEY"):
        os.environ.pop(name, None)
    return Settings()


def _squid(address: str) -> Squid:
    return Squid(address, login=("exit", secrets.token_urlsafe(18)))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in free]


@contextlib.contextmanager
def _tenants(settings: Settings, squids: Sequence[Squid]) -> Iterator[list[Tenant]]:
    """Users with keys and an exit each."""
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(admin_client(settings, here=True))
        inventory = [
            {
                "host": "127.0.0.1",
                "port": squid.port,
                "username": squid.login[0],
                "password": squid.login[1],
                "expected_ip": squid.leaves_from,
            }
            for squid in squids
        ]
        admin.call("POST", "/v1/admin/exits/import", json={"text": yaml.safe_dump(inventory)})
        by_port = {squid.port: squid for squid in squids}
        tenants = []
        for number in range(len(squids)):
            made = admin.call("POST", "/v1/admin/users", json={"name": f"tenant {number + 1}"})
            client = stack.enter_context(client_with(settings, made["key"]))
            keys = {p: _KEYS[p].format(secrets.token_hex(20)) for p in PROVIDERS}
            for provider, key in keys.items():
                client.put_api_key(provider, key)
            leased = admin.call("POST", f"/v1/admin/users/{made['id']}/exit")
            tenants.append(
                Tenant(
                    made["id"], client, keys, by_port[leased["port"]], leased["id"],
                    leased["seen_ip"] or "",
                )
            )  # fmt: skip
        yield tenants


def _everybody(tenants: Sequence[Tenant], runs: int) -> None:
    """All users at once, each with one session per provider."""
    for tenant in tenants:
        tenant.succeeded = tenant.refused = 0
        tenant.wrong.clear()
        tenant.peers.clear()
    shares = [runs // len(PROVIDERS) + (n < runs % len(PROVIDERS)) for n in range(len(PROVIDERS))]
    with ThreadPoolExecutor(len(tenants) * len(PROVIDERS)) as pool:
        working = [
            pool.submit(_session, tenant, provider, share)
            for tenant in tenants
            for provider, share in zip(PROVIDERS, shares, strict=True)
        ]
        for one in working:
            one.result()


def _session(tenant: Tenant, provider: Provider, runs: int) -> None:
    session: str | None = None
    for number in range(runs):
        body: dict[str, Any] = {"provider": provider, "prompt": f"Run {number}: where am I?"}
        if session is not None:
            body["session_id"] = session
        try:
            run = tenant.client.call("POST", "/v1/runs", json=body)
        except ApiError as error:
            tenant.wrong.append(f"{provider} of {tenant.id}: {error.message} ({error.code})")
            continue
        # What failed before the CLI had begun has no session to go on with.
        session = run["session_id"] if run["provider_session"] else session
        _judge(tenant, run)


def _judge(tenant: Tenant, run: dict[str, Any]) -> None:
    seen = re.search(r" peer=(\S+)", run["text"])
    if seen is not None:
        tenant.peers[seen[1]] += 1
    if run["state"] == "succeeded" and seen is not None:
        tenant.succeeded += 1
        if not seen[1] == tenant.ip == run["exit"]["ip"]:
            tenant.wrong.append(
                f"{run['id']} came from {seen[1]}, the record says {run['exit']['ip']}, the lease "
                f"{tenant.ip}"
            )
    elif run["error"] is not None and run["error"]["code"] == "exit_unavailable":
        tenant.refused += 1
        time.sleep(0.2)  # as a caller would who tries again
    else:
        tenant.wrong.append(f"{run['id']} ended as {run['state']}: {run['error']}")


def _kill_and_revive(squids: Sequence[Squid], ended: threading.Event) -> int:
    kills = 0
    while not ended.wait(_UP_S):
        squid = squids[kills % len(squids)]
        squid.kill()
        kills += 1
        ended.wait(_DOWN_S)
        squid.start()
    return kills


def _at_the_model(settings: Settings, tenants: Sequence[Tenant]) -> list[str]:
    """What the model itself counted: every request of a user's key, and where it came from."""
    url = f"http://127.0.0.1:{settings.offline_model_port}/_control/callers"
    callers = httpx2.get(url, trust_env=False).json()["callers"]
    owners = {
        hashlib.sha256(key.encode()).hexdigest()[:8]: tenant
        for tenant in tenants
        for key in tenant.keys.values()
    }
    wrong = [
        f"{caller['requests']} requests with a key of {owner.id} came from {caller['peer']}"
        for caller in callers
        if (owner := owners.get(caller["key"])) is not None and caller["peer"] != owner.ip
    ]
    if len({tenant.ip for tenant in tenants}) != len(tenants):
        wrong.append("two users have one address")
    return wrong


def _search(settings: Settings, tenants: Sequence[Tenant]) -> list[str]:
    wanted = {
        f"the {provider} key of {tenant.id}": key.encode()
        for tenant in tenants
        for provider, key in tenant.keys.items()
    }
    wanted |= {f"the password of {t.exit_id}": t.squid.login[1].encode() for t in tenants}
    found = leaks.in_files(settings.data_dir, wanted) + leaks.in_process_lists(wanted)
    for container in asyncio.run(_containers(settings)):
        # Known to be there: a search that does not find it has not searched.
        control = {"the placeholder": f"hutch-placeholder-{container.incarnation}".encode()}
        places = leaks.in_container(container.handle, {**wanted, **control})
        if leaks.missing(places, "the placeholder"):
            found.append("the search did not see into a container")
        found += [place for place in places if not place.startswith("the placeholder ")]
    return found


async def _containers(settings: Settings) -> list[Observed]:
    backend = open_backend(settings)
    try:
        return await backend.list()
    finally:
        await backend.close()


def _show(tenants: Sequence[Tenant]) -> None:
    table(
        ("user", "exit", "leased", "seen from", "succeeded", "exit_unavailable"),
        [
            (
                tenant.id,
                tenant.exit_id,
                tenant.ip,
                ", ".join(sorted(tenant.peers)),
                str(tenant.succeeded),
                str(tenant.refused),
            )
            for tenant in tenants
        ],
    )
