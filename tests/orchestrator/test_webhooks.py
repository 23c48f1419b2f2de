"""Webhooks from a run's end to a receiver over a real socket, on both databases."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web

from hutch.api.shapes import RunAnswer
from hutch.app import Hutch
from hutch.control import webhooks as control
from hutch.gateway.addresses import AddressCheck
from hutch.webhooks.sending import Sender
from tests.orchestrator.conftest import Api, World, new_user, run_to_end, serving
from tests.orchestrator.runtime import waits_for_cancel

DAY_S = 24 * 3600.0


@dataclass
class MovableClock:
    ahead_s: float = 0.0

    def now(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Receiver:
    """Answers with the next of ``answers``, or 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    heard: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    held: asyncio.Event | None = None

    async def handle(self, request: web.Request) -> web.Response:
        self.heard.append(
            ({k.lower(): v for k, v in request.headers.items()}, await request.read())
        )
        if self.held is not None:
            await self.held.wait()
        status = self.answers.pop(0) if self.answers else 200
        place = {"location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, text="x" * 100_000, headers=place)

    async def hears(self, count: int) -> dict[str, Any]:
        """Wait for so many; the content of the last."""
        await until(lambda: len(self.heard) >= count)
        content: dict[str, Any] = json.loads(self.heard[count - 1][1])
        return content


async def until(true: Callable[[], bool], within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield one
    await runner.cleanup()


@pytest.fixture
def world(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Webhooks may lead to this machine, and are tried again at once when the clock says so."""
    world.settings = world.settings.model_copy(update={"webhook_networks": ("127.0.0.0/8",)})
    world.clock = MovableClock()
    monkeypatch.setattr(control, "LOOK_EVERY_S", 0.05)
    return world


async def listen(api: Api, key: str, receiver: Receiver, **options: Any) -> dict[str, Any]:
    status, made = await api("POST", "/v1/webhooks", key, json={"url": receiver.url, **options})
    assert status == 201, made
    assert isinstance(made, dict)
    return made


def signed_by(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver checks it."""
    said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    raw = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = base64.b64encode(hmac.digest(raw, said, "sha256")).decode()
    return any(
        hmac.compare_digest(part, f"v1,{wanted}") for part in headers["webhook-signature"].split()
    )


async def deliveries(api: Api, key: str, hook: str, **options: Any) -> list[dict[str, Any]]:
    status, page = await api("GET", f"/v1/webhooks/{hook}/deliveries", key, **options)
    assert status == 200
    found: list[dict[str, Any]] = page["deliveries"]
    return found


async def settled(api: Api, key: str, hook: str) -> dict[str, Any]:
    """The only delivery once an attempt is recorded."""
    async with asyncio.timeout(20):
        while True:
            (one,) = await deliveries(api, key, hook)
            if one["last_at"] is not None:
                return one
            await asyncio.sleep(0.02)


async def test_the_end_of_a_run_is_told_and_signed(
    hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    made = await listen(api, key, receiver, description="mine")
    run = await run_to_end(hutch, user_id, "what was asked")
    told = await receiver.hears(1)
    headers, body = receiver.heard[0]
    assert signed_by(made["secret"], headers, body)
    assert not signed_by(made["secret"], headers, body + b" ")
    assert headers["content-type"] == "application/json"
    assert told["type"] == "run.succeeded"
    assert told["data"]["id"] == run.id
    assert "prompt" not in told["data"]
    shown = RunAnswer.of(run).model_dump(mode="json")
    assert told["data"].keys() - shown.keys() == {"text_truncated"}
    for name in told["data"].keys() & shown.keys():
        assert told["data"][name] == shown[name]
    delivery = await settled(api, key, made["id"])
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == (
        "delivered",
        1,
        200,
    )
    assert (delivery["message_id"], delivery["run_id"]) == (headers["webhook-id"], run.id)
    listed = (await api("GET", "/v1/webhooks", key))[1]["webhooks"]
    assert [(hook["id"], "secret" in hook) for hook in listed] == [(made["id"], False)]


async def test_each_hears_what_is_theirs_and_what_they_asked_for(
    *, world: World, hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    service = (await hutch.accounts.create_key("service")).text
    other = await new_user(hutch, "other")
    other_key = (await hutch.accounts.create_key("user", other)).text
    own = await listen(api, key, receiver, events=["run.cancelled"])
    others = await listen(api, other_key, receiver)
    everything = await listen(api, service, receiver)
    for_the_user = {"headers": {"x-hutch-user": user_id}}
    assert (await api("GET", f"/v1/webhooks/{own['id']}", service, **for_the_user))[0] == 200
    assert (await api("GET", f"/v1/webhooks/{own['id']}", service))[0] == 404
    assert (await api("GET", f"/v1/webhooks/{own['id']}", other_key))[0] == 404
    assert everything["user_id"] is None

    await run_to_end(hutch, user_id)
    world.runtime.script = waits_for_cancel
    _, run = await api(
        "POST", "/v1/runs", key, json={"provider": "claude", "prompt": "x", "wait": 0}
    )
    await api("POST", f"/v1/runs/{run['id']}/cancel", key)
    await receiver.hears(3)
    types = {
        name: [d["type"] for d in await deliveries(api, by, hook["id"])]
        for name, by, hook in (
            ("own", key, own),
            ("others", other_key, others),
            ("everything", service, everything),
        )
    }
    assert types == {
        "own": ["run.cancelled"],
        "others": [],
        "everything": ["run.cancelled", "run.succeeded"],
    }


async def test_it_is_tried_again_with_pauses_and_given_up_after_a_day(
    *, world: World, hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    clock = world.clock
    assert isinstance(clock, MovableClock)
    receiver.answers = [500, 302, 404] + [503] * 50
    made = await listen(api, key, receiver)
    notices = await listen(api, key, receiver, events=["webhook.disabled"])
    await run_to_end(hutch, user_id)
    began = clock.now()
    pauses: list[float] = []
    while True:
        attempts = len(pauses) + 1
        await receiver.hears(attempts)
        async with asyncio.timeout(20):
            while True:
                (delivery,) = await deliveries(api, key, made["id"])
                if delivery["attempts"] == attempts:
                    break
                await asyncio.sleep(0.02)
        if delivery["state"] == "failed":
            break
        pause = _seconds(delivery["next_at"]) - clock.now()
        pauses.append(pause)
        clock.ahead_s += pause + 1
        hutch.driver.wake("webhooks")
        if attempts == len(control.PAUSES_S):
            receiver.answers = [503]
    assert len(pauses) == len(control.PAUSES_S)
    for pause, planned in zip(pauses, control.PAUSES_S, strict=True):
        assert 0.75 * planned - 3 < pause < 1.25 * planned
    assert DAY_S * 0.8 < clock.now() - began < DAY_S * 1.5
    assert len({headers["webhook-id"] for headers, _ in receiver.heard[: len(pauses) + 1]}) == 1
    hook = (await api("GET", f"/v1/webhooks/{made['id']}", key))[1]
    assert (hook["state"], "no message was taken" in hook["reason"]) == ("disabled", True)
    told = await receiver.hears(len(pauses) + 2)
    assert (told["type"], told["data"]["webhook_id"]) == ("webhook.disabled", made["id"])
    assert (await settled(api, key, notices["id"]))["state"] == "delivered"
    # It hears nothing more, until it is switched on again.
    await run_to_end(hutch, user_id)
    assert len(await deliveries(api, key, made["id"])) == 1
    path = f"/v1/webhooks/{made['id']}"
    again = f"{path}/deliveries/{delivery['message_id']}/redeliver"
    assert (await api("POST", again, key))[0] == 409
    assert (await api("PATCH", path, key, json={"enabled": True}))[1]["state"] == "active"
    count = len(receiver.heard)
    assert (await api("POST", again, key))[0] == 202
    await receiver.hears(count + 1)
    assert receiver.heard[count][0]["webhook-id"] == delivery["message_id"]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_one_that_answers_gone_is_disabled_at_once(
    hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    receiver.answers = [410]
    made = await listen(api, key, receiver)
    await run_to_end(hutch, user_id)
    await settled(api, key, made["id"])
    hook = (await api("GET", f"/v1/webhooks/{made['id']}", key))[1]
    assert (hook["state"], hook["reason"]) == ("disabled", "It answered 410: gone.")


async def test_a_message_survives_a_restart(world: World, receiver: Receiver) -> None:
    receiver.held = asyncio.Event()
    async with world.orchestrator() as first, serving(first) as api:
        user_id = await new_user(first, "someone")
        key = (await first.accounts.create_key("user", user_id)).text
        made = await listen(api, key, receiver)
        await run_to_end(first, user_id)
        await receiver.hears(1)  # and no answer, so that it is not known
    receiver.held.set()
    receiver.held = None
    async with world.orchestrator() as second, serving(second) as api:
        await receiver.hears(2)
        assert (await settled(api, key, made["id"]))["state"] == "delivered"
    ids = {headers["webhook-id"] for headers, _ in receiver.heard}
    assert len(ids) == 1


async def test_a_new_secret_signs_beside_the_old_one_for_a_day(
    *, world: World, hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    made = await listen(api, key, receiver)
    status, new = await api("POST", f"/v1/webhooks/{made['id']}/rotate", key)
    assert status == 200
    assert new["secret"] != made["secret"]
    await run_to_end(hutch, user_id)
    await receiver.hears(1)
    for secret in (made["secret"], new["secret"]):
        assert signed_by(secret, *receiver.heard[0])
    clock = world.clock
    assert isinstance(clock, MovableClock)
    clock.ahead_s += DAY_S + 60
    await api("POST", f"/v1/webhooks/{made['id']}/test", key)
    assert (await receiver.hears(2))["type"] == "webhook.test"
    assert signed_by(new["secret"], *receiver.heard[1])
    assert not signed_by(made["secret"], *receiver.heard[1])


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest/meta-data",
        "ftp://example.org/x",
        "https://user:password@example.org/x",
        "https://example.org/x#y",
        "https://",
        "nonsense",
        "https://example.org/" + "x" * 2000,
        "https://example.org/a b",
    ],
)
async def test_what_is_no_url_for_it_is_refused(api: Api, key: str, url: str) -> None:
    status, answer = await api("POST", "/v1/webhooks", key, json={"url": url})
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_http_is_for_networks_that_the_operator_opened(
    hutch: Hutch, api: Api, key: str
) -> None:
    assert (await api("POST", "/v1/webhooks", key, json={"url": "http://127.0.0.1:1/x"}))[0] == 201
    hutch.webhooks._check = AddressCheck()
    for url in ("http://127.0.0.1:1/x", "https://127.0.0.1:1/x", "http://example.org/"):
        assert (await api("POST", "/v1/webhooks", key, json={"url": url}))[0] == 400


async def test_a_name_that_leads_inside_is_not_called(receiver: Receiver) -> None:
    async def inside(_host: str) -> list[str]:
        return ["93.184.215.14", "127.0.0.1"]

    port = receiver.url.split(":")[2].split("/")[0]
    for opened in ((), ("10.0.0.0/8",)):
        sender = Sender(AddressCheck(opened, inside))
        for scheme in ("http", "https"):
            answer = await sender.post(f"{scheme}://hook.example:{port}/", {}, b"{}")
            assert answer.status is None
            assert "not on the open internet" in answer.error
    assert receiver.heard == []


async def test_the_address_that_was_checked_is_the_one_that_is_called(receiver: Receiver) -> None:
    asked = []

    async def once(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    port = receiver.url.split(":")[2].split("/")[0]
    sender = Sender(AddressCheck(("127.0.0.0/8",), once))
    answer = await sender.post(f"http://hook.example:{port}/p", {}, b"{}")
    assert (answer.ok, asked) == (True, ["hook.example"])
    assert receiver.heard[0][0]["host"] == f"hook.example:{port}"


async def test_plain_http_to_the_open_internet_is_not_sent() -> None:
    async def outside(_host: str) -> list[str]:
        return ["93.184.215.14"]

    answer = await Sender(AddressCheck(("127.0.0.0/8",), outside)).post(
        "http://x.example/", {}, b""
    )
    assert answer.error == "https is required."


async def test_there_is_a_most_of_them(api: Api, key: str, receiver: Receiver) -> None:
    for _ in range(10):
        made = await listen(api, key, receiver)
    status, _ = await api("POST", "/v1/webhooks", key, json={"url": receiver.url})
    assert status == 409
    assert (await api("DELETE", f"/v1/webhooks/{made['id']}", key))[0] == 204
    assert (await api("GET", f"/v1/webhooks/{made['id']}", key))[0] == 404
    await listen(api, key, receiver)


async def test_what_is_deleted_is_not_told(
    hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    receiver.answers = [500]
    made = await listen(api, key, receiver)
    run = await run_to_end(hutch, user_id)
    await settled(api, key, made["id"])
    await hutch.sessions.delete(user_id, run.session_id)
    assert await deliveries(api, key, made["id"]) == []


async def test_old_messages_are_forgotten(
    *, world: World, hutch: Hutch, api: Api, key: str, user_id: str, receiver: Receiver
) -> None:
    made = await listen(api, key, receiver)
    await run_to_end(hutch, user_id)
    await settled(api, key, made["id"])
    clock = world.clock
    assert isinstance(clock, MovableClock)
    clock.ahead_s += control.KEPT_S + 60
    async with asyncio.timeout(20):
        while await deliveries(api, key, made["id"]):
            await hutch.driver.run_now("webhooks")
