from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.redaction import MASK, Redactor
from hutch.secrets import Secret, known_values

CANARY = "C4n4ryC4n4ryC4n4ryC4n4ry"

SHAPES = {
    "anthropic": f"sk-ant-api03-{CANARY}-AA",
    "openai": f"sk-proj-{CANARY}_{CANARY}",
    "openai, old": f"sk-{CANARY}",
    "google": f"AIza{CANARY}",
    "google, oauth": f"ya29.{CANARY}",
    "ours, user": f"hutch_user_{CANARY}",
    "ours, read-only": f"hutch_admin_read_{CANARY}",
    "github": f"ghp_{CANARY}",
    "github, fine-grained": f"github_pat_11A_{CANARY}",
    "jwt": f"eyJhbGciOiJIUzI1NiJ9.{CANARY}.{CANARY}",
    "refresh token": f"rt_{CANARY}",
    "bearer": f"authorization: Bearer {CANARY}",
    "basic": f"Proxy-Authorization: Basic {CANARY}==",
    "header in a list": f"[(b'x-api-key', b'{CANARY}'), (b'accept', b'*/*')]",
    "header in JSON": json.dumps({"X-Goog-Api-Key": CANARY}),
    "cookie": f"Cookie: sessionKey={CANARY}",
    "proxy": f"http://user:{CANARY}@proxy.example:8080/",
    "proxy, odd password": f'http://user:"@:{CANARY}@proxy.example:8080',
    "query": f"GET /v1beta/models?alt=sse&key={CANARY} HTTP/1.1",
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
    "private key, cut off": f"-----BEGIN PRIVATE KEY-----\\n{CANARY}\\n",
}


@pytest.mark.parametrize("name", SHAPES)
def test_known_shapes_go_wherever_they_stand(name: str) -> None:
    redactor = Redactor()
    secret = SHAPES[name]
    for text in (secret, f"before {secret} after", f"x={secret!r}", json.dumps({"a": secret})):
        assert CANARY not in redactor.text(text)
    nested = {"error": [{"deep": (secret, {secret: 1})}], "exception": f"Traceback\n{secret}\n"}
    assert CANARY not in json.dumps(redactor.value(nested))
    assert CANARY not in json.dumps(redactor.value({"what": Exception(secret)}))


@pytest.mark.parametrize(
    "text",
    [
        "user_2f6c sandbox sbx_9x1 run_0a disk-usage task-4711-of-many-others-here",
        "https://api.anthropic.com/v1/messages?beta=true",
        "postgresql://127.0.0.1:5432/hutch",
        "the basic functionality of bearers",
        "GET /v1/runs/run_0123456789abcdefghij/events",
        "2026-11-24T19:20:00.123456Z mail@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_values_under_a_name_that_says_what_they_are() -> None:
    said = Redactor().value({"password": "pw", "Authorization": "x", "input_tokens": 7, "n": None})
    assert said == {"password": MASK, "Authorization": MASK, "input_tokens": 7, "n": None}


@given(st.text(min_size=6, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_a_secret_that_is_alive_is_found_by_its_value(value: str, before: str, after: str) -> None:
    secret = Secret(value)
    assert value not in Redactor(known_values).text(before + value + after).replace(MASK, "")
    assert secret.reveal() == value


def test_one_of_two_equal_secrets_may_go() -> None:
    kept, gone = Secret("twice-the-same"), Secret("twice-the-same")
    del gone
    gc.collect()
    assert Redactor(known_values).text("twice-the-same") == MASK
    assert kept
    del kept
    gc.collect()
    assert Redactor(known_values).text("twice-the-same") == "twice-the-same"


def test_a_value_that_is_part_of_another() -> None:
    redactor = Redactor(lambda: ["inside", "out-inside-out"])
    assert redactor.text("an out-inside-out") == f"an {MASK}"


PROGRAM = """
import asyncio, logging, sys, threading, warnings
import structlog
from hutch.log_output import configure_logging
from hutch.secrets import Secret

shape, told, value = sys.stdin.read().split()
configure_logging(told)
kept = Secret(value)
for secret in (shape, told, value):
    log = structlog.get_logger()
    log.info("from.us", text=secret, nested={"a": [secret]}, other=Exception(secret))
    try:
        raise ValueError(f"while {secret} was there")
    except ValueError:
        log.exception("from.us")
        logging.getLogger("uvicorn.error").exception("in %s", secret)
    warnings.warn(secret, stacklevel=1)
    thread = threading.Thread(target=lambda: int(secret))
    thread.start()
    thread.join()

    async def forgotten():
        asyncio.create_task(failing())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def failing():
        raise ValueError(secret)

    asyncio.run(forgotten())
    sys.stderr.write("in pieces " + secret[:9])
    sys.stderr.write(secret[9:] + "\\n")
    sys.stderr.write("half a line " + secret)
raise SystemExit(int(secret))
"""


def test_nothing_of_them_is_in_a_process_output() -> None:
    secrets = (f"sk-ant-{CANARY}", "told-once-9571", "opaque-and-alive-3391")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        input=" ".join(secrets),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert done.stdout == ""
    for secret in secrets:
        assert secret not in done.stderr
        assert secret[9:] not in done.stderr
    # It was all there but for them.
    assert done.stderr.count('"event": "from.us"') == 6
    assert done.stderr.count("in pieces ") == 3
    for said in ("Traceback", "UserWarning", "Exception in thread", "never retrieved"):
        assert said in done.stderr, said
    assert done.returncode == 1
