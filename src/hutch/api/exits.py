from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from hutch.api.caller import CallerDep, HutchDep, admin
from hutch.api.shapes import Asked, Shape, Time
from hutch.app import Hutch
from hutch.exits.importing import parse
from hutch.exits.models import Exit, Health, Kind, Lease, Role, State

router = APIRouter(prefix="/v1", tags=["exits"])
_admin = [Depends(admin)]


class ExitsImport(Asked):
    text: str = Field(description="The file's content: lines, CSV or YAML.", repr=False)
    dry_run: bool = Field(False, description="Check and count; change nothing.")


class ExitsImported(Shape):
    added: int
    updated: int
    unchanged: int
    egress: str = Field(description="With direct, nobody uses them yet: HUTCH_EGRESS=exits.")


class ExitAnswer(Shape):
    id: str
    kind: Kind = Field(description="static, or sticky: a residential session, which may change.")
    host: str
    port: int
    username: str
    label: str
    state: State = Field(description="active, or draining: leased to nobody else.")
    health: Health
    reason: str
    failures: int = Field(description="Failed probes in a row.")
    expected_ip: str | None
    seen_ip: str | None = Field(description="Where its traffic was last seen to come from.")
    expires_at: Time | None
    probed_at: Time | None
    user_id: str | None = Field(description="Whose it is; null: free.")
    role: Role | None = Field(description="home, or spare: while that user's own does not work.")
    since: Time | None


class ExitPage(Shape):
    exits: list[ExitAnswer]


class AlertAnswer(Shape):
    id: str
    exit_id: str | None = Field(description="Of an exit's.")
    what: str = Field(
        description="exit_down, exit_drifted, exit_errors, cpu_high, memory_high or disk_low."
    )
    detail: str
    since: Time


class AlertPage(Shape):
    alerts: list[AlertAnswer]


class OwnExit(Shape):
    """What a user may know of an exit: not where it is, nor how it is logged in to."""

    id: str
    kind: Kind
    ip: str | None = Field(description="The address that the world sees; null: not probed yet.")
    health: Health
    reason: str
    probed_at: Time | None


class HappeningAnswer(Shape):
    exit_id: str
    what: str = Field(
        description="leased, released, removed, spare, healed, or a health: up, down, drifted."
    )
    detail: str
    at: Time


class OwnExitAnswer(Shape):
    egress: str = Field(description="exits, or direct: the server's own address.")
    exit: OwnExit | None = Field(description="What traffic takes now.")
    home: OwnExit | None = Field(description="One's own; another than `exit` while it is down.")
    history: list[HappeningAnswer]


@router.get("/exit")
async def own_exit(hutch: HutchDep, caller: CallerDep) -> OwnExitAnswer:
    """The exit that the caller's traffic leaves through, and what happened to it."""
    lease = hutch.exits.of(caller.user_id)
    history = await hutch.exits.history(caller.user_id)
    return OwnExitAnswer(
        egress=hutch.settings.egress,
        exit=_own(lease.exit) if lease else None,
        home=_own(lease.home) if lease else None,
        history=[HappeningAnswer.model_validate(one) for one in history],
    )


@router.post("/admin/exits/import", dependencies=_admin)
async def import_exits(asked: ExitsImport, hutch: HutchDep) -> ExitsImported:
    """Add the exits of a file, or renew their passwords. All of it, or nothing."""
    done = await hutch.exits.import_(parse(asked.text), dry_run=asked.dry_run)
    hutch.driver.wake("exits")
    return ExitsImported(
        added=done.added,
        updated=done.updated,
        unchanged=done.unchanged,
        egress=hutch.settings.egress,
    )


@router.get("/admin/exits", dependencies=_admin)
async def list_exits(hutch: HutchDep) -> ExitPage:
    return ExitPage(exits=[ExitAnswer.model_validate(one) for one in hutch.exits.all()])


@router.post("/admin/exits/{exit_id}/probe", dependencies=_admin)
async def probe_exit(exit_id: str, hutch: HutchDep) -> ExitAnswer:
    """Look at it now."""
    await hutch.exit_watch.probe(hutch.exits.get(exit_id))
    return ExitAnswer.model_validate(hutch.exits.get(exit_id))


@router.post("/admin/exits/{exit_id}/drain", dependencies=_admin)
async def drain_exit(
    exit_id: str,
    hutch: HutchDep,
    move: Annotated[bool, Query(description="Give its user another one now.")] = False,  # noqa: FBT002  a query parameter
) -> ExitAnswer:
    """Lease it to nobody else from now on."""
    return ExitAnswer.model_validate(await hutch.exits.drain(exit_id, move=move))


@router.delete("/admin/exits/{exit_id}", status_code=204, dependencies=_admin)
async def remove_exit(
    exit_id: str,
    hutch: HutchDep,
    force: Annotated[bool, Query(description="Also while it is leased.")] = False,  # noqa: FBT002  a query parameter
) -> None:
    await hutch.exits.remove(exit_id, force=force)


@router.post("/admin/users/{user_id}/exit", dependencies=_admin)
async def lease_exit(user_id: str, hutch: HutchDep) -> ExitAnswer:
    """The user's exit, leased now if they have none (the plan's `allocateStaticIP`)."""
    lease = await hutch.exits.lease((await hutch.accounts.user(user_id)).id)
    return await _probed(hutch, lease)


@router.delete("/admin/users/{user_id}/exit", status_code=204, dependencies=_admin)
async def release_exit(user_id: str, hutch: HutchDep) -> None:
    """Give it back (the plan's `releaseStaticIP`). The user gets it again while it is free."""
    await hutch.exits.release((await hutch.accounts.user(user_id)).id)


@router.get("/admin/alerts", dependencies=_admin)
async def list_alerts(hutch: HutchDep) -> AlertPage:
    """What needs an operator's eye now; empty when all is well."""
    alerts = hutch.alerts()
    return AlertPage(alerts=[AlertAnswer.model_validate(alert) for alert in alerts])


async def _probed(hutch: Hutch, lease: Lease) -> ExitAnswer:
    if lease.exit.probed_at is None:
        await hutch.exit_watch.probe(lease.exit)
    return ExitAnswer.model_validate(hutch.exits.get(lease.exit.id))


def _own(exit_: Exit) -> OwnExit:
    return OwnExit(
        id=exit_.id,
        kind=exit_.kind,
        ip=exit_.seen_ip,
        health=exit_.health,
        reason=exit_.reason,
        probed_at=exit_.probed_at,
    )
