"""Every attack of ``hutch doctor --deep``, under runc and under gVisor."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from hutch.walls.attacks import ATTACKS
from hutch.walls.models import Attack, Finding
from tests.security.conftest import Attempt, Hall
from tests.service import HUTCH


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_from_inside(hall: Hall, attack: Attack, attempt: Attempt) -> None:
    finding = finding_of(hall, attack.name)
    attempt.tries, attempt.came = attack.tries, finding.detail
    assert finding.verdict == "held", finding


def test_the_attacker_is_an_agent_to_the_kernel(hall: Hall) -> None:
    assert finding_of(hall, "attacker").verdict == "held"


def test_an_agents_shell_has_the_same_rights(hall: Hall) -> None:
    """What a real CLI's tool is to the kernel is what the attempts were made as."""
    said = hall.user("a").shell(
        "codex", "awk '/^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):/ {print $1 $2}' /proc/self/status"
    )
    fields = dict(re.findall(r"^(\w+):([0-9a-f]+)$", said, re.MULTILINE))
    attacker = finding_of(hall, "attacker").detail.split()
    assert fields["Uid"] == attacker[1]
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    if hall.isolation == "runc":
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_nothing_of_the_trial_is_left(hall: Hall) -> None:
    hall.report()
    containers = hall.service.admin.call("GET", "/v1/admin/containers")["containers"]
    left = [line for line in hall.service.left_behind() if line.startswith("container")]
    assert len(left) == len(containers)


def test_the_command_tells_the_same(hall: Hall) -> None:
    if hall.isolation != "runc":
        pytest.skip("the quicker one is enough")
    done = subprocess.run(
        [HUTCH, "doctor", "--deep", "--json"],
        env=dict(hall.service.environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["holds"] is (done.returncode == 0) is hall.report().holds
    told = {finding["name"]: finding["verdict"] for finding in report["findings"]}
    assert told == {finding.name: finding.verdict for finding in hall.report().findings}


def finding_of(hall: Hall, name: str) -> Finding:
    (found,) = (finding for finding in hall.report().findings if finding.name == name)
    return found
