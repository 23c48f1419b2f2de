"""One place for a container and two users who both want it, with the real engine and CLIs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.service import Service, running_service


def live(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.admin.call("GET", "/v1/admin/containers")["containers"]
    return found


def test_two_users_take_turns_in_one_place(image: str, tmp_path: Path) -> None:
    with running_service(
        tmp_path, ISOLATION="gvisor", IMAGE=image, MAX_CONTAINERS="1", POOL_SIZE="0", TURN_S="1"
    ) as service:
        ada, bob = service.make_user(), service.make_user()
        first = ada.run("claude", "the word is heron")
        assert (first["state"], first["error"]) == ("succeeded", None)
        session = first["session_id"]

        def backlog() -> list[dict[str, Any]]:
            return [ada.run("claude", f"step {n}", session_id=session) for n in range(12)]

        with ThreadPoolExecutor(2) as pool:
            steps = pool.submit(backlog)
            time.sleep(0.5)
            events = list(bob.client.run("codex", "hello from bob"))
            assert events[-1]["stop_reason"] == "end_turn", events[-1]
            waited = [event["reason"] for event in events if event["type"] == "queued"]
            assert waited[0] == "capacity"
            most = 0
            while not steps.done():
                most = max(most, len([c for c in live(service) if c["observed"] != "hibernated"]))
                time.sleep(0.2)
        # And the first one went on in the same session, in another container.
        assert [run["error"] for run in steps.result()] == [None] * 12
        assert len({run["session_id"] for run in steps.result()}) == 1
        assert most == 1
        assert service.admin.call("GET", "/v1/admin/health")["queue"]["depth"] == 0
