"""The one place that builds the parts and connects them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import structlog

from hutch.accounts.agreements import Agreements
from hutch.accounts.allowed_hosts import AllowedHosts
from hutch.accounts.documents import documents
from hutch.accounts.service import Accounts
from hutch.backends.base import RUNTIME_PORT, Backend, Capabilities, Resources
from hutch.backends.open import open_backend
from hutch.clock import Clock, SystemClock
from hutch.config import Settings
from hutch.control import containers, gateway
from hutch.control import exits as exit_watch
from hutch.control import logins as login_sync
from hutch.control import pool as warm_pool
from hutch.control.containers import Containers
from hutch.control.deletion import Deletion
from hutch.control.driver import Driver, Task
from hutch.control.exits import ExitWatch
from hutch.control.gateway import GatewaySync, placeholder_key, route_for
from hutch.control.logins import LoginSync
from hutch.control.pool import Pool, size_for
from hutch.control.queue import WorkQueue
from hutch.errors import BackendError
from hutch.exits.rows import ExitRows
from hutch.exits.service import Exits
from hutch.gateway.base import GatewayControl
from hutch.gateway.client import GatewayClient
from hutch.logins.service import SIGN_IN_HOSTS, Logins
from hutch.runs.rows import RunRows
from hutch.runs.service import Runs
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.reconcile import Reconciler
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.runtime_client import RuntimeClient, runtime_key_hash
from hutch.sandboxes.service import Sandboxes
from hutch.store.database import Database
from hutch.store.migrate import upgrade
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_environment import EnvironmentKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.keys import KeyProvider
from hutch.vault.probe import CredentialProbe
from hutch.vault.service import Vault

_log = structlog.get_logger()

STARTS_AT_ONCE = 4  # containers: more in parallel start no sooner on 8 cores
REWATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class Hutch:
    """A running orchestrator, as its API sees it."""

    settings: Settings
    clock: Clock
    database: Database
    accounts: Accounts
    agreements: Agreements
    allowed_hosts: AllowedHosts
    data_keys: DataKeys
    vault: Vault
    probe: CredentialProbe
    sandboxes: Sandboxes
    logins: Logins
    exits: Exits
    exit_watch: ExitWatch
    runs: Runs
    deletion: Deletion
    backend: Backend
    capabilities: Capabilities
    gateway_sync: GatewaySync
    gateway_control: GatewayControl
    driver: Driver


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    *,
    backend: Backend | None = None,
    gateway_control: GatewayControl | None = None,
) -> AsyncIterator[Hutch]:
    """Everything that an orchestrator does besides HTTP, from start to a clean end.

    Tests pass a backend or a gateway of their own. Raises ``HutchError`` if it cannot start.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.data_dir.chmod(0o700)  # prompts and answers are in there
    await asyncio.to_thread(upgrade, settings.database_url)
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        database = Database(settings.database_url)
        stack.push_async_callback(database.close)
        backend = backend or open_backend(settings)
        stack.push_async_callback(backend.close)
        gateway_control = gateway_control or GatewayClient(settings.gateway_socket)
        stack.push_async_callback(gateway_control.close)
        runtime = RuntimeClient(settings.secret)
        stack.push_async_callback(runtime.close)

        host_address = await backend.prepare()
        capabilities = await backend.capabilities()
        if capabilities.warning:
            _log.warning("isolation.weak", warning=capabilities.warning)

        accounts = Accounts(database, clock, settings.secret)
        data_keys = DataKeys(database, clock, await _key_provider(settings))
        await data_keys.check()
        texts = await asyncio.to_thread(
            documents,
            settings.agreement_file,
            claude_session_tokens=settings.claude_session_tokens,
        )
        agreements = Agreements(database, clock, texts)
        vault = Vault(
            database, clock, data_keys, permit_session_token=agreements.permit_session_token
        )
        stack.push_async_callback(vault.close)
        allowed_hosts = AllowedHosts(database, clock, settings.egress_allow)
        sandbox_rows = SandboxRows(database)

        def changed(sandbox: Sandbox) -> None:
            logins.sandbox_changed(sandbox)
            sandboxes.changed(sandbox)

        sync = GatewaySync(
            gateway_control,
            vault,
            lambda: sandboxes,
            route_for=partial(route_for, settings),
            exits=lambda: exits,
            allowed=allowed_hosts.of,
        )
        exits = Exits(
            ExitRows(database),
            data_keys,
            clock,
            gateway=gateway_control,
            egress=settings.egress,
            moved=sync.user_changed,
        )
        await exits.load()
        logins = Logins(
            vault,
            runtime,
            lambda: sandboxes,
            permit_claude=agreements.permit_session_token,
            changed=sync.user_changed,
            sign_in_hosts=SIGN_IN_HOSTS | _hosts(settings),
        )
        reconciler = Reconciler(
            sandbox_rows,
            backend,
            runtime,
            sync,
            clock,
            instance=settings.instance,
            resources=_resources(settings),
            environment=_environment(settings, capabilities, host_address),
            changed=changed,
            before_end=logins.flush,
        )
        queue = WorkQueue(reconciler.step, workers=STARTS_AT_ONCE)
        stack.push_async_callback(queue.close)
        sandboxes = Sandboxes(
            sandbox_rows,
            backend,
            runtime,
            clock,
            image=settings.image,
            wake=queue.wake,
            egress=sync,
        )
        stack.push_async_callback(sandboxes.close)
        runs = Runs(
            RunRows(database),
            sandboxes,
            runtime,
            vault,
            clock,
            agreements=agreements,
            logins=logins,
            exits=exits,
            timeout_s=settings.run_timeout_s,
            timeout_max_s=settings.run_timeout_max_s,
        )
        stack.push_async_callback(runs.close)

        watch = ExitWatch(
            exits,
            gateway_control,
            clock,
            url=settings.exit_probe_url,
            every_s=settings.exit_probe_every_s,
            spare_after=settings.exit_spare_after,
        )
        looks = Containers(sandbox_rows, backend, queue.wake)
        driver = Driver(
            [
                Task("gateway", gateway.CHECK_EVERY_S, sync.run),
                Task("containers", containers.LOOK_EVERY_S, looks.run),
                Task("exits", exit_watch.LOOK_EVERY_S, watch.run),
                Task("logins", login_sync.LOOK_EVERY_S, LoginSync(logins, sandboxes).run),
                Task(
                    "pool",
                    warm_pool.LOOK_EVERY_S,
                    Pool(
                        sandbox_rows,
                        clock,
                        size=size_for(settings.pool_size),
                        image=settings.image,
                        wake=queue.wake,
                        demand=sandboxes.demand,
                    ).run,
                ),
            ],
            clock,
        )
        driver.start()
        stack.push_async_callback(driver.stop)
        stack.callback(asyncio.create_task(_watch(looks), name="watch").cancel)

        recovered = await runs.recover()
        _log.info("started", instance=settings.instance, runs_recovered=recovered)
        yield Hutch(
            settings=settings,
            clock=clock,
            database=database,
            accounts=accounts,
            agreements=agreements,
            allowed_hosts=allowed_hosts,
            data_keys=data_keys,
            vault=vault,
            probe=CredentialProbe(settings.base_url, exits.connector),
            sandboxes=sandboxes,
            logins=logins,
            exits=exits,
            exit_watch=watch,
            runs=runs,
            deletion=Deletion(
                database, accounts, agreements, vault, runs, sandboxes=sandboxes, exits=exits
            ),
            backend=backend,
            capabilities=capabilities,
            gateway_sync=sync,
            gateway_control=gateway_control,
            driver=driver,
        )


def _hosts(settings: Settings) -> frozenset[str]:
    """Where the operator has sent the CLIs of logins instead of to their providers."""
    urls = (settings.claude_base_url, settings.codex_login_base_url)
    return frozenset(host for url in urls if (host := urlsplit(url).hostname))


async def _key_provider(settings: Settings) -> KeyProvider:
    """Raises ``HostNotReady``."""
    active = settings.master_key.get_secret_value()
    if active:
        return EnvironmentKeys(active, settings.master_key_previous.get_secret_value())
    return await KeyFile.open(settings.master_keys_file)


async def _watch(looks: Containers) -> None:
    while True:
        with contextlib.suppress(BackendError):
            await looks.watch()
        await asyncio.sleep(REWATCH_S)


def _environment(
    settings: Settings, capabilities: Capabilities, host_address: str
) -> Callable[[Sandbox], Mapping[str, str]]:
    """What the runtime in each container is told."""

    def environment(sandbox: Sandbox) -> Mapping[str, str]:
        return {
            "HUTCH_RUNTIME_KEY_SHA256": runtime_key_hash(settings.secret, sandbox.incarnation),
            "HUTCH_RUNTIME_PORT": str(RUNTIME_PORT),
            "HUTCH_GATEWAY_URL": f"http://{host_address}:{settings.gateway_port}",
            "HUTCH_PLACEHOLDER_KEY": placeholder_key(sandbox.incarnation),
            "HUTCH_PREWARM": ",".join(settings.prewarm),
            "HUTCH_AGENT_IDLE_S": str(settings.agent_idle_s),
            # RLIMIT_NPROC counts a uid over the whole host, except under gVisor, whose kernel
            # is the sandbox's own; elsewhere the container's own pids limit holds.
            "HUTCH_AGENT_PIDS": str(
                settings.agent_pids if capabilities.isolation == "gvisor" else 0
            ),
        }

    return environment


def _resources(settings: Settings) -> Resources:
    return Resources(
        cpu_share=settings.cpu_share,
        cpu_ceiling=settings.cpu_ceiling,
        memory_soft_mb=settings.memory_soft_mb,
        memory_hard_mb=settings.memory_hard_mb,
        pids=settings.pids,
        agent_pids=settings.agent_pids,
        workspace_mb=settings.workspace_mb,
        home_mb=settings.home_mb,
    )
