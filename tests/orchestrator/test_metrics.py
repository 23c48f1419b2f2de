"""What a monitoring system sees."""

from __future__ import annotations

import re
from typing import Any

from hutch.app import Hutch
from hutch.errors import Unavailable
from tests.orchestrator.conftest import Api, World, run_to_end


async def test_how_things_stand(hutch: Hutch, world: World, api: Api, user_id: str) -> None:
    await run_to_end(hutch, user_id)
    await hutch.vault.set_state(user_id, "codex", "needs_login", "the token is used up")
    admin = (await hutch.accounts.create_key("admin")).text
    status, text = await api("GET", "/metrics", admin)
    assert status == 200
    for line in (
        'hutch_sandboxes{state="running"} 1.0',
        'hutch_credentials{state="ok"} 2.0',
        'hutch_credentials{state="needs_login"} 1.0',
        "hutch_exits_leased 0.0",
        "hutch_queue_depth 0.0",
        'hutch_queue_wait_seconds_bucket{le="+Inf"} 1.0',
        "hutch_queue_wait_seconds_count 1.0",
        'hutch_places_given_total{how="cold"} 1.0',
        "hutch_pool_target 0.0",
        "hutch_pool_warm 0.0",
        'hutch_task_report{task="pool",what="size"} 0.0',
        "hutch_gateway_up 1.0",
        "hutch_gateway_sandboxes 1.0",  # the gateway's own
    ):
        assert f"\n{line}\n" in f"\n{text}", line
    # Everything that is said is said once, in the form of a metric.
    names = [m[1] for line in text.splitlines() if (m := re.match(r"# TYPE (\S+) ", line))]
    assert len(names) == len(set(names))

    async def gone() -> Any:
        raise Unavailable("The gateway does not answer.")

    world.gateway.metrics = gone  # type: ignore[method-assign]  # as if it were not there
    status, text = await api("GET", "/metrics", admin)
    assert status == 200
    assert "hutch_gateway_up 0.0" in text
