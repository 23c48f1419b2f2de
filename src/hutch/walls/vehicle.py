"""How attacks get into a sandbox: as the argument of a Python there, and back as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from hutch.walls.models import Attack

_INSIDE: Final = "hutch.walls.inside"
_MODULES: Final = ("calls", "harness", "kernel", "network", "runtime")
# What the sources are there under the names that they have here.
_BOOT: Final = """
import ctypes, json, os, pwd, sys, types
if os.getuid() == 0:  # as the runtime starts an agent; see hutch_runtime.identity
    for capability in range(64):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
    agent = pwd.getpwnam("app")
    os.setgroups(())
    os.setresgid(agent.pw_gid, agent.pw_gid, agent.pw_gid)
    os.setresuid(agent.pw_uid, agent.pw_uid, agent.pw_uid)
    os.chdir("/workspace")
    os.execv(sys.executable, sys.orig_argv)
asked = json.loads(sys.argv[1])
inside = asked["inside"]
for depth in range(1, inside.count(".") + 2):
    package = ".".join(inside.split(".")[:depth])
    sys.modules[package] = types.ModuleType(package)
for name, text in asked["modules"]:
    module = sys.modules[inside + "." + name] = types.ModuleType(inside + "." + name)
    exec(compile(text, name, "exec"), module.__dict__)
of = {name: sys.modules[inside + "." + name] for name, _ in asked["modules"]}
of["network"].PLACES.update(asked["places"])
print(json.dumps(of["harness"].facts()), flush=True)
split = {program: program.split(".") for program in asked["programs"]}
of["harness"].run({p: getattr(of[module], name) for p, (module, name) in split.items()})
"""

OUTPUT_MAX: Final = 256 * 1024  # bytes; a hundred attempts say 20 KB
# The wait for an agent, and a hundred attempts of which a dozen run at a time.
WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Places:
    """What there is to attack from inside."""

    gateway: str
    gateway_port: int
    neighbour: str
    host_addresses: tuple[str, ...]
    watched: Mapping[str, int]  # attempt: the port on which somebody outside waits for it

    def told(self) -> dict[str, Any]:
        return {
            "gateway": self.gateway,
            "gateway_port": self.gateway_port,
            "neighbour": self.neighbour,
            "free_address": f"{self.gateway.rpartition('.')[0]}.250",
            "host_addresses": self.host_addresses,
            "watched": dict(self.watched),
        }


def command(attacks: Iterable[Attack], places: Places) -> tuple[str, ...]:
    """What to run inside."""
    sources = files(_INSIDE)
    asked = {
        "inside": _INSIDE,
        "modules": [(name, (sources / f"{name}.py").read_text("utf-8")) for name in _MODULES],
        "programs": [attack.program for attack in attacks],
        "places": places.told(),
    }
    return ("python3", "-I", "-c", _BOOT, json.dumps(asked))
