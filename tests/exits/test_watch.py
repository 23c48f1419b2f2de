"""Spares are the operator's choice: without it, a user stays on their own exit, also a dead one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hutch.control.exits import SICK_EVERY_S, ExitWatch
from hutch.exits.probe import Probe
from hutch.exits.service import Exits
from hutch.gateway.table import ExitProxy
from tests.exits.conftest import USERS, Office, stock

EVERY_S = 300.0
DEAD = Probe(False, reason="it is dead.")


@dataclass
class Looks:
    """What each exit shows by its port; and which were looked at."""

    by_port: dict[int, Probe] = field(default_factory=dict)
    seen: list[int] = field(default_factory=list)

    async def __call__(self, proxy: ExitProxy, _url: str) -> Probe:
        self.seen.append(proxy.port)
        return self.by_port.get(proxy.port, Probe(True, f"192.0.2.{proxy.port}"))


@pytest.fixture
def looks() -> Looks:
    return Looks()


def watch_of(office: Office, exits: Exits, looks: Looks, *, spare_after: int = 0) -> ExitWatch:
    return ExitWatch(
        exits, office.gateway, office.clock,
        url="", every_s=EVERY_S, spare_after=spare_after, look=looks,
    )  # fmt: skip


async def test_without_the_rule_nobody_moves(office: Office, exits: Exits, looks: Looks) -> None:
    await stock(exits, 2)
    home = (await exits.lease(USERS[0])).exit
    looks.by_port[home.port] = DEAD
    watch = watch_of(office, exits, looks)
    for _ in range(5):
        await watch.run()
        office.clock.time += SICK_EVERY_S
    lease = exits.of(USERS[0])
    assert lease is not None
    assert not lease.spare
    # A spare from before the rule was switched off ends with the exit's recovery, as any.
    assert (await exits.give_spare(USERS[0])) is not None
    looks.by_port.clear()
    await watch.run()
    lease = exits.of(USERS[0])
    assert lease is not None
    assert not lease.spare
