"""API keys over HTTP: what each may, how long, and what becomes of wrong ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hutch.accounts.failures import ADDRESSES_MAX, AT_ONCE, EVERY_S, FailedKeys
from hutch.accounts.sources import Sources
from hutch.app import Hutch
from hutch.errors import HostNotReady, KeyExpired, TooManyFailures
from tests.orchestrator.conftest import Api, World, new_user

DAY = 24 * 3600.0


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        return self.time


@pytest.fixture
async def admin(hutch: Hutch) -> str:
    return (await hutch.accounts.create_key("admin")).text


async def test_a_read_only_key_reads(api: Api, key: str, admin: str) -> None:
    status, made = await api(
        "POST", "/v1/keys", key, json={"name": " for the wall ", "read_only": True}
    )
    assert (status, made["name"], made["read_only"]) == (201, "for the wall", True)
    assert made["key"].startswith("hutch_user_read_")
    assert made["key"].startswith(made["prefix"])
    for path in ("/v1/runs", "/v1/keys", "/v1/credentials"):
        assert (await api("GET", path, made["key"]))[0] == 200
    for method, path in (
        ("POST", "/v1/runs"),
        ("DELETE", "/v1/container"),
        ("POST", "/v1/keys"),
        ("PUT", "/v1/network"),
    ):
        status, answer = await api(method, path, made["key"], json={})
        assert (status, answer["error"]["code"]) == (403, "read_only_key"), path
    body = {"scope": "admin", "read_only": True, "name": "auditor"}
    auditor = (await api("POST", "/v1/admin/keys", admin, json=body))[1]["key"]
    assert (await api("GET", "/v1/admin/users", auditor))[0] == 200
    status, answer = await api("POST", "/v1/admin/users", auditor, json={"name": "x"})
    assert (status, answer["error"]["code"]) == (403, "read_only_key")


def paths(api_paths: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m.upper(), p) for p, methods in api_paths.items() for m in methods if m != "get"]


async def test_no_endpoint_that_changes_things_takes_a_read_only_key(
    api: Api, hutch: Hutch, user_id: str
) -> None:
    new = await hutch.accounts.create_key("admin", read_only=True)
    described = (await api("GET", "/openapi.json"))[1]["paths"]
    changing = [one for one in paths(described) if one[1] != "/v1/tickets"]
    assert len(changing) > 20
    for method, path in changing:
        status, answer = await api(
            method,
            path.replace("{provider}", "claude"),
            new.text,
            headers={"x-hutch-user": user_id},
            json={},
        )
        assert (status, answer["error"]["code"]) == (403, "read_only_key"), (method, path)


async def test_a_key_expires(world: World) -> None:
    clock = Hands()
    async with replace(world, clock=clock).orchestrator() as hutch:
        user = await new_user(hutch, "someone")
        accounts = hutch.accounts
        new = await accounts.create_key("user", user, expires_in_s=DAY)
        assert (await accounts.authenticate(new.text)).id == new.key.id
        clock.time += DAY - 1
        await accounts.authenticate(new.text)
        clock.time += 1
        with pytest.raises(KeyExpired):
            await accounts.authenticate(new.text)
        # It is listed for a while, and goes when another is made.
        assert [one.id for one in await accounts.keys_of(user)] == [new.key.id]
        clock.time += 31 * DAY
        other = await accounts.create_key("user", user)
        assert [one.id for one in await accounts.keys_of(user)] == [other.key.id]


async def test_a_key_gives_no_longer_life_than_it_has(api: Api, key: str) -> None:
    lent = (await api("POST", "/v1/keys", key, json={"expires_in_s": 3600}))[1]
    status, answer = await api("POST", "/v1/keys", lent["key"], json={"expires_in_s": 7200})
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    child = (await api("POST", "/v1/keys", lent["key"], json={}))[1]
    assert child["expires_at"] == lent["expires_at"]
    path = f"/v1/keys/{lent['id']}/rotate"
    renewed = (await api("POST", path, lent["key"], json={}))[1]
    assert renewed["expires_at"] <= lent["expires_at"]
    for wrong in ({"expires_in_s": 0}, {"expires_in_s": -1}, {"name": "x" * 101}, {"days": 1}):
        assert (await api("POST", "/v1/keys", key, json=wrong))[0] == 400, wrong


async def test_rotation_leaves_time_to_change_over(world: World) -> None:
    clock = Hands()
    async with replace(world, clock=clock).orchestrator() as hutch:
        user = await new_user(hutch, "someone")
        accounts = hutch.accounts
        old = await accounts.create_key("user", user, name="ci", read_only=True, expires_in_s=DAY)
        by = (await accounts.create_key("admin")).key
        clock.time += 3600
        new = await accounts.rotate_key(old.key.id, grace_s=600, by=by)
        assert (new.key.name, new.key.read_only, new.key.user_id) == ("ci", True, user)
        assert new.key.expires_at == clock.time + DAY  # as long as the one before
        clock.time += 599
        await accounts.authenticate(old.text)
        clock.time += 1
        with pytest.raises(KeyExpired):
            await accounts.authenticate(old.text)
        await accounts.authenticate(new.text)
        last = await accounts.rotate_key(new.key.id, grace_s=0, by=by)
        with pytest.raises(KeyExpired):
            await accounts.authenticate(new.text)
        await accounts.authenticate(last.text)


async def test_a_key_is_rotated_once(api: Api, key: str) -> None:
    mine = (await api("GET", "/v1/keys", key))[1]["keys"][0]
    path = f"/v1/keys/{mine['id']}/rotate"
    both = await asyncio.gather(*(api("POST", path, key, json={}) for _ in range(2)))
    assert sorted(status for status, _ in both) == [201, 409]
    new = next(answer for status, answer in both if status == 201)
    listed = {one["id"]: one for one in (await api("GET", "/v1/keys", key))[1]["keys"]}
    assert listed[mine["id"]]["successor_id"] == new["id"]
    # If the successor was lost, and revoked, there may be another.
    assert (await api("DELETE", f"/v1/keys/{new['id']}", key))[0] == 204
    assert (await api("POST", path, key, json={"grace_s": 60}))[0] == 201


async def test_single_keys_are_listed_and_revoked(
    api: Api, hutch: Hutch, key: str, admin: str, user_id: str
) -> None:
    other = await hutch.accounts.create_key("user", await new_user(hutch, "other"))
    second = (await api("POST", "/v1/keys", key, json={"name": "second"}))[1]
    mine = (await api("GET", "/v1/keys", key))[1]["keys"]
    assert [one["name"] for one in mine] == ["", "second"]
    assert second["key"] not in str(mine)
    assert (await api("DELETE", f"/v1/keys/{other.key.id}", key))[0] == 404
    assert (await api("POST", f"/v1/keys/{other.key.id}/rotate", key, json={}))[0] == 404
    assert (await api("DELETE", f"/v1/keys/{second['id']}", key))[0] == 204
    assert (await api("GET", "/v1/runs", second["key"]))[0] == 401
    all_of_them = (await api("GET", "/v1/admin/keys", admin))[1]["keys"]
    assert {one["scope"] for one in all_of_them} == {"user", "admin"}
    theirs = (await api("GET", f"/v1/admin/keys?user_id={user_id}", admin))[1]["keys"]
    assert [one["id"] for one in theirs] == [mine[0]["id"]]
    assert (await api("DELETE", f"/v1/admin/keys/{other.key.id}", admin))[0] == 204
    assert (await api("GET", "/v1/runs", other.text))[0] == 401


async def test_the_last_admin_key_stays(api: Api, hutch: Hutch, admin: str) -> None:
    mine = next(one for one in await hutch.accounts.all_keys() if one.scope == "admin")
    for options in ({"read_only": True}, {"expires_in_s": 3600}):  # these do not count
        await api("POST", "/v1/admin/keys", admin, json={"scope": "admin", **options})
    status, answer = await api("DELETE", f"/v1/admin/keys/{mine.id}", admin)
    assert (status, answer["error"]["code"]) == (409, "conflict")
    await api("POST", "/v1/admin/keys", admin, json={"scope": "admin"})
    assert (await api("DELETE", f"/v1/admin/keys/{mine.id}", admin))[0] == 204
    assert (await api("GET", "/v1/admin/keys", admin))[0] == 401


async def test_last_use_is_told_and_survives(world: World) -> None:
    async with world.orchestrator() as hutch:
        user = await new_user(hutch, "someone")
        new = await hutch.accounts.create_key("user", user)
        assert [k.last_used_at for k in await hutch.accounts.keys_of(user)] == [None]
        await hutch.accounts.authenticate(new.text)
        (told,) = await hutch.accounts.keys_of(user)
        assert told.last_used_at is not None
    async with world.orchestrator() as hutch:
        (stored,) = await hutch.accounts.keys_of(user)
        assert stored.last_used_at == told.last_used_at
        assert (await hutch.accounts.authenticate(new.text)).id == new.key.id


async def test_wrong_keys_are_counted_by_address(
    api: Api, hutch: Hutch, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    first = hutch.database.first

    async def counting(query: Any, **parameters: object) -> Any:
        if "api_keys" in str(query):  # other tasks ask for other things meanwhile
            asked.append(query)
        return await first(query, **parameters)

    monkeypatch.setattr(hutch.accounts._database, "first", counting)
    for n in range(AT_ONCE):
        assert (await api("GET", "/v1/runs", f"hutch_user_wrong{n}"))[0] == 401
    assert asked == []  # a wrong key costs no query
    status, answer = await api("GET", "/v1/runs", "hutch_user_wrong")
    assert (status, answer["error"]["code"]) == (429, "too_many_failures")
    assert 1 <= int(api.headers["retry-after"]) <= EVERY_S
    # Whoever shares the address with them has a key that is right.
    assert (await api("GET", "/v1/runs", key))[0] == 200
    # And a header is nobody's word.
    headers = {"x-forwarded-for": "198.51.100.9"}
    assert (await api("GET", "/v1/runs", "hutch_user_wrong", headers=headers))[0] == 429


def test_failures_are_forgiven_and_bounded() -> None:
    clock = Hands()
    failed = FailedKeys(clock)

    def fails(address: str) -> int:
        try:
            failed.note(address)
        except TooManyFailures as error:
            return error.retry_after_s
        return 0

    assert [fails("a") for _ in range(AT_ONCE)] == [0] * AT_ONCE
    wait = fails("a")
    assert wait == EVERY_S
    assert [fails("a") for _ in range(100)] == [wait] * 100  # it grows no longer by trying
    assert fails("b") == 0
    clock.time += wait
    assert (fails("a"), fails("a") > 0) == (0, True)
    for n in range(2 * ADDRESSES_MAX):
        fails(f"n{n}")
    assert len(failed._paid_off) == ADDRESSES_MAX
    clock.time -= 10_000_000  # a clock that was wrong until now
    assert fails(f"n{2 * ADDRESSES_MAX - 1}") <= AT_ONCE * EVERY_S


FORWARDED = b"x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.5", "", "203.0.113.5"),
        ("203.0.113.5", "198.51.100.1", "203.0.113.5"),  # not from a proxy of ours
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the left one was made up
        ("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1"),  # two proxies of ours
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.5", "", "203.0.113.5"),
        ("::1", "198.51.100.1", "::1"),
        (None, "198.51.100.1", "unknown"),
    ],
)
def test_whose_address_counts(peer: str | None, forwarded: str, expected: str) -> None:
    sources = Sources(["127.0.0.1", "10.0.0.0/8"], b"secret")
    headers = [(FORWARDED, forwarded.encode())] if forwarded else []
    assert sources.of(peer, headers) == expected


def test_another_process_of_the_service_may_say_whom_it_asks_for() -> None:
    ours, others = Sources([], b"secret"), Sources([], b"another")
    assert ours.of("127.0.0.1", [(b"x-hutch-client", ours.sign("203.0.113.5"))]) == "203.0.113.5"
    assert ours.of("127.0.0.1", [(b"x-hutch-client", others.sign("6.6.6.6"))]) == "127.0.0.1"
    assert ours.of("127.0.0.1", [(b"x-hutch-client", b"6.6.6.6 00")]) == "127.0.0.1"


def test_tls_is_whose_word() -> None:
    sources = Sources(["127.0.0.1"], b"secret")
    said = [(b"x-forwarded-proto", b"https")]
    assert sources.under_tls("https", "203.0.113.5", [])
    assert sources.under_tls("http", "127.0.0.1", said)
    assert not sources.under_tls("http", "203.0.113.5", said)
    with pytest.raises(HostNotReady):
        Sources(["proxy.example"], b"secret")
