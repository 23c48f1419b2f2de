"""The vault as people use it: from the command line, on a real service."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch.client import ApiError
from hutch_runtime.protocol import PROVIDERS
from tests.integration.test_command_line import hutch
from tests.service import Service, User, fingerprint, running_service
from tests.vault.test_shapes import auth_json

AGREEMENT = "Be kind to the machine.\n"


@pytest.fixture(scope="module")
def strict(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks for an agreement, and takes session tokens."""
    directory = tmp_path_factory.mktemp("strict")
    text = directory / "agreement.txt"
    text.write_text(AGREEMENT)
    with running_service(
        directory / "data",
        IMAGE=image,
        ISOLATION="gvisor",
        AGREEMENT_FILE=str(text),
        CLAUDE_SESSION_TOKENS="true",
    ) as running:
        yield running


def everywhere(service: Service) -> Iterator[tuple[str, bytes]]:
    """Every file of the service, and how each process on the machine was called and with what."""
    for path in service.settings.data_dir.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                yield f"{process}/{name}", (process / name).read_bytes()


def test_no_key_is_in_any_file_or_process_list(service: Service) -> None:
    user = service.make_user()
    secrets = [key.encode() for key in user.provider_keys.values()]
    for provider in PROVIDERS:
        assert user.run(provider, "hello")["state"] == "succeeded"
    refresh = f"rt_canary_{user.id}"
    body = {"kind": "chatgpt", "auth_json": auth_json(refresh_token=refresh)}
    user.client.call("DELETE", "/v1/container")
    user.client.call("PUT", "/v1/credentials/codex", json=body)
    secrets.append(refresh.encode())
    with pytest.raises(ApiError):
        user.client.call("PUT", "/v1/credentials/claude", json={"api_key": f"sk-{refresh}"})
    places = dict(everywhere(service))
    assert any(place.endswith(".db") for place in places)
    assert any(place.endswith("api.log") for place in places)
    found = {place for place, content in places.items() for key in secrets if key in content}
    assert found == set()
    # The search works: what is public is found.
    assert any(user.id.encode() in content for content in places.values())
    # The master key is in its file, and nowhere else.
    line = service.settings.master_keys_file.read_text().splitlines()[1]
    master = line.split()[1].encode()
    found = {place for place, content in places.items() if master in content}
    assert found == {str(service.settings.master_keys_file)}


def test_the_master_key_changes_while_the_service_runs(service: Service, user: User) -> None:
    before = service.settings.master_keys_file.read_text()
    run = user.run("claude", "before the change")
    done = hutch(service, user, "admin", "vault", "rotate")
    assert (done.returncode, done.stderr) == (0, "")
    said = re.search(r"re-wrapped (\d+) data keys with (mk-[0-9a-f]{16})", done.stdout)
    assert said is not None, done.stdout
    assert int(said[1]) >= 1
    assert "destroyed mk-" in done.stdout
    after = service.settings.master_keys_file.read_text()
    assert said[2] in after
    assert before.split()[-1] not in after
    service.restart("api")
    run = user.run("claude", "after the change", session_id=run["session_id"])
    assert f"key={fingerprint(user.provider_keys['claude'])} " in run["text"]
    again = hutch(service, user, "admin", "vault", "rotate", "--json")
    assert json.loads(again.stdout)["rewrapped"] >= 1


def test_the_command_line_says_what_went(service: Service) -> None:
    user = service.make_user()
    user.run("codex", "soon gone")
    done = hutch(service, user, "admin", "users", "delete", user.id)
    assert done.returncode == 0, done.stderr
    lines = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in done.stdout.splitlines())
    assert user.id in lines["deleted"]
    assert re.fullmatch(r"[0-9a-f]{16} destroyed first", lines["data key"])
    assert lines["proof"] == "what it sealed no longer opens (tried)"
    assert lines["container"].startswith("sbx_")
    assert (lines["credentials"], lines["runs"], lines["sessions"]) == ("3", "1", "1")
    gone = hutch(service, user, "admin", "users", "delete", user.id)
    assert gone.returncode == 3
    assert "no such user" in gone.stderr


def test_an_agreement_from_the_command_line(strict: Service) -> None:
    user = strict.make_user()
    with pytest.raises(ApiError) as refused:
        user.run("codex", "hello")
    assert (refused.value.status, refused.value.code) == (403, "agreement_required")
    shown = hutch(strict, user, "agreements")
    assert AGREEMENT in shown.stdout
    asked = re.search(r"needed before your first run: hutch (agreements accept .*)", shown.stdout)
    assert asked is not None, shown.stdout
    accepted = hutch(strict, user, *asked[1].split())
    assert accepted.returncode == 0, accepted.stderr
    assert user.run("codex", "hello")["state"] == "succeeded"
    listed = json.loads(hutch(strict, user, "agreements", "--json").stdout)
    assert [one["document"] for one in listed if one["accepted_at"]] == ["user_agreement"]


def test_a_session_token_pays_as_claude_code_would_send_it(strict: Service) -> None:
    user = strict.make_user(credentials=False)
    agreements = user.client.call("GET", "/v1/agreements")["agreements"]
    token = f"sk-ant-oat01-{user.id}"
    body = {"kind": "session_token", "session_token": token}
    with pytest.raises(ApiError) as refused:
        user.client.call("PUT", "/v1/credentials/claude", json=body)
    assert refused.value.code == "credential_not_allowed"
    for one in agreements:
        accepted = {"document": one["document"], "version": one["version"]}
        user.client.call("POST", "/v1/agreements", json=accepted)
    stored = user.client.call("PUT", "/v1/credentials/claude?verify=true", json=body)
    assert (stored["kind"], stored["verified"]["result"]) == ("session_token", "ok")
    run = user.run("claude", "paid by a plan")
    assert f"key={fingerprint(token)} " in run["text"]
