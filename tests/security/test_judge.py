"""Verdicts on what a sandbox says of attacks on it: hostile text, and never a pass by silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.backends.base import WALL_SANDBOX, SandboxSpec
from hutch.backends.fake import FakeBackend
from hutch.config import Settings
from hutch.control.containers import WALL_STRIKES, Containers
from hutch.errors import HostNotReady
from hutch.walls.attacks import ATTACKS
from hutch.walls.judge import judge, judge_attacker, parse
from hutch.walls.models import Said
from hutch.walls.trial import try_walls
from hutch.walls.vehicle import Places, command

MOUNT, GATEWAY, NAMESPACE = (
    next(a for a in ATTACKS if a.name == name)
    for name in ("mount", "gateway_port", "user_namespace")
)


def verdict(attack: Any, said: Said | None, *seen: str, gvisor: bool = False) -> str:
    told = {} if said is None else {attack.program: said}
    (finding,) = judge([attack], told, frozenset(seen), gvisor=gvisor)
    assert bool(finding.remedy) == (finding.verdict != "held")
    return finding.verdict


def test_only_a_refusal_that_proves_something_holds() -> None:
    assert verdict(MOUNT, Said("EPERM", "")) == "held"
    assert verdict(MOUNT, Said("done", "mounted")) == "failed"
    for said in (None, Said("broken", ""), Said("hung", ""), Said("EINVAL", ""), Said("", "")):
        assert verdict(MOUNT, said) == "unclear"
    assert verdict(MOUNT, Said("EPERM", ""), "mount") == "failed"  # whatever it says


def test_a_control_has_to_succeed() -> None:
    assert verdict(GATEWAY, Said("done", "")) == "held"
    assert verdict(GATEWAY, Said("timeout", "")) == "failed"
    assert verdict(GATEWAY, None) == "unclear"


def test_what_gvisors_own_kernel_grants_is_told_apart() -> None:
    assert verdict(NAMESPACE, Said("done", ""), gvisor=True) == "held"
    assert verdict(NAMESPACE, Said("done", "")) == "failed"
    assert verdict(MOUNT, Said("done", ""), gvisor=True) == "failed"


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_two_words_for_one_attempt_are_none() -> None:
    held = line(name="kernel.mount", outcome="EPERM", detail="")
    done = line(name="kernel.mount", outcome="done", detail="")
    for output in (held + done, done + held, held + done + held):
        said, _ = parse(output)
        assert verdict(MOUNT, said["kernel.mount"]) == "unclear"
    assert parse(held + held)[0]["kernel.mount"].outcome == "EPERM"


STATUS = {"Uid": "1000", "Gid": "1000", "CapPrm": "0", "CapEff": "0"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"self": STATUS, "agents": [STATUS, STATUS]}, "held"),
        ({"self": STATUS, "agents": []}, "unclear"),
        ({"self": STATUS, "agents": [{**STATUS, "Uid": "1001"}]}, "unclear"),
        ({"self": {}, "agents": [{}]}, "unclear"),
        ({"self": None, "agents": None}, "unclear"),
        ({}, "unclear"),
    ],
)
def test_the_attacker_has_to_be_an_agent(facts: dict[str, Any], expected: str) -> None:
    assert judge_attacker(facts).verdict == expected


@given(st.binary(max_size=2000) | st.lists(st.binary(max_size=99)).map(b"\n".join))
def test_no_output_is_a_pass_by_accident(output: bytes) -> None:
    said, facts = parse(output)
    findings = judge(ATTACKS, said, frozenset(), gvisor=True)
    assert not any(finding.verdict == "held" for finding in findings)
    assert judge_attacker(facts).verdict == "unclear"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
keys = st.sampled_from(["name", "outcome", "detail", "self", "agents", "x"])
names = st.sampled_from([attack.program for attack in ATTACKS])


@given(st.lists(st.dictionaries(keys, json_values | names, max_size=5), max_size=8))
def test_any_json_is_read_and_shown_without_control_characters(
    values: list[dict[str, Any]],
) -> None:
    said, facts = parse("\n".join(map(json.dumps, values)).encode())
    for finding in (*judge(ATTACKS, said, frozenset(), gvisor=False), judge_attacker(facts)):
        assert finding.detail.isprintable()


def test_every_attack_is_a_program_that_is_sent() -> None:
    places = Places("10.0.0.1", 1, "10.0.0.2", (), {})
    *_, asked = command(ATTACKS, places)
    sources = dict(json.loads(asked)["modules"])
    for attack in ATTACKS:
        module, name = attack.program.split(".")
        assert f"\ndef {name}() -> str:" in sources[module]
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 80
    assert len(asked) < 100_000  # the kernel takes arguments of 128 KiB


async def test_without_walls_there_is_nothing_to_try(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="no walls"):
        await try_walls(Settings(data_dir=tmp_path), FakeBackend(), "image")


async def test_a_sandbox_whose_walls_are_tried_is_no_orphan_at_once() -> None:
    class NoRows:
        async def live(self) -> list[Any]:
            return []

        async def known_handles(self, handles: set[str]) -> set[str]:
            return set(handles) & set()

    backend = FakeBackend()
    for sandbox in (f"{WALL_SANDBOX}sbx_1", "sbx_2"):
        spec = SandboxSpec("fake0000", sandbox, f"inc_{sandbox}", "hutch-sandbox:latest", {})
        await backend.start((await backend.create(spec)).handle)
    looks = Containers(NoRows(), backend, lambda _: None, lambda _: None)  # type: ignore[arg-type]
    await looks.run()
    assert [one.sandbox_id for one in await backend.list()] == [f"{WALL_SANDBOX}sbx_1"]
    for _ in range(WALL_STRIKES - 1):
        assert len(await backend.list()) == 1
        await looks.run()
    assert await backend.list() == []
