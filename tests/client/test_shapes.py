"""The dataclasses have the fields of the service's own shapes, and each event has a class."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from hutch.api.app import create_app
from hutch.app import Hutch
from hutch.client import models
from hutch.client.events import TYPES, Event, RunFinished, TextDelta, parse
from hutch.runs.models import OWN_EVENT_TYPES
from hutch_runtime.protocol import EVENT_TYPES

NAMES = {
    models.Run: "RunWithPrompt",
    models.RunPage: "RunPage",
    models.Approval: "ApprovalAnswer",
    models.Session: "SessionAnswer",
    models.Container: "ContainerAnswer",
    models.Quotas: "Quotas",
    models.CpuQuota: "CpuQuota",
    models.MemoryQuota: "MemoryQuota",
    models.ProcessQuota: "ProcessQuota",
    models.OpenFilesQuota: "OpenFilesQuota",
    models.DiskQuota: "DiskQuota",
    models.EgressQuota: "EgressQuota",
    models.RunQuota: "RunQuota",
    models.Credential: "StoredCredential",
    models.SignIn: "SignInAnswer",
    models.ApiKey: "KeyInfo",
    models.NewApiKey: "KeyAnswer",
    models.Agreement: "AgreementAnswer",
    models.Network: "NetworkAnswer",
    models.Ticket: "TicketAnswer",
    models.TerminalInfo: "TerminalAnswer",
    models.File: "FileAnswer",
    models.FilePage: "FilePage",
    models.Unpacked: "UnpackedAnswer",
    models.Changes: "ChangesAnswer",
    models.ChangedFile: "ChangedFile",
    models.User: "UserAnswer",
    models.NewUser: "UserWithKey",
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    def never() -> AbstractAsyncContextManager[Hutch]:
        raise AssertionError("nothing is served here")

    found: dict[str, Any] = create_app(never).openapi()["components"]["schemas"]
    return found


@pytest.mark.parametrize("kind", NAMES, ids=lambda kind: kind.__name__)
def test_fields(kind: type, schemas: dict[str, Any]) -> None:
    ours = {field.name for field in dataclasses.fields(kind)}
    assert ours == set(schemas[NAMES[kind]]["properties"])


def test_each_event_has_a_class() -> None:
    assert set(TYPES) == EVENT_TYPES | OWN_EVENT_TYPES


def test_an_event_of_tomorrow() -> None:
    head = {"run_id": "run_1", "seq": 1, "time": 1.5}
    new = parse({**head, "type": "tomorrow", "what": 1})
    assert (type(new), new.type, new.raw["what"]) == (Event, "tomorrow", 1)
    changed = parse({**head, "type": "text.delta", "words": ["a"]})  # its text is gone
    assert (type(changed), changed.raw["words"]) == (Event, ["a"])
    more = parse({**head, "type": "text.delta", "text": "a", "colour": "red"})
    assert isinstance(more, TextDelta)
    assert more.raw["colour"] == "red"


def test_the_last_event_counts_as_such_whatever_it_says() -> None:
    head = {"run_id": "run_1", "seq": 1, "time": 1.5, "type": "run.finished"}
    assert parse(head).type == "run.finished"
    rest: dict[str, object] = {"stop_reason": "end_turn", "error": None, "text": "", "timings": {}}
    assert isinstance(parse({**head, **rest}), RunFinished)
