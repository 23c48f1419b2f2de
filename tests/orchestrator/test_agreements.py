from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from hutch.accounts.documents import AGREEMENT, CLAUDE_SESSION_TOKEN, Document, documents
from hutch.app import Hutch
from hutch.errors import (
    AgreementRequired,
    Conflict,
    CredentialNotAllowed,
    HostNotReady,
    NotFound,
)
from hutch.runs.service import NewRun
from tests.orchestrator.conftest import Api, World, new_user

TOKEN = "sk-ant-oat01-a-token-of-mine"
TEXT = "Be kind.\n"


@pytest.fixture
def agreement(tmp_path: Path) -> Path:
    path = tmp_path / "agreement.txt"
    path.write_text(TEXT)
    return path


@contextlib.asynccontextmanager
async def with_documents(world: World, **settings: object) -> AsyncIterator[Hutch]:
    world.settings = world.settings.model_copy(update=settings)
    async with world.orchestrator() as hutch:
        yield hutch


async def test_no_run_before_the_agreement(world: World, agreement: Path) -> None:
    async with with_documents(world, agreement_file=agreement) as hutch:
        user_id = await new_user(hutch, "someone")
        other = await new_user(hutch, "another")
        with pytest.raises(AgreementRequired) as raised:
            await hutch.runs.submit(user_id, NewRun("claude", "hello"))
        version = Document(AGREEMENT, TEXT, required=True).version
        assert f"hutch agreements accept {AGREEMENT} {version}" in raised.value.hint
        accepted = await hutch.agreements.accept(user_id, AGREEMENT, version)
        assert accepted.accepted_at is not None
        run = await hutch.runs.submit(user_id, NewRun("claude", "hello"))
        assert (await hutch.runs.finished(user_id, run.id)).state == "succeeded"
        again = await hutch.agreements.accept(user_id, AGREEMENT, version)
        assert again.accepted_at == accepted.accepted_at
        with pytest.raises(AgreementRequired):
            await hutch.runs.submit(other, NewRun("claude", "hello"))
    # It holds after a restart, for as long as the text is the same.
    async with world.orchestrator() as hutch:
        await hutch.agreements.require(user_id)
    agreement.write_text(TEXT + "Be careful.\n")
    async with world.orchestrator() as hutch:
        with pytest.raises(AgreementRequired):
            await hutch.agreements.require(user_id)
        with pytest.raises(Conflict):
            await hutch.agreements.accept(user_id, AGREEMENT, version)


async def test_an_accepted_agreement_costs_a_prompt_no_query(world: World, agreement: Path) -> None:
    async with with_documents(world, agreement_file=agreement) as hutch:
        user_id = await new_user(hutch, "someone")
        version = Document(AGREEMENT, TEXT, required=True).version
        await hutch.agreements.accept(user_id, AGREEMENT, version)
        queries: list[str] = []

        def note(*arguments: Any) -> None:
            if "FROM agreements" in (statement := str(arguments[2])):  # others' tasks go on
                queries.append(statement)

        event.listen(hutch.database.engine, "before_cursor_execute", note)
        await hutch.agreements.require(user_id)
        assert len(queries) == 1
        await hutch.agreements.require(user_id)
        assert len(queries) == 1
        # A deleted user's place in the cache goes with them.
        await hutch.deletion.delete(user_id)
        with pytest.raises(AgreementRequired):
            await hutch.agreements.require(user_id)


async def test_nothing_to_accept_by_default(hutch: Hutch, user_id: str) -> None:
    assert await hutch.agreements.of(user_id) == []
    await hutch.agreements.require(user_id)
    with pytest.raises(NotFound):
        await hutch.agreements.accept(user_id, AGREEMENT, "0" * 12)


async def test_session_tokens_are_off_by_default(hutch: Hutch, user_id: str) -> None:
    with pytest.raises(CredentialNotAllowed) as raised:
        await hutch.vault.put(user_id, "claude", "session_token", TOKEN)
    assert "HUTCH_CLAUDE_SESSION_TOKENS" in raised.value.hint
    assert "docs/legal.md" in raised.value.hint
    assert (await hutch.vault.info(user_id, "claude")).kind == "api_key"  # the one before


async def test_session_tokens_need_both_switch_and_consent(world: World) -> None:
    async with with_documents(world, claude_session_tokens=True) as hutch:
        user_id = await new_user(hutch, "someone")
        await hutch.agreements.require(user_id)  # runs go on without
        with pytest.raises(CredentialNotAllowed) as raised:
            await hutch.vault.put(user_id, "claude", "session_token", TOKEN)
        assert "docs/legal.md" in raised.value.hint
        [shown] = await hutch.agreements.of(user_id)
        assert (shown.document, shown.accepted_at) == (CLAUDE_SESSION_TOKEN, None)
        assert "Anthropic" in shown.text
        await hutch.agreements.accept(user_id, CLAUDE_SESSION_TOKEN, shown.version)
        info = await hutch.vault.put(user_id, "claude", "session_token", TOKEN)
        assert (info.kind, info.last_four) == ("session_token", TOKEN[-4:])
        # As the gateway gets it: Anthropic takes such a token with this header alone.
        await hutch.sandboxes.ensure(user_id)
        [placeholder] = [s.env["HUTCH_PLACEHOLDER_KEY"] for s in world.backend.specs]
        entry = world.gateway.table.find("127.0.0.1", [placeholder])
        assert entry is not None
        route = entry.routes["claude"]
        assert [(name, secret.reveal()) for name, secret in route.headers] == [
            ("authorization", f"Bearer {TOKEN}")
        ]
        assert route.added == (("anthropic-beta", "oauth-2025-04-20"),)
        assert not route.own_credential
    # Switched off again, it is no longer used, and its user is told why.
    async with with_documents(world, claude_session_tokens=False) as hutch:
        assert {c.provider for c in await hutch.vault.reveal(user_id)} == {"codex", "gemini"}
        with pytest.raises(CredentialNotAllowed, match="switched off"):
            await hutch.runs.submit(user_id, NewRun("claude", "hello"))


async def test_over_http(api: Api, key: str) -> None:
    assert await api("GET", "/v1/agreements", key) == (200, {"agreements": []})
    body = {"document": "user_agreement", "version": "0" * 12}
    assert (await api("POST", "/v1/agreements", key, json=body))[0] == 404
    assert (await api("POST", "/v1/agreements", json=body))[0] == 401


@pytest.mark.parametrize("content", [b"", b"  \n", b"\xff\xfe\x00", b"x" * 300_000])
def test_an_agreement_that_nobody_can_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agreement.txt"
    path.write_bytes(content)
    with pytest.raises(HostNotReady, match="agreement"):
        documents(path, claude_session_tokens=False)
    with pytest.raises(HostNotReady, match="agreement"):
        documents(tmp_path / "missing", claude_session_tokens=False)
