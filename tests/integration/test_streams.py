"""The events of a run, read from the middle, by several at once, and after its end."""

from __future__ import annotations

import itertools
import random

import httpx2
import pytest

from hutch_runtime.protocol import PROVIDERS, Provider
from tests.integration.driving import check_log
from tests.service import Service, User

each_provider = pytest.mark.parametrize("provider", PROVIDERS)


@each_provider
def test_a_cut_stream_is_taken_up_where_it_broke(user: User, provider: Provider) -> None:
    stream = user.client.run(provider, "[[slow:60,15]]")
    cut = random.randint(1, 50)  # noqa: S311  anywhere
    seen = list(itertools.islice(stream, cut))
    stream.close()  # type: ignore[attr-defined]  # a generator; this closes the connection
    run_id = seen[0]["run_id"]
    while seen[-1]["type"] != "run.finished":  # and break off again and again
        again = user.client.follow(run_id, after=seen[-1]["seq"])
        seen += itertools.islice(again, 20)
        again.close()  # type: ignore[attr-defined]  # the same
    check_log(seen)
    assert list(user.client.follow(run_id)) == seen
    middle = len(seen) // 2
    assert list(user.client.follow(run_id, after=middle)) == seen[middle:]
    assert list(user.client.follow(run_id, after=len(seen))) == []
    assert sum(event["type"] == "text.delta" for event in seen) >= 60


def test_the_stream_on_the_wire(service: Service, user: User) -> None:
    headers = {"authorization": f"Bearer {user.key}"}
    asked = {"provider": "claude", "prompt": "on the wire", "stream": True}
    with httpx2.Client(base_url=service.url, headers=headers, trust_env=False) as http:
        answer = http.post("/v1/runs", json=asked)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        run_id, session_id = answer.headers["x-hutch-run"], answer.headers["x-hutch-session"]
        assert user.client.get_run(run_id)["session_id"] == session_id
        blocks = answer.text.removesuffix("\n\n").split("\n\n")
        assert [b.split("\n")[0] for b in blocks] == [f"id: {n + 1}" for n in range(len(blocks))]
        assert blocks[-1].split("\n")[1] == "event: run.finished"
        events = f"/v1/runs/{run_id}/events"
        rest = http.get(events, headers={"last-event-id": "2"})
        assert rest.text == "".join(block + "\n\n" for block in blocks[2:])
        for nonsense in ("-1", "two", "1e3", "9" * 40):
            refused = http.get(events, headers={"last-event-id": nonsense})
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                400,
                "invalid_request",
            )
