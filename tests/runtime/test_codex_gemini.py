"""Codex and Gemini, the real CLIs, in the same situations."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hutch_runtime.protocol import PROMPT_MAX_BYTES
from hutch_runtime.providers.base import (
    Agent,
    AgentDied,
    AgentStartFailed,
    Outcome,
    Prompt,
    SessionNotFound,
)
from hutch_runtime.providers.codex import CodexDriver
from hutch_runtime.providers.gemini import GeminiDriver
from tests.runtime.driving import Log, make_setup
from tests.runtime.model import Model, running_model

Either = CodexDriver | GeminiDriver
_DRIVERS: dict[str, type[Either]] = {"codex": CodexDriver, "gemini": GeminiDriver}
# Both wait between their tries.
_RETRIED_S = 20


@pytest.fixture(scope="module")
def model_process() -> Iterator[Model]:
    with running_model() as model:
        yield model


@pytest.fixture
def model(model_process: Model) -> Model:
    model_process.forget()
    return model_process


@pytest.fixture(params=["codex", "gemini"])
async def driver(
    request: pytest.FixtureRequest, tmp_path: Path, model: Model
) -> AsyncIterator[Either]:
    made = _DRIVERS[request.param](make_setup(request.param, tmp_path, model.url))
    yield made
    await made.close()


async def say(agent: Agent, text: str, model: str | None = None) -> tuple[Outcome, Log]:
    log = Log()
    return await agent.prompt(Prompt(text, model), log), log


async def test_a_turn(driver: Either) -> None:
    agent = await driver.spare()
    assert agent.alive
    assert agent.resumed is None
    outcome, log = await say(agent, "good morning")
    assert outcome.stop_reason == "end_turn"
    assert outcome.error is None
    assert 'you said "good morning"' in outcome.text
    assert log.of("text") == [{"text": outcome.text}]
    assert "".join(delta["text"] for delta in log.of("text.delta")) == outcome.text
    assert log.types()[-1] == "usage"
    assert log.of("usage")[0]["input_tokens"] > 0
    assert log.of("usage")[0]["output_tokens"] > 0


async def test_turns_of_a_session_remember(driver: Either) -> None:
    agent = await driver.spare()
    await say(agent, "the word is heron")
    first, log = await say(agent, "[[recall]]")
    assert "the word is heron" in first.text
    assert len(log.of("usage")) == 1


async def test_reasoning(driver: Either) -> None:
    _, log = await say(await driver.spare(), "[[reasoning]] hello")
    assert "no thought" in "".join(piece["text"] for piece in log.of("reasoning.delta"))


async def test_a_tool_writes_a_file(driver: Either, tmp_path: Path) -> None:
    outcome, log = await say(await driver.spare(), "[[tool:write out.txt some words]]")
    assert outcome.stop_reason == "end_turn"
    assert (tmp_path / "workspace" / "out.txt").read_text().strip() == "some words"
    assert len(log.of("tool.started")) == 1
    assert log.of("tool.finished")[0]["ok"] is True
    assert log.of("tool.started")[0]["tool_id"] == log.of("tool.finished")[0]["tool_id"]


async def test_a_shell_command(driver: Either) -> None:
    _, log = await say(await driver.spare(), "[[tool:shell echo from the shell]]")
    started = log.of("tool.started")[0]
    assert started["kind"] == "shell"
    assert "echo from the shell" in started["input"]["command"]


async def test_codex_trusts_one_root_and_its_commands_all(tmp_path: Path, model: Model) -> None:
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.is_file():
        pytest.skip("this machine keeps its trusted roots elsewhere")
    driver = CodexDriver(make_setup("codex", tmp_path, model.url))
    try:
        agent = await driver.spare()
        own = Path(f"/proc/{agent.pid}/environ").read_bytes().split(b"\0")
        await say(agent, '[[tool:shell printf %s "$SSL_CERT_FILE" > seen]]')
    finally:
        await driver.close()
    [root] = [value for value in own if value.startswith(b"SSL_CERT_FILE=")]
    assert Path(root.decode().partition("=")[2]).read_bytes().count(b"BEGIN CERTIFICATE") == 1
    assert (tmp_path / "workspace" / "seen").read_text() == str(bundle)


@pytest.mark.parametrize("way", ["proxy", "remote MCP server"])
async def test_codex_trusts_all_roots_where_it_may_need_them(
    tmp_path: Path, model: Model, way: str
) -> None:
    setup = make_setup("codex", tmp_path, model.url)
    if way == "proxy":
        proxy = {"https_proxy": model.url, "no_proxy": "127.0.0.1"}
        setup = dataclasses.replace(setup, environment={**setup.environment, **proxy})
    else:
        config = setup.home.path / ".codex" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text('[mcp_servers.far]\nurl = "https://127.0.0.1:1/mcp"\n')
    driver = CodexDriver(setup)
    try:
        agent = await driver.spare()
        own = Path(f"/proc/{agent.pid}/environ").read_bytes().split(b"\0")
    finally:
        await driver.close()
    assert not [value for value in own if value.startswith(b"SSL_CERT_FILE=")]


async def test_cancel_ends_the_turn_and_not_the_session(driver: Either) -> None:
    agent = await driver.spare()
    await say(agent, "the word is heron")
    log = Log()
    running = asyncio.create_task(agent.prompt(Prompt("[[slow:1000,50]]"), log))
    await log.first("text.delta")
    await agent.cancel()
    await agent.cancel()
    outcome = await asyncio.wait_for(running, 5)
    assert outcome.stop_reason == "cancelled"
    assert log.of("text")[-1]["text"] == outcome.text
    after, _ = await say(agent, "[[recall]]")
    assert after.stop_reason == "end_turn"
    assert "the word is heron" in after.text
    await agent.cancel()  # nothing runs: nothing happens
    assert (await say(agent, "and on"))[0].stop_reason == "end_turn"


async def test_cancel_at_once(driver: Either) -> None:
    agent = await driver.spare()
    running = asyncio.create_task(agent.prompt(Prompt("[[hang]]"), Log()))
    await asyncio.sleep(0)
    await agent.cancel()
    assert (await asyncio.wait_for(running, 10)).stop_reason == "cancelled"
    assert (await say(agent, "hello"))[0].stop_reason == "end_turn"


async def test_cancel_stops_a_tool(driver: Either) -> None:
    agent = await driver.spare()
    log = Log()
    running = asyncio.create_task(agent.prompt(Prompt("[[tool:shell sleep 600]]"), log))
    await log.first("tool.started")
    await agent.cancel()
    assert (await asyncio.wait_for(running, 10)).stop_reason == "cancelled"
    assert len(log.of("tool.finished")) == 1


async def test_killed_between_turns_it_is_resumed(driver: Either) -> None:
    agent = await driver.spare()
    await say(agent, "the word is heron")
    await say(agent, "[[tool:shell echo cormorant]]")
    for number in range(2):  # what was resumed can be resumed
        assert agent.pid is not None
        os.killpg(agent.pid, signal.SIGKILL)
        assert "SIGKILL" in await asyncio.wait_for(agent.gone(), 5)
        assert not agent.alive
        session = agent.session
        agent = await driver.resume(session)
        assert (agent.session, agent.resumed, agent.alive) == (session, "resumed", True)
        outcome, log = await say(agent, f"[[recall]] {number}")
        assert "the word is heron" in outcome.text
        assert "cormorant" in outcome.text
        # The tokens of this turn, not of the whole session.
        assert len(log.of("usage")) == 1
        # What went before is not told again.
        assert log.types().count("text") == 1
        assert not log.of("tool.started")
    assert "[[recall]] 0" in outcome.text


async def test_killed_in_the_middle_of_a_turn(driver: Either) -> None:
    agent, other = await driver.spare(), await driver.spare()
    await say(agent, "the word is heron")
    log = Log()
    running = asyncio.create_task(agent.prompt(Prompt("[[tool:shell sleep 600]]"), log))
    await log.first("tool.started")
    assert agent.pid is not None
    os.killpg(agent.pid, signal.SIGKILL)
    with pytest.raises(AgentDied, match="SIGKILL"):
        await asyncio.wait_for(running, 5)
    assert not other.alive
    assert [tool["ok"] for tool in log.of("tool.finished")] == [False]
    with pytest.raises(AgentDied):
        await say(agent, "anyone?")
    again = await driver.resume(agent.session)
    assert "the word is heron" in (await say(again, "[[recall]]"))[0].text


async def test_closed_and_taken_up_again_in_the_same_process(driver: Either) -> None:
    agent = await driver.spare()
    await say(agent, "the word is heron")
    pid = agent.pid
    await agent.close()
    await agent.close()
    assert not agent.alive
    assert await agent.gone() == "closed"
    again = await driver.resume(agent.session)
    assert again.pid == pid
    assert "the word is heron" in (await say(again, "[[recall]]"))[0].text


async def test_closing_ends_a_running_turn(driver: Either) -> None:
    agent = await driver.spare()
    log = Log()
    running = asyncio.create_task(agent.prompt(Prompt("[[slow:1000,50]]"), log))
    await log.first("text.delta")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await agent.close()
    again = await driver.resume(agent.session)
    assert (await say(again, "hello"))[0].stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "provider_bad_request"),
        (401, "provider_auth"),
        (404, "model_not_found"),
        (429, "provider_rate_limited"),
        (503, "provider_overloaded"),
        (529, "provider_overloaded"),
    ],
)
async def test_errors_of_the_model(driver: Either, status: int, code: str) -> None:
    agent = await driver.spare()
    outcome, log = await asyncio.wait_for(say(agent, f"[[status:{status}]]"), _RETRIED_S)
    assert outcome.stop_reason == "error"
    assert outcome.error is not None
    assert outcome.error.code == code
    assert {retry["code"] for retry in log.of("retrying")} <= {code}
    assert (await say(agent, "hello"))[0].stop_reason == "end_turn"


@pytest.mark.parametrize("provider", ["codex", "gemini"])
async def test_no_gateway(provider: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    setup = make_setup(provider, tmp_path, f"http://127.0.0.1:{port}")  # type: ignore[arg-type]
    driver = _DRIVERS[provider](setup)
    outcome, _ = await asyncio.wait_for(say(await driver.spare(), "hello"), _RETRIED_S)
    assert outcome.error is not None
    assert outcome.error.code == "provider_unreachable"
    await driver.close()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "it's \"quoted\" \\ and `ticked`\n\n\tand $(touch /x) ; rm -rf '", id="quotes"
        ),
        pytest.param("$(touch pwned) && echo", id="dollar"),
        pytest.param("$ init", id="dollar-command"),
        pytest.param("/help me", id="slash"),
        pytest.param("  /about\n", id="slash-after-space"),
        pytest.param("a\x00b\x01\x1b[31m\x7f", id="nul"),
        pytest.param("\r\nlines\r and \u2028\u2029\x85 more\n", id="line-ends"),
        pytest.param("\U0001f9a9 \u202e ẍ 中文 \U0010ffff", id="emoji"),
        pytest.param("@/etc/passwd @file.txt", id="at"),
        pytest.param("--help -c x=y", id="option"),
        # No line twice: Gemini ends a turn whose answer, an echo here, repeats itself.
        pytest.param(
            "".join(f"{number:x}\n" for number in range(200_000))[:PROMPT_MAX_BYTES], id="1MB"
        ),
    ],
)
async def test_prompts_arrive_byte_for_byte(driver: Either, model: Model, text: str) -> None:
    outcome, _ = await say(await driver.spare(), text)
    assert outcome.stop_reason == "end_turn"
    seen = [request for request in model.requests() if request["kind"] == "turn"]
    assert [request["text_sha256"] for request in seen] == [
        hashlib.sha256(text.encode()).hexdigest()
    ]


async def test_the_model_is_of_the_turn(driver: Either, model: Model) -> None:
    agent = await driver.spare()
    named = "gpt-5.5-codex" if isinstance(driver, CodexDriver) else "gemini-2.5-flash"
    seen = []
    for text, wanted in (("one", None), ("two", named), ("three", None)):
        await say(agent, text, wanted)
        # The last: Codex has the old model sum up the conversation before it turns to another.
        seen.append(model.requests()[-1]["model"])
    assert seen[1] == named
    assert seen[0] == seen[2] != named


async def test_two_sessions_at_once_do_not_mix(driver: Either) -> None:
    agents = [await driver.spare(), await driver.spare()]
    assert agents[0].pid == agents[1].pid
    assert agents[0].session != agents[1].session
    for number, agent in enumerate(agents):
        await say(agent, f"the word is bird{number}")
    turns = await asyncio.gather(
        *(say(agent, f"[[slow:10,20]] [[recall]] ask{n}") for n, agent in enumerate(agents))
    )
    for number, (outcome, log) in enumerate(turns):
        assert f"ask{number}" in outcome.text
        assert f"bird{number}" in outcome.text
        assert f"bird{1 - number}" not in outcome.text
        assert outcome.text.endswith(" token10")
        assert "".join(delta["text"] for delta in log.of("text.delta")) == outcome.text
        assert len(log.of("usage")) == 1


async def test_the_placeholder_is_all_that_it_sends(driver: Either, model: Model) -> None:
    await say(await driver.spare(), "hello")
    expected = hashlib.sha256(b"hutch-placeholder").hexdigest()[:8]
    assert {request["key"] for request in model.requests()} == {expected}


@pytest.mark.parametrize(
    "session",
    [
        "01a2087a-af55-7422-9d17-b15c25c87fb6",
        "latest",
        "1",
        "",
        "../../../etc/passwd",
        " 01a2087a-af55-7422-9d17-b15c25c87fb6",
        "x" * 10_000,
    ],
)
async def test_unknown_sessions(driver: Either, session: str) -> None:
    await say(await driver.spare(), "a session that could be mistaken for it")
    with pytest.raises(SessionNotFound):
        await driver.resume(session)


@pytest.mark.parametrize("provider", ["codex", "gemini"])
@pytest.mark.parametrize("argv", [("/nonexistent/cli",), ("false",), ("sh", "-c", "echo why >&2")])
async def test_a_cli_that_does_not_start(
    provider: str, argv: tuple[str, ...], tmp_path: Path
) -> None:
    setup = make_setup(provider, tmp_path, "http://127.0.0.1:9")  # type: ignore[arg-type]
    driver = _DRIVERS[provider](dataclasses.replace(setup, argv=argv))
    with pytest.raises(AgentStartFailed) as caught:
        await driver.spare()
    assert ("why" in str(caught.value)) == (argv[0] == "sh")
    await driver.close()


async def test_closing_the_driver_ends_the_process(driver: Either) -> None:
    agent = await driver.spare()
    assert agent.pid is not None
    await driver.close()
    assert not agent.alive
    assert await asyncio.wait_for(agent.gone(), 1)
    with pytest.raises(AgentStartFailed):
        await driver.spare()
