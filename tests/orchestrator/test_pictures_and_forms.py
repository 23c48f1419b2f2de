"""Images in, and answers of a given form out, by each of the three protocols."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeAlias

import pytest

from tests.orchestrator.compatible import prompts
from tests.orchestrator.conftest import Api, World
from tests.orchestrator.runtime import ScriptedRun, finished

Protocol: TypeAlias = Literal["chat", "responses", "messages"]
PROTOCOLS: tuple[Protocol, ...] = ("chat", "responses", "messages")
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
FORM_AT = {
    "chat": "response_format",
    "responses": "text.format",
    "messages": "output_config.format",
}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
RED, BLUE = "cmVk", "Ymx1ZQ=="

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def picture(protocol: Protocol, data: str, media_type: str = "image/png") -> dict[str, Any]:
    url = f"data:{media_type};base64,{data}"
    match protocol:
        case "chat":
            return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        case "responses":
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case "messages":
            source = {"type": "base64", "media_type": media_type, "data": data}
            return {"type": "image", "source": source}


def remote(protocol: Protocol) -> dict[str, Any]:
    url = "https://example.org/a.png"
    match protocol:
        case "chat":
            return {"type": "image_url", "image_url": {"url": url}}
        case "responses":
            return {"type": "input_image", "image_url": url}
        case "messages":
            return {"type": "image", "source": {"type": "url", "url": url}}


def request(protocol: Protocol, *said: Any, **options: Any) -> dict[str, Any]:
    """The user and the assistant in turns, the user first."""
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(said)
    ]
    asked: dict[str, Any] = {"model": "claude", **options}
    return asked | ({"input": messages} if protocol == "responses" else {"messages": messages})


def formed(protocol: Protocol, form: Any) -> dict[str, Any]:
    match protocol:
        case "chat":
            return {"response_format": form}
        case "responses":
            return {"text": {"format": form}}
        case "messages":
            return {"output_config": {"format": form, "effort": "low"}}


def schema(protocol: Protocol, wanted: Any = SCHEMA) -> dict[str, Any]:
    held = {"name": "person", "strict": True, "schema": wanted}
    inside: dict[str, Any] = {"json_schema": held} if protocol == "chat" else held
    return formed(protocol, {"type": "json_schema", **inside})


def text_of(protocol: Protocol, answer: Any) -> Any:
    match protocol:
        case "chat":
            return answer["choices"][0]["message"]["content"]
        case "responses":
            return answer["output"][0]["content"][0]["text"]
        case "messages":
            return answer["content"][0]["text"]


def attached(world: World) -> list[list[tuple[str, str]]]:
    return [
        [(one["media_type"], one["data"]) for one in body.get("attachments", [])]
        for body in world.runtime.bodies
    ]


@each_protocol
async def test_images_are_attachments(world: World, api: Api, key: str, protocol: Protocol) -> None:
    words = {"type": "input_text" if protocol == "responses" else "text", "text": "what is it?"}
    now = [picture(protocol, BLUE, "image/jpeg"), words]
    before = [picture(protocol, RED), {**words, "text": "and this?"}]
    asked = request(protocol, before, "red", now)
    status, answer = await api("POST", PATHS[protocol], key, json=asked)
    assert status == 200, answer
    assert attached(world) == [[("image/png", RED), ("image/jpeg", BLUE)]]
    # What was said with a picture is told with the name of its file.
    line = json.loads(prompts(world)[0].split("\n")[2])
    assert line["content"] == "and this?"
    assert line["attached"] == [world.runtime.bodies[0]["attachments"][0]["name"]]
    assert prompts(world)[0].endswith("\n\nwhat is it?")


@each_protocol
async def test_a_session_gets_only_pictures_that_are_new_to_it(
    world: World, api: Api, key: str, protocol: Protocol
) -> None:
    words = {"type": "input_text" if protocol == "responses" else "text", "text": "look"}
    one, two = [picture(protocol, RED), words], [picture(protocol, BLUE), words]
    named = {"headers": {"x-hutch-session": "gallery"}}
    for said in ([one], [one, "red", two], [one, "red", two, "blue", [two[0], *two]]):
        status, answer = await api(
            "POST", PATHS[protocol], key, json=request(protocol, *said), **named
        )
        assert status == 200, answer
    assert attached(world) == [[("image/png", data)] for data in (RED, BLUE, BLUE)]


@each_protocol
async def test_an_image_is_not_fetched_nor_guessed(
    world: World, api: Api, key: str, protocol: Protocol
) -> None:
    place = "input" if protocol == "responses" else "messages"
    for part, says in (
        (remote(protocol), "not fetched"),
        (picture(protocol, RED, "image/svg+xml"), "image/webp"),
    ):
        asked = request(protocol, [part])
        status, answer = await api("POST", PATHS[protocol], key, json=asked)
        assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")
        assert says in answer["error"]["message"]
        assert f"{place}.0.content.0" in json.dumps(answer["error"])
    # The assistant shows none.
    asked = request(protocol, "a", [picture(protocol, RED)], "b")
    status, answer = await api("POST", PATHS[protocol], key, json=asked)
    assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")
    words = {"type": "input_text" if protocol == "responses" else "text", "text": "look"}
    for pictures in (
        [picture(protocol, "???")],
        [picture(protocol, RED[:3] + letter) for letter in "ghijklmnopq"],  # eleven
    ):
        asked = request(protocol, [*pictures, words])
        status, answer = await api("POST", PATHS[protocol], key, json=asked)
        assert (status, answer["error"]["code"]) == (400, "invalid_request")
        assert "attachment" in answer["error"]["message"]
    assert prompts(world) == []


async def talks_and_answers(run: ScriptedRun) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield run.started()
    yield "text.delta", {"text": "let me see"}
    yield "text", {"text": "let me see"}
    yield "text", {"text": '{"name": "otter"}'}
    yield finished(text='{"name": "otter"}')


@each_protocol
@pytest.mark.parametrize("model", ["claude", "codex/gpt-x"])
async def test_an_answer_that_fits_a_schema_has_no_word_beside_it(
    world: World, api: Api, key: str, protocol: Protocol, model: str
) -> None:
    world.runtime.script = talks_and_answers
    asked = request(protocol, "who?", **{**schema(protocol), "model": model})
    status, answer = await api("POST", PATHS[protocol], key, json=asked)
    assert status == 200, answer
    assert json.loads(text_of(protocol, answer)) == {"name": "otter"}
    assert json.loads(world.runtime.bodies[-1]["options"]["output_schema"]) == SCHEMA
    status, stream = await api("POST", PATHS[protocol], key, json={**asked, "stream": True})
    assert status == 200
    assert "let me see" not in stream
    assert "otter" in stream
    if protocol == "responses":
        assert answer["text"]["format"]["schema"] == SCHEMA
        _, again = await api("GET", f"{PATHS[protocol]}/{answer['id']}", key)
        assert (again["text"], again["output"]) == (answer["text"], answer["output"])


@each_protocol
async def test_a_form_that_is_not_to_be_had_is_refused_by_name(
    world: World, api: Api, key: str, protocol: Protocol
) -> None:
    for options, says in (
        ({**schema(protocol), "model": "gemini"}, "claude, codex"),
        (formed(protocol, {"type": "json_object"}), "JSON schema"),
        (schema(protocol, {"type": "array"}), "object"),
        (schema(protocol, None), "object"),
        (formed(protocol, {"type": "json_schema"}), "object"),
    ):
        asked = request(protocol, "who?", **options)
        status, answer = await api("POST", PATHS[protocol], key, json=asked)
        assert (status, answer["error"]["code"]) == (400, "unsupported_parameter")
        assert says in answer["error"]["message"]
        assert FORM_AT[protocol] in json.dumps(answer["error"])
    assert prompts(world) == []
    asked = request(protocol, "who?", **formed(protocol, {"type": "text"}), stream=False)
    assert (await api("POST", PATHS[protocol], key, json=asked))[0] == 200
