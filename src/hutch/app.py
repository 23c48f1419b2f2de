"""The one place that builds the parts and connects them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import structlog

from hutch.accounts.agreements import Agreements
from hutch.accounts.allowed_hosts import AllowedHosts
from hutch.accounts.documents import documents
from hutch.accounts.failures import FailedKeys
from hutch.accounts.service import Accounts
from hutch.accounts.sources import Sources
from hutch.accounts.tickets import Tickets
from hutch.accounts.tiers import Limits
from hutch.audit.models import Entry
from hutch.audit.service import SUM_EVERY_S, AuditLog
from hutch.backends.base import RUNTIME_PORT, Backend, Capabilities
from hutch.backends.limits import resources_of
from hutch.backends.open import open_backend
from hutch.clock import Clock, SystemClock
from hutch.config import Settings
from hutch.control import attacks as wall_attacks
from hutch.control import containers, firewall, gateway
from hutch.control import disk as disk_watch
from hutch.control import exits as exit_watch
from hutch.control import idle as idle_watch
from hutch.control import logins as login_sync
from hutch.control import pool as warm_pool
from hutch.control import retention as snapshot_retention
from hutch.control import rollout as image_rollout
from hutch.control import scaling as pool_scaling
from hutch.control import webhooks as webhook_delivery
from hutch.control.alerts import Alert
from hutch.control.attacks import Attacks
from hutch.control.containers import Containers
from hutch.control.deletion import Deletion
from hutch.control.disk import Disk
from hutch.control.driver import Driver, Task
from hutch.control.exits import ExitWatch
from hutch.control.firewall import FirewallWatch
from hutch.control.gateway import GatewaySync, placeholder_key, route_for
from hutch.control.idle import Idle
from hutch.control.logins import LoginSync
from hutch.control.offline import OfflineModels
from hutch.control.pool import Pool
from hutch.control.pressure import Pressure
from hutch.control.queue import WorkQueue
from hutch.control.retention import Retention
from hutch.control.rollout import RolloutTask
from hutch.control.scaling import Rules, Scaling, rules_for
from hutch.control.scaling_rows import ScalingRows
from hutch.control.webhooks import WebhookTask
from hutch.errors import BackendError, Unavailable
from hutch.exits.rows import ExitRows
from hutch.exits.service import Exits
from hutch.files.service import Files
from hutch.gateway.addresses import AddressCheck
from hutch.gateway.base import GatewayControl
from hutch.gateway.client import GatewayClient
from hutch.git.service import Git
from hutch.load import Load, ProcLoad
from hutch.logins.service import SIGN_IN_HOSTS, Logins
from hutch.mcp_servers.service import McpServers
from hutch.rollouts.rows import RolloutRows
from hutch.rollouts.service import Rollouts
from hutch.runs.queue import RunQueue
from hutch.runs.rows import RunRows
from hutch.runs.service import Runs
from hutch.runs.sessions import Sessions
from hutch.runs.trial import Trial
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.places import Places
from hutch.sandboxes.reconcile import Reconciler
from hutch.sandboxes.rows import SandboxRows
from hutch.sandboxes.runtime_client import RuntimeClient, runtime_key_hash
from hutch.sandboxes.service import Sandboxes
from hutch.sandboxes.uses import Uses
from hutch.snapshots.open import open_store
from hutch.snapshots.rows import SnapshotRows
from hutch.snapshots.service import Snapshots
from hutch.store.database import Database
from hutch.store.open import open_database
from hutch.store.seat import Leader
from hutch.terminals.service import Terminals
from hutch.vault.data_keys import DataKeys
from hutch.vault.key_environment import EnvironmentKeys
from hutch.vault.key_file import KeyFile
from hutch.vault.keys import KeyProvider
from hutch.vault.probe import CredentialProbe
from hutch.vault.service import Vault
from hutch.walls.service import Walls
from hutch.webhooks.rows import WebhookRows
from hutch.webhooks.sending import Sender
from hutch.webhooks.service import Webhooks
from hutch_runtime.protocol import MIB, PROVIDERS

_log = structlog.get_logger()

STARTS_AT_ONCE = 4  # containers: more in parallel start no sooner on 8 cores
REWATCH_S = 1.0
NOTE_KEYS_EVERY_S = 30.0  # when they were last used, which is told within a minute
# An archive of many small files is larger than they are.
SNAPSHOT_ROOM = 2


class _Closes(Protocol):
    async def close(self) -> None: ...


_P = TypeVar("_P", bound=_Closes)


@dataclass(frozen=True, slots=True)
class Hutch:
    """A running orchestrator, as its API sees it."""

    settings: Settings
    clock: Clock
    database: Database
    accounts: Accounts
    failed_keys: FailedKeys
    audit: AuditLog
    sources: Sources
    agreements: Agreements
    allowed_hosts: AllowedHosts
    mcp_servers: McpServers
    git: Git
    data_keys: DataKeys
    vault: Vault
    probe: CredentialProbe
    sandboxes: Sandboxes
    uses: Uses
    files: Files
    places: Places
    rollouts: Rollouts
    run_queue: RunQueue
    scaling: Scaling
    disk: Disk
    attacks: Attacks | None
    firewall: FirewallWatch
    load: Load
    logins: Logins
    exits: Exits
    exit_watch: ExitWatch
    runs: Runs
    webhooks: Webhooks
    tickets: Tickets
    terminals: Terminals
    snapshots: Snapshots
    idle: Idle
    retention: Retention
    deletion: Deletion
    backend: Backend
    capabilities: Capabilities
    gateway_sync: GatewaySync
    gateway_control: GatewayControl
    driver: Driver
    leader: Leader | None = None  # None: there is but one process

    @property
    def sessions(self) -> Sessions:
        return self.runs.sessions

    def alerts(self) -> list[Alert]:
        """Of every task, the oldest first."""
        found = [*self.exit_watch.alerts(), *self.scaling.alerts(), *self.disk.alerts()]
        found += self.attacks.alerts() if self.attacks is not None else []
        found += self.firewall.alerts()
        return sorted(found, key=lambda alert: alert.since)


@dataclass(frozen=True, slots=True)
class Leading:
    """``database`` has the newest schema, and writes in the leader's term alone."""

    database: Database
    leader: Leader


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    *,
    backend: Backend | None = None,
    gateway_control: GatewayControl | None = None,
    clock: Clock | None = None,
    load: Load = ProcLoad(),  # noqa: B008  it holds nothing
    leading: Leading | None = None,
) -> AsyncIterator[Hutch]:
    """Everything that an orchestrator does besides HTTP, from start to a clean end.

    ``leading``: of several processes on one database, the one that does all this.
    Tests pass parts of their own. Raises ``HutchError`` if it cannot start.
    """
    _make_data_dir(settings)
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:

        def closing(part: _P) -> _P:
            stack.push_async_callback(part.close)
            return part

        database = closing(
            leading.database
            if leading is not None
            else await asyncio.to_thread(open_database, settings.database)
        )
        backend = closing(backend or open_backend(settings))
        gateway_control = closing(gateway_control or GatewayClient(settings.gateway_socket))
        runtime = closing(RuntimeClient(settings.secret))

        host_address, capabilities = await _prepared(backend)

        audit, accounts = await stack.enter_async_context(_accounts(settings, database, clock))
        data_keys = DataKeys(database, clock, await _key_provider(settings))
        await data_keys.check()
        texts = await asyncio.to_thread(
            documents,
            settings.agreement_file,
            claude_session_tokens=settings.claude_session_tokens,
        )
        agreements = Agreements(database, clock, texts)
        vault = closing(
            Vault(database, clock, data_keys, permit_session_token=agreements.permit_session_token)
        )
        allowed_hosts = AllowedHosts(database, clock, settings.egress_allow)
        sandbox_rows = SandboxRows(database)

        offline = OfflineModels(settings)

        def changed(sandbox: Sandbox) -> None:
            for tell in (logins.sandbox_changed, mcp_servers.sandbox_changed, sandboxes.changed):
                tell(sandbox)

        sync = GatewaySync(
            gateway_control,
            vault,
            lambda: sandboxes,
            route_for=partial(route_for, settings),
            exits=lambda: exits,
            allowed=allowed_hosts.of,
            mcp_servers=lambda: mcp_servers,
            git=lambda: git,
            trial_routes=offline.routes,
        )
        exits = Exits(
            ExitRows(database),
            data_keys,
            clock,
            gateway=gateway_control,
            egress=settings.egress,
            moved=sync.user_changed,
        )
        git, mcp_servers, logins = (
            Git(
                database,
                clock,
                data_keys,
                runtime,
                uses=lambda: uses,
                changed=sync.user_changed,
            ),
            closing(McpServers(database, clock, data_keys, runtime, changed=sync.user_changed)),
            closing(
                Logins(
                    vault,
                    runtime,
                    lambda: sandboxes,
                    permit_claude=agreements.permit_session_token,
                    changed=sync.user_changed,
                    sign_in_hosts=SIGN_IN_HOSTS | _hosts(settings),
                )
            ),
        )
        await asyncio.gather(exits.load(), mcp_servers.load(), git.load())
        webhooks, webhook_task = await stack.enter_async_context(
            _webhooks(settings, database, data_keys, clock, lambda: driver.wake("webhooks"))
        )
        run_rows = RunRows(database, webhooks)
        snapshots = closing(
            Snapshots(
                SnapshotRows(database),
                open_store(settings),
                data_keys,
                runtime,
                clock,
                max_bytes=SNAPSHOT_ROOM * (settings.home_mb + settings.workspace_mb) * MIB,
                moved=run_rows.move_sessions,
            )
        )
        reconciler = Reconciler(
            sandbox_rows,
            backend,
            runtime,
            sync,
            clock,
            instance=settings.instance,
            resources=resources_of(settings),
            environment=_environment(settings, capabilities, host_address),
            changed=changed,
            before_rest=logins.flush,
            keeper=snapshots,
        )
        queue = closing(WorkQueue(reconciler.step, workers=STARTS_AT_ONCE))
        run_queue, places, limits = await stack.enter_async_context(
            _queue(settings, accounts, sandbox_rows, clock, load)
        )
        rollout_rows = RolloutRows(database)
        rollouts = Rollouts(
            rollout_rows,
            backend,
            clock,
            setting=settings.image,
            sandboxes=lambda: sandboxes,
            wake=lambda: driver.wake("images"),
        )
        sandboxes = closing(
            Sandboxes(
                sandbox_rows,
                backend,
                runtime,
                clock,
                image=rollouts.current,
                wake=queue.wake,
                egress=sync,
                discard=snapshots.discard,
                places=places,
            )
        )
        runs = closing(
            Runs(
                run_rows,
                sandboxes,
                runtime,
                vault,
                clock,
                agreements=agreements,
                logins=logins,
                mcp_servers=mcp_servers,
                exits=exits,
                queue=run_queue,
                limits=limits,
                timeout_s=settings.run_timeout_s,
                timeout_max_s=settings.run_timeout_max_s,
                permission_mode=settings.permission_mode,
            )
        )

        uses, terminals = await stack.enter_async_context(
            _terminals(
                settings,
                sandboxes,
                runtime,
                clock,
                agreements=agreements,
                logins=logins,
                exits=exits,
            )
        )

        watch = ExitWatch(
            exits,
            gateway_control,
            clock,
            url=settings.exit_probe_url,
            every_s=settings.exit_probe_every_s,
            spare_after=settings.exit_spare_after,
        )
        idle = Idle(
            sandboxes,
            backend,
            clock,
            freeze_after_s=settings.freeze_after_s if capabilities.freeze else 0,
            hibernate_after_s=settings.hibernate_after_s,
        )
        places.make_room = idle.make_room
        disk, wall = Disk(settings.data_dir, clock), FirewallWatch(backend, clock)
        scaling = await _scaling(
            settings, database, clock, load, queue=run_queue, places=places, sandboxes=sandboxes
        )
        retention = Retention(
            snapshots,
            sandbox_rows,
            accounts,
            clock,
            days={
                "free": settings.snapshot_days_free,
                "pro": settings.snapshot_days_pro,
                "team": settings.snapshot_days_team,
            },
        )
        looks, attacks = (
            Containers(sandbox_rows, backend, queue.wake, changed),
            await _attacks(settings, backend, clock, rollouts),
        )
        driver = Driver(
            [
                Task("gateway", gateway.CHECK_EVERY_S, sync.run),
                Task("containers", containers.LOOK_EVERY_S, looks.run),
                Task("exits", exit_watch.LOOK_EVERY_S, watch.run),
                Task(
                    "images",
                    image_rollout.LOOK_EVERY_S,
                    RolloutTask(
                        rollouts,
                        rollout_rows,
                        sandbox_rows,
                        Trial(runtime),
                        clock,
                        places=places,
                        pool_size=lambda: scaling.target,
                        offline=offline.providers,
                        wake=queue.wake,
                        changed=lambda: driver.wake("pool"),
                    ).run,
                ),
                Task("idle", idle_watch.LOOK_EVERY_S, idle.run),
                Task("retention", snapshot_retention.LOOK_EVERY_S, retention.run),
                Task("logins", login_sync.LOOK_EVERY_S, LoginSync(logins, sandboxes).run),
                Task("audit", SUM_EVERY_S, audit.run),
                Task("keys", NOTE_KEYS_EVERY_S, accounts.note_uses),
                Task("webhooks", webhook_delivery.LOOK_EVERY_S, webhook_task.run),
                *([Task("attacks", wall_attacks.LOOK_EVERY_S, attacks.run)] if attacks else []),
                Task("firewall", firewall.LOOK_EVERY_S, wall.run),
                Task("disk", disk_watch.LOOK_EVERY_S, disk.run),
                Task("scaling", pool_scaling.LOOK_EVERY_S, scaling.run),
                Task(
                    "pool",
                    warm_pool.LOOK_EVERY_S,
                    Pool(
                        sandbox_rows,
                        clock,
                        size=lambda: scaling.target,
                        plan=rollouts.plan,
                        wake=queue.wake,
                        demand=sandboxes.demand,
                        places=places,
                    ).run,
                ),
            ],
            clock,
        )
        await stack.enter_async_context(_driving(driver, sync))
        stack.callback(asyncio.create_task(_watch(looks), name="watch").cancel)

        _log.info("started", instance=settings.instance, runs_recovered=await runs.recover())
        yield Hutch(
            settings=settings,
            clock=clock,
            database=database,
            accounts=accounts,
            failed_keys=FailedKeys(clock),
            audit=audit,
            sources=Sources(settings.trusted_proxies, settings.secret),
            agreements=agreements,
            allowed_hosts=allowed_hosts,
            mcp_servers=mcp_servers,
            git=git,
            data_keys=data_keys,
            vault=vault,
            probe=CredentialProbe(settings.base_url, exits.connector),
            sandboxes=sandboxes,
            uses=uses,
            files=Files(uses, runtime, bytes_max=settings.workspace_mb * MIB),
            places=places,
            rollouts=rollouts,
            run_queue=run_queue,
            scaling=scaling,
            disk=disk,
            attacks=attacks,
            firewall=wall,
            load=load,
            logins=logins,
            exits=exits,
            exit_watch=watch,
            runs=runs,
            webhooks=webhooks,
            tickets=Tickets(clock),
            terminals=terminals,
            snapshots=snapshots,
            idle=idle,
            retention=retention,
            deletion=Deletion(
                database,
                accounts,
                agreements,
                vault,
                runs,
                sandboxes=sandboxes,
                snapshots=snapshots,
                exits=exits,
            ),
            backend=backend,
            capabilities=capabilities,
            gateway_sync=sync,
            gateway_control=gateway_control,
            driver=driver,
            leader=leading.leader if leading is not None else None,
        )


@contextlib.asynccontextmanager
async def _terminals(
    settings: Settings,
    sandboxes: Sandboxes,
    runtime: RuntimeClient,
    clock: Clock,
    *,
    agreements: Agreements,
    logins: Logins,
    exits: Exits,
) -> AsyncIterator[tuple[Uses, Terminals]]:
    uses = Uses(sandboxes)
    terminals = Terminals(
        sandboxes,
        uses,
        runtime,
        clock,
        agreements=agreements,
        logins=logins,
        exits=exits,
        most=settings.terminals,
        idle_s=settings.terminal_idle_s,
        detached_s=settings.terminal_detached_s,
    )
    try:
        await terminals.recover()
        yield uses, terminals
    finally:
        await terminals.close()


async def _scaling(
    settings: Settings,
    database: Database,
    clock: Clock,
    load: Load,
    *,
    queue: RunQueue,
    places: Places,
    sandboxes: Sandboxes,
) -> Scaling:
    scaling = Scaling(
        ScalingRows(database),
        queue,
        places,
        sandboxes,
        clock,
        rules=_rules(settings),
        pressure=Pressure(load, cpu_limit=settings.alert_cpu, memory_limit=settings.alert_memory),
        memory_hard_mb=settings.memory_hard_mb,
    )
    await scaling.load()
    return scaling


async def _attacks(
    settings: Settings, backend: Backend, clock: Clock, rollouts: Rollouts
) -> Attacks | None:
    """None where there are no walls, or nobody wants to know. Raises ``HostNotReady`` where they do
    not hold and have to.
    """
    if settings.walls == "off" or (await backend.capabilities()).isolation == "none":
        return None
    walls = Walls(settings, backend, clock)

    async def image() -> str:
        current = await rollouts.current()
        return current.id or current.name

    if settings.walls_enforced:
        await walls.require(await image())
    return Attacks(walls, clock, image=image)


@contextlib.asynccontextmanager
async def _accounts(
    settings: Settings, database: Database, clock: Clock
) -> AsyncIterator[tuple[AuditLog, Accounts]]:
    audit = AuditLog(database, clock, settings.secret, settings.audit_anchor_file)
    await audit.open()
    audit.note(Entry("service.started"))
    accounts = Accounts(database, clock, settings.secret)
    try:
        await accounts.load_keys()
        yield audit, accounts
    finally:
        with contextlib.suppress(Unavailable):  # a note is not worth a failure
            await accounts.note_uses()
        await audit.close()


@contextlib.asynccontextmanager
async def _driving(driver: Driver, gateway: GatewaySync) -> AsyncIterator[None]:
    """Whoever had claimed a sandbox when an earlier process died must not use it before the gateway
    knows. A gateway that is not there has no table either, and lets nobody out.
    """
    with contextlib.suppress(Unavailable):
        await gateway.run()
    async with driver:
        yield


@contextlib.asynccontextmanager
async def _webhooks(
    settings: Settings,
    database: Database,
    data_keys: DataKeys,
    clock: Clock,
    wake: Callable[[], None],
) -> AsyncIterator[tuple[Webhooks, WebhookTask]]:
    rows = WebhookRows(database)
    check = AddressCheck(settings.webhook_networks, setting="HUTCH_WEBHOOK_NETWORKS")
    webhooks = Webhooks(rows, data_keys, clock, check, wake=wake)
    await webhooks.load()
    task = WebhookTask(webhooks, rows, Sender(check), clock, wake=wake)
    try:
        yield webhooks, task
    finally:
        await task.close()


@contextlib.asynccontextmanager
async def _queue(
    settings: Settings, accounts: Accounts, rows: SandboxRows, clock: Clock, load: Load
) -> AsyncIterator[tuple[RunQueue, Places, Callable[[str], Awaitable[Limits]]]]:
    """Also what tells a user's limits."""
    by_tier = _limits(settings)

    async def limits(user_id: str) -> Limits:
        return by_tier[await accounts.tier(user_id)]

    async def weight(user_id: str) -> float:
        return (await limits(user_id)).weight

    run_queue = RunQueue(clock, most=settings.queue_max, places=lambda: places)
    places = Places(
        rows,
        load,
        clock,
        most=settings.max_containers,
        reserve_mb=settings.memory_reserve_mb,
        expected_mb=warm_pool.MEMBER_MB,
        starts_at_once=STARTS_AT_ONCE,
        turn_s=settings.turn_s,
        weight=weight,
        claimants=run_queue,
    )
    async with places, run_queue:
        yield run_queue, places, limits


def _rules(settings: Settings) -> Rules:
    return rules_for(
        settings.pool_size,
        settings.pool_max,
        up_above=settings.pool_grow_above,
        down_after_s=settings.pool_shrink_after_s,
    )


def _limits(settings: Settings) -> Mapping[str, Limits]:
    return {
        "free": Limits(settings.runs_free, settings.queue_free, settings.weight_free),
        "pro": Limits(settings.runs_pro, settings.queue_pro, settings.weight_pro),
        "team": Limits(settings.runs_team, settings.queue_team, settings.weight_team),
    }


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


def _make_data_dir(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    settings.data_dir.chmod(0o700)  # prompts and answers are in there


async def _prepared(backend: Backend) -> tuple[str, Capabilities]:
    """Where sandboxes reach the host, and what the backend can do."""
    host_address = await backend.prepare()
    capabilities = await backend.capabilities()
    if capabilities.warning:
        _log.warning("isolation.weak", warning=capabilities.warning)
    if capabilities.firewall_warning:
        _log.warning("firewall.down", warning=capabilities.firewall_warning)
    return host_address, capabilities


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
            "HUTCH_PREWARM": ",".join(PROVIDERS if sandbox.trial else settings.prewarm),
            "HUTCH_AGENT_IDLE_S": str(settings.agent_idle_s),
            "HUTCH_REHEARSE": "1" if sandbox.user_id is None and not sandbox.trial else "0",
            # RLIMIT_NPROC counts a uid over the whole host, except under gVisor, whose kernel
            # is the sandbox's own; elsewhere the container's own pids limit holds.
            "HUTCH_AGENT_PIDS": str(
                settings.agent_pids if capabilities.isolation == "gvisor" else 0
            ),
        }

    return environment
