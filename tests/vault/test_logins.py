from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import Conflict, CredentialMalformed, CredentialMissing, NeedsLogin, NotFound
from hutch.vault.logins import BYTES_MAX, CODEX_AUTH, pack, unpack
from hutch.vault.service import Vault
from tests.vault.test_shapes import auth_json

ADA = "user_ada"


async def test_a_pasted_auth_json_is_a_login_of_one_file(vault: Vault) -> None:
    text = auth_json()
    info = await vault.put(ADA, "codex", "chatgpt", text)
    assert (info.kind, info.last_four, info.state) == ("login", "", "ok")
    files, version = await vault.login_files(ADA, "codex")
    assert files == {CODEX_AUTH: text.encode()}
    assert version == info.version
    [revealed] = await vault.reveal(ADA)
    assert (revealed.secret, revealed.headers(), revealed.added()) == (None, (), ())


async def test_files_go_over_the_version_that_they_came_from(vault: Vault) -> None:
    first = await vault.put_login(ADA, "claude", {".claude/a": b"1"}, expected_version=None)
    second = await vault.put_login(
        ADA, "claude", {".claude/a": b"2"}, expected_version=first.version
    )
    assert second.version == first.version + 1
    assert second.created_at == first.created_at  # the same login, renewed
    with pytest.raises(Conflict):
        await vault.put_login(ADA, "claude", {".claude/a": b"x"}, expected_version=first.version)
    assert await vault.login_files(ADA, "claude") == ({".claude/a": b"2"}, second.version)


async def test_of_many_at_once_one_wins(vault: Vault) -> None:
    first = await vault.put_login(ADA, "codex", {CODEX_AUTH: b"0"}, expected_version=None)
    done = await asyncio.gather(
        *(
            vault.put_login(
                ADA, "codex", {CODEX_AUTH: str(n).encode()}, expected_version=first.version
            )
            for n in range(8)
        ),
        return_exceptions=True,
    )
    won = [one for one in done if not isinstance(one, BaseException)]
    assert len(won) == 1
    assert [
        one for one in done if isinstance(one, BaseException) and type(one) is not Conflict
    ] == []
    assert (await vault.login_files(ADA, "codex"))[1] == won[0].version


async def test_a_write_back_never_goes_over_what_the_user_stored(vault: Vault) -> None:
    login = await vault.put_login(ADA, "codex", {CODEX_AUTH: b"0"}, expected_version=None)
    await vault.put(ADA, "codex", "api_key", "sk-proj-a-key-instead")
    with pytest.raises(Conflict):
        await vault.put_login(ADA, "codex", {CODEX_AUTH: b"1"}, expected_version=login.version)
    with pytest.raises(NotFound):
        await vault.login_files(ADA, "codex")
    # Nor over one that came after a deletion, nor to where nothing is.
    await vault.delete(ADA, "codex")
    with pytest.raises(Conflict):
        await vault.put_login(ADA, "codex", {CODEX_AUTH: b"1"}, expected_version=login.version)
    again = await vault.put_login(ADA, "codex", {CODEX_AUTH: b"2"}, expected_version=None)
    assert again.version != login.version
    with pytest.raises(Conflict):
        await vault.put_login(ADA, "codex", {CODEX_AUTH: b"1"}, expected_version=login.version)


async def test_sign_ins_at_once_all_get_through(vault: Vault) -> None:
    await asyncio.gather(
        *(
            vault.put_login(ADA, "codex", {CODEX_AUTH: str(n).encode()}, expected_version=None)
            for n in range(4)
        )
    )
    files, _ = await vault.login_files(ADA, "codex")
    assert files[CODEX_AUTH] in {b"0", b"1", b"2", b"3"}


async def test_a_dead_login_is_said_until_there_is_another(vault: Vault) -> None:
    with pytest.raises(CredentialMissing):
        await vault.require(ADA, "codex")
    info = await vault.put(ADA, "codex", "chatgpt", auth_json())
    await vault.require(ADA, "codex")
    assert not await vault.set_state(
        ADA, "codex", "needs_login", "too late", expected_version=info.version + 1
    )
    assert await vault.set_state(ADA, "codex", "needs_login", "The refresh token is spent.")
    with pytest.raises(NeedsLogin, match="refresh token is spent") as raised:
        await vault.require(ADA, "codex")
    assert "hutch login codex" in raised.value.hint
    seen = await vault.info(ADA, "codex")
    assert (seen.state, seen.reason) == ("needs_login", "The refresh token is spent.")
    await vault.put(ADA, "codex", "chatgpt", auth_json(refresh_token="another"))
    await vault.require(ADA, "codex")
    assert not await vault.set_state("user_bob", "codex", "needs_login", "nobody's")


@pytest.mark.parametrize(
    "files",
    [
        {},
        {f".codex/{n}": b"" for n in range(9)},
        {"/etc/passwd": b""},
        {"../x": b""},
        {".codex/../../x": b""},
        {".codex/..": b""},
        {"./x": b""},
        {".codex//x": b""},
        {".codex/x\0": b""},
        {".codex/x\n": b""},
        {"": b""},
        {"a/" * 10 + "x": b""},
        {"x" * 300: b""},
        {".codex/auth.json": b"x" * (BYTES_MAX + 1)},
    ],
)
async def test_what_is_no_login(vault: Vault, files: dict[str, bytes]) -> None:
    with pytest.raises(CredentialMalformed):
        await vault.put_login(ADA, "codex", files, expected_version=None)
    assert await vault.all(ADA) == []


@given(
    st.dictionaries(
        st.sampled_from([CODEX_AUTH, ".claude/.credentials.json", ".claude.json", "a.b/c-d_e"]),
        st.binary(max_size=500),
        min_size=1,
    )
)
def test_files_come_back_as_they_were(files: dict[str, bytes]) -> None:
    assert unpack(pack(files)) == files
    assert pack(dict(reversed(files.items()))) == pack(files)
    json.loads(pack(files))
