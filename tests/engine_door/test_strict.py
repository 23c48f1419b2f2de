"""Requests that could mean two things mean nothing to the door."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.engine_door.strict import Refused, asked, canonical, expect, parsed

ID = "a" * 64


@pytest.mark.parametrize(
    "target",
    [
        f"//v1.41/containers/{ID}/start",
        f"/v1.41//containers/{ID}/start",
        f"/v1.41/containers/{ID}//start",
        f"/v1.41/containers/{ID}/start/",
        f"/v1.41/../v1.24/containers/{ID}/start",
        f"/v1.41/containers/../containers/{ID}/start",
        f"/v1.41/./containers/{ID}/start",
        f"/v1.41/containers/%2e%2e/containers/{ID}/start",
        f"/v1.41/containers/{ID}%2fstart",
        f"/v1.41/containers/{ID}/start%00",
        f"/v1.41/containers/{ID}/start#x",
        f"/v1.41/containers/{ID}/start?t=1#x",
        f"/v1.41/containers/{ID}\\start",
        f"/v1.41/containers/{ID};x/start",
        f"http://docker/v1.41/containers/{ID}/start",
        "docker:80",
        "*",
        "",
        "/",
        "/v1.41/" + "a" * 3000,
        "/v1.41/containers/é",
    ],
)
def test_paths_that_are_not_plain(target: str) -> None:
    with pytest.raises(Refused) as refused:
        asked("POST", target)
    assert refused.value.rule == "path"


@pytest.mark.parametrize(
    "query",
    [
        "t=1&t=2",
        "t=1&%74=2",
        "t",
        "t=1&",
        "&t=1",
        "T=1",
        "t=%",
        "t=%zz",
        "t=%ff",
        "t=1;t=2",
        "=1",
    ],
)
def test_queries_that_are_not_plain(query: str) -> None:
    with pytest.raises(Refused):
        expect(asked("POST", f"/v1.41/containers/{ID}/stop?{query}").query, {"t": "1"})


def test_a_query_is_all_or_nothing() -> None:
    expect({"a": "1"}, {"a": "1"})
    for given_ in ({}, {"a": "2"}, {"a": "1", "b": "1"}):
        with pytest.raises(Refused):
            expect(given_, {"a": "1"})


def test_filters_are_compared_as_what_they_say() -> None:
    wanted = {"filters": json.dumps({"label": ["hutch.instance=a"]})}
    expect({"filters": '{ "label" : ["hutch.instance=a"] }'}, wanted)
    for given_ in (
        "{}",
        '{"label":{"hutch.instance=a":true}}',
        '{"label":["hutch.instance=a"],"label":[]}',
        '{"label":["hutch.instance=a"],"Label":[]}',
        '{"label":["hutch.instance=b"]}',
        "[",
    ):
        with pytest.raises(Refused):
            expect({"filters": given_}, wanted)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"HostConfig":{},"hostconfig":{}}',
        b'{"a":{"Privileged":false,"privileged":true}}',
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":9999999999999999999999}',
        b'{"a":1}{"a":2}',
        b'{"a":1} x',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{}",
        b'{"a":"\xff"}',
        b"",
        b"[" * 60_000,
        b"{'a':1}",
    ],
)
def test_json_that_is_not_plain(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parsed(body)
    assert refused.value.rule == "json"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**16), 10**16) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc_"), inner),
    )
)
def test_plain_json_is_read_as_it_is(value: object) -> None:
    assert canonical(parsed(json.dumps(value).encode())) == canonical(value)


def test_true_is_not_one() -> None:
    assert canonical({"a": True}) != canonical({"a": 1})
