"""The TypeScript client: as new as the API, and as steady as the Python one."""

from __future__ import annotations

import json
import random

import pytest

from hutch.cli.openapi import document
from tests.client.faulty import FaultyService, log, serving
from tests.typescript import SOURCE, built, node, npm

pytestmark = pytest.mark.timeout(300)  # the packages are fetched


def test_what_is_generated_is_up_to_date() -> None:
    folder = built()
    (folder / "openapi.json").write_text(document())
    npm("run", "generate", cwd=folder)
    made = (folder / "src" / "api.ts").read_text()
    assert made == (SOURCE / "src" / "api.ts").read_text(), "`make clients` makes it so"


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_survives(seed: int) -> None:
    service = FaultyService(random.Random(seed), faults=6)  # noqa: S311  no secret
    with serving(service):
        said = node("test/client.js", "stream", "hello", HUTCH_URL=service.url, HUTCH_API_KEY="key")
    assert [json.loads(line) for line in said.split("\n") if line] == log("run_1", service.length)
    assert len(service.runs) == 1


def test_what_it_is_told() -> None:
    service = FaultyService(random.Random(1), faults=0)  # noqa: S311  no secret
    environment = {"HUTCH_API_KEY": "key"}
    with serving(service):
        environment["HUTCH_URL"] = service.url
        last = str(service.length)
        assert node("test/client.js", "follow", "run_1", last, **environment) == ""
        error = {"error": {"code": "queue_full", "message": "No.", "hint": ""}}
        refusal = json.dumps(error).encode()
        service.replies["POST /v1/runs"] = [
            (429, {"retry-after": "1"}, refusal),
            (429, {"retry-after": "3600"}, refusal),
        ]
        assert json.loads(node("test/client.js", "run", "hello", **environment)) == {
            "name": "HutchError",
            "code": "queue_full",
            "status": 429,
        }
        assert len(service.replies["POST /v1/runs"]) == 0  # the first one was waited for
