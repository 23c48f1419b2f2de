"""What is asked of an image's CLIs, against a runtime that answers well and badly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hutch.app import Hutch
from hutch.runs import trial
from hutch.runs.trial import Trial, TrialFailed
from hutch.sandboxes.models import Sandbox
from hutch.sandboxes.runtime_client import RuntimeClient
from tests.orchestrator.conftest import World
from tests.orchestrator.runtime import Script, ScriptedRun, finished, never_ends

Events = AsyncIterator[tuple[str, dict[str, Any]]]


async def well(run: ScriptedRun) -> Events:
    """As the offline model has the CLIs do it."""
    yield run.started()
    text = run.prompt
    if "[[tool:shell" in run.prompt:
        yield "tool.started", {"tool_id": "1", "kind": "shell", "name": "sh", "input": {}}
        yield "tool.finished", {"tool_id": "1", "ok": True, "output": "TRIED"}
        text = 'tool_result="TRIED"'
    elif run.prompt == "[[recall]]":
        text = "earlier=a word that is tried"
    yield finished(text=text)


async def forgetful(run: ScriptedRun) -> Events:
    async for kind, data in well(run):
        yield (
            kind,
            data | ({"text": "earlier="} if "recall" in run.prompt and "text" in data else {}),
        )


async def without_tools(run: ScriptedRun) -> Events:
    yield run.started()
    yield finished(text=run.prompt if "tool" not in run.prompt else "I have no tools")


async def with_new_words(run: ScriptedRun) -> Events:
    yield run.started()
    yield "unparsed", {"line": '{"type": "brand.new"}'}
    yield finished(text=run.prompt)


async def broken(run: ScriptedRun) -> Events:
    yield run.started()
    yield finished("error", error={"code": "agent_died", "message": "a library is missing"})


async def only_codex_is_broken(run: ScriptedRun) -> Events:
    async for event in (broken if run.provider == "codex" else well)(run):
        yield event


async def checked(world: World, hutch: Hutch, user_id: str) -> None:
    sandbox: Sandbox = await hutch.sandboxes.ensure(user_id)
    client = RuntimeClient(world.settings.secret)
    try:
        await Trial(client).check(sandbox, asked={"claude", "codex", "gemini"})
    finally:
        await client.close()


async def test_three_turns_of_each(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.script = well
    await checked(world, hutch, user_id)
    runs = list(world.runtime.runs.values())
    assert [run.provider for run in runs] == [
        p for p in ("claude", "codex", "gemini") for _ in "123"
    ]
    assert len({run.session for run in runs}) == 3


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (forgetful, "claude did not remember"),
        (without_tools, "claude did not run a command; it said: I have no tools"),
        (with_new_words, "claude says what its runtime does not know"),
        (broken, "claude did not answer: a library is missing"),
        (only_codex_is_broken, "codex did not answer: a library is missing"),
        (never_ends, "claude did not end a turn within 0.2 seconds"),
    ],
)
async def test_what_is_wrong_is_said(
    world: World,
    hutch: Hutch,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    script: Script,
    reason: str,
) -> None:
    if script is never_ends:
        monkeypatch.setattr(trial, "TURN_WITHIN_S", 0.2)
    world.runtime.script = script
    with pytest.raises(TrialFailed, match=reason):
        await checked(world, hutch, user_id)


async def test_nonsense_is_no_image(world: World, hutch: Hutch, user_id: str) -> None:
    world.runtime.raw = [b"{]"]
    with pytest.raises(TrialFailed, match="not JSON"):
        await checked(world, hutch, user_id)
