"""One storm: start everything, let users prompt, kill by the schedule, wait, collect, audit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from chaos.audit import KINDS, Finding, audit
from chaos.evidence import Asked, Evidence, read_database, read_model_log, sandbox_processes
from chaos.kills import DATABASES, ENGINES, Killer, schedule
from chaos.own_engine import OwnEngine
from chaos.users import PATIENCE_S, SimulatedUser
from hutch.backends.base import LABEL_INSTANCE
from tests.postgres import Server, running_server
from tests.service import Service, docker, running_service

_FIRST_S: Final = 120  # for the first prompts, before the first kill
_SETTLE_S: Final = 60  # for what the last kill left to be found and mended
_PUT_AWAY_S: Final = 60  # for all users, once they rest; those that take longer are woken earlier
_POLL_S: Final = 0.5
_UP_S: Final = 10  # longer than a start that fails takes, on a busy machine
# So short that users who stop to think are frozen, and woken, and those who rest are put away.
_REST: Final = {"FREEZE_AFTER_S": "2", "HIBERNATE_AFTER_S": "6"}


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    kills: int
    users: int
    mean_s: float  # between kills
    minutes: float  # then it is over, whatever is left of the schedule
    image: str
    database: Literal["sqlite", "postgresql"] = "sqlite"


@dataclass(frozen=True, slots=True)
class Outcome:
    plan: Plan
    evidence: Evidence
    findings: list[Finding]
    seconds: float

    def report(self) -> dict[str, Any]:
        """Without a path or an address of the machine."""
        asked = self.evidence.asked
        found = Counter(finding.kind for finding in self.findings)
        return {
            "seed": self.plan.seed,
            "database": self.plan.database,
            "users": self.plan.users,
            "seconds": round(self.seconds),
            "kills": len(self.evidence.kills),
            "kills_by_victim": _counted(kill.victim for kill in self.evidence.kills),
            "prompts": len(asked),
            "requests_broken_and_repeated": sum(one.breaks for one in asked),
            "runs": len(self.evidence.runs),
            "runs_by_end": _counted(_end(run) for run in self.evidence.runs),
            "events": sum(len(events) for events in self.evidence.events.values()),
            "turns_at_the_model": len(self.evidence.model),
            "sandboxes_by_end": _counted(row["observed"] for row in self.evidence.sandboxes),
            **{kind: found[kind] for kind in KINDS},
            "findings": [f"{finding.kind}: {finding.what}" for finding in self.findings],
        }


def weather(plan: Plan, directory: Path, *, engine: OwnEngine | None, **settings: str) -> Outcome:
    """``settings`` as in ``running_service``. An engine that is given runs, and has the image."""
    ours = {"DOCKER_HOST": engine.host, "SUBNET": engine.subnet} if engine else {}
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = None
        if plan.database == "postgresql":  # as one that matters is set up, since it is killed
            server = stack.enter_context(running_server(fsync="on", full_page_writes="on"))
            ours["DATABASE_URL"] = server.new_database()
        service = stack.enter_context(
            running_service(
                directory, ISOLATION="gvisor", IMAGE=plan.image, **_REST, **ours, **settings
            )
        )
        asked, killer = asyncio.run(_storm(plan, service, engine, server))
        evidence = _collect(service, asked, killer)
    return Outcome(plan, evidence, audit(evidence), time.monotonic() - began)


async def _storm(
    plan: Plan, service: Service, engine: OwnEngine | None, server: Server | None
) -> tuple[list[Asked], Killer]:
    made = [service.make_user() for _ in range(plan.users)]
    killer = Killer(service, engine, server)
    over = asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as http:
        users = [
            SimulatedUser(user.id, user.key, service.url, seed=f"{plan.seed}-{number}", http=http)
            for number, user in enumerate(made)
        ]
        async with asyncio.timeout(_FIRST_S):  # a storm over what never worked would tell nothing
            await users[0].check_all_is_well(fresh=True)
        lives = [asyncio.create_task(user.live(over)) for user in users]
        try:
            until = time.monotonic() + plan.minutes * 60
            spared = {
                *(() if engine else ENGINES),
                *(() if server else DATABASES),
            }
            planned = schedule(plan.seed, plan.kills, mean_s=plan.mean_s, spared=spared)
            for kill in planned:
                if time.monotonic() > until:
                    break
                await asyncio.sleep(kill.after_s)
                await asyncio.to_thread(killer.carry_out, kill)
                killer.restart_ended()
            await asyncio.to_thread(_until_it_stays_up, killer)
        finally:
            over.set()
            await _within_patience(lives)
        await _check(users, fresh=True)
        await _check(users, fresh=False)
        await asyncio.to_thread(_wait_until_put_away, service)
        await _check(users, fresh=False)
        return [one for user in users for one in user.asked], killer


def _until_it_stays_up(killer: Killer) -> None:
    until = time.monotonic() + _UP_S
    while time.monotonic() < until:
        killer.restart_ended()
        time.sleep(_POLL_S)


async def _check(users: list[SimulatedUser], *, fresh: bool) -> None:
    checks = [asyncio.create_task(user.check_all_is_well(fresh=fresh)) for user in users]
    await _within_patience(checks)


async def _within_patience(tasks: list[asyncio.Task[None]]) -> None:
    """Whoever takes longer gives up, which the auditor sees."""
    done, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()


def _wait_until_put_away(service: Service) -> None:
    until = time.monotonic() + _PUT_AWAY_S
    while _containers(service) and time.monotonic() < until:
        time.sleep(_POLL_S)


def _collect(service: Service, asked: list[Asked], killer: Killer) -> Evidence:
    """Once nothing is on its way any more, or after a minute as it is."""
    until = time.monotonic() + _SETTLE_S
    while True:
        stored = read_database(service.settings.database)
        handles = {s["handle"] for s in stored["sandboxes"] if s["handle"]}
        evidence = Evidence(
            asked=asked,
            runs=stored["runs"],
            events=stored["events"],
            sandboxes=stored["sandboxes"],
            model=read_model_log(service.model_log),
            containers=_containers(service),
            processes=sandbox_processes(handles),
            kills=killer.kills,
        )
        unsettled = {f.kind for f in audit(evidence)} & {"orphan", "stuck"}
        if not unsettled or time.monotonic() > until:
            return evidence
        time.sleep(_POLL_S)


def _containers(service: Service) -> dict[str, str]:
    label = f"label={LABEL_INSTANCE}={service.settings.instance}"
    listed = docker("ps", "-a", "--no-trunc", "--filter", label, "--format", "{{.ID}} {{.State}}")
    return dict(line.split() for line in listed.splitlines())


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _end(run: dict[str, Any]) -> str:
    return f"{run['state']}: {run['error_code']}" if run["error_code"] else str(run["state"])
