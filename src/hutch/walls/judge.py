"""What was said inside and seen outside → whether each wall holds. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from hutch.walls.models import Attack, Finding, Said, Verdict

_LINE_MAX: Final = 8000  # characters; who agents are takes the most
_LINES_MAX: Final = 1000
_OUTCOME_MAX: Final = 32
_DETAIL_MAX: Final = 300
_KEPT: Final = ("Uid", "Gid", "CapPrm", "CapEff")  # a status without these is none


def parse(output: bytes) -> tuple[dict[str, Said], Mapping[str, Any]]:
    """Of hostile output: what each attempt said, by program, and who was attacking. What cannot be
    read is left out, and then missed by ``judge``; of two that claim a name the worse counts.
    """
    said: dict[str, Said] = {}
    facts: Mapping[str, Any] = {}
    for line in output.split(b"\n")[:_LINES_MAX]:
        if len(line) > _LINE_MAX:
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            continue
        if "self" in value and not facts:
            facts = value
            continue
        name, outcome, detail = (value.get(key) for key in ("name", "outcome", "detail"))
        if isinstance(name, str) and isinstance(outcome, str) and isinstance(detail, str):
            told = Said(_printable(outcome)[:_OUTCOME_MAX], _printable(detail)[:_DETAIL_MAX])
            known = said.get(name)
            said[name] = told if known in {None, told} else Said("twice", "")
    return said, facts


def judge(
    attacks: Iterable[Attack],
    said: Mapping[str, Said],
    seen: AbstractSet[str],
    *,
    gvisor: bool,
) -> list[Finding]:
    """``seen``: attempts that somebody outside has noticed, whatever was said inside."""
    return [_finding(attack, said.get(attack.program), seen, gvisor=gvisor) for attack in attacks]


def judge_attacker(facts: Mapping[str, Any]) -> Finding:
    """Whether the attempts were made with the rights of an agent, no more and no fewer."""
    mine: Any = facts.get("self")
    agents = facts.get("agents")
    verdict: Verdict = "unclear"
    if not _is_status(mine) or not isinstance(agents, list) or not agents:
        detail = "no agent was there to compare with"
    elif all(agent == mine for agent in agents):
        verdict, detail = "held", f"uid {str(mine['Uid'])[:20]}, as the agent's"
    else:
        detail = "agents have other rights than the attempts were made with"
    remedy = "Do the agents start? `docker logs` of a sandbox, and `hutch doctor`."
    return Finding(
        name="attacker",
        tries="attack with the rights of an agent",
        must="is the same user, with the same capabilities and filters, as the agents there",
        verdict=verdict,
        detail=detail,
        remedy="" if verdict == "held" else remedy,
    )


def _finding(attack: Attack, said: Said | None, seen: AbstractSet[str], *, gvisor: bool) -> Finding:
    verdict, detail = _verdict(attack, said, seen, gvisor=gvisor)
    remedy = "" if verdict == "held" else attack.remedy
    return Finding(attack.name, attack.tries, attack.must, verdict, detail, remedy)


def _verdict(
    attack: Attack, said: Said | None, seen: AbstractSet[str], *, gvisor: bool
) -> tuple[Verdict, str]:
    if attack.name in seen:
        return "failed", "it arrived outside"
    if said is None:
        return "unclear", "it was not tried: nothing was said of it"
    if said.outcome == "done":
        if attack.control:
            return "held", said.detail
        if attack.allowed_in_gvisor and gvisor:
            return "held", f"gVisor's own: {said.detail}"
        return "failed", said.detail
    if said.outcome in attack.refusals:
        return "held", said.outcome
    if attack.control:
        return "failed", said.outcome
    return "unclear", f"{said.outcome}: {said.detail}"


def _is_status(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in _KEPT)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
