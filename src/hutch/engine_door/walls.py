"""Is what somebody wants to create exactly what Hutch creates? Pure.

No list of what is dangerous: from the body of the request is read what may differ between two
sandboxes, the spec; the walls are made again from that by the backend's own ``docker_spec``, and
have to be equal to what was asked for, key by key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from hutch.backends.base import WALL_SANDBOX, Isolation, Resources, SandboxSpec
from hutch.backends.docker_spec import container_config, network_config, spec_of
from hutch.engine_door.strict import Refused, canonical
from hutch.ids import is_id

IMAGE: Final = re.compile(
    r"sha256:[0-9a-f]{64}"
    r"|(?:[a-z0-9][a-z0-9._-]*(?::[0-9]{1,5})?/){0,8}"
    r"[a-z0-9][a-z0-9._-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)
_PROGRAM_MAX_MS: Final = 300_000
_OUTPUT_MAX: Final = 1 << 20
_VARIABLE: Final = re.compile(r"HUTCH_[A-Z0-9_]{1,64}")
_VARIABLES: Final = 64
_VALUE_MAX: Final = 4096


def checked_container(
    config: Any, *, instance: str, most: Resources
) -> tuple[SandboxSpec, Isolation]:
    """Raises ``Refused`` with the first thing that is not as Hutch makes it."""
    try:
        spec, isolation = spec_of(config)
        again = container_config(spec, isolation)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"[:100]
        raise Refused("walls", f"it does not say what a sandbox is made of ({why})") from None
    _equal(config, again)
    _names(spec, instance)
    _within(spec.resources, most)
    _environment(spec.env)
    return spec, isolation


def checked_network(config: Any, *, instance: str, subnet: str) -> dict[str, Any]:
    wanted = network_config(instance, subnet)
    _equal(config, wanted)
    return wanted


def checked_program(wanted: Any) -> tuple[list[str], float, int]:
    """``argv``, seconds, bytes: of what may be run in a container whose walls are being tried."""
    match wanted:
        case {"argv": [str(), *_] as argv, "within_ms": int(within), "output_max": int(most)} if (
            len(wanted) == 3
            and all(isinstance(word, str) and "\0" not in word for word in argv)
            and 0 < within <= _PROGRAM_MAX_MS
            and 0 < most <= _OUTPUT_MAX
        ):
            return argv, within / 1000, most
    raise Refused("body", "that is no program with its limits")


def _equal(config: Any, wanted: Mapping[str, Any]) -> None:
    if canonical(config) != canonical(wanted):
        where = next(_differences(config, wanted, ""), "something")
        raise Refused("walls", f"{where[:100]} is not as Hutch makes it")


def _differences(given: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(wanted, Mapping):
        for name in sorted(given.keys() | wanted.keys()):
            here = f"{where}.{name}" if where else str(name)
            if name in given and name in wanted:
                yield from _differences(given[name], wanted[name], here)
            else:
                yield here
    elif canonical(given) != canonical(wanted):
        yield where


def _names(spec: SandboxSpec, instance: str) -> None:
    if spec.instance != instance:
        raise Refused("own", "its label names another instance")
    if not (
        is_id(spec.sandbox_id.removeprefix(WALL_SANDBOX), "sbx") and is_id(spec.incarnation, "inc")
    ):
        raise Refused("walls", "its labels do not name a sandbox")
    if len(spec.image) > 255 or IMAGE.fullmatch(spec.image) is None:
        raise Refused("image", "that is no image's name")


def _within(limits: Resources, most: Resources) -> None:
    """None above what the door's own settings say. Below: each is 1 at least."""
    for name, value in asdict(limits).items():
        if value > getattr(most, name):
            raise Refused("limits", f"{name} is above {getattr(most, name)}")


def _environment(env: Mapping[str, str]) -> None:
    if len(env) > _VARIABLES:
        raise Refused("environment", f"there are more than {_VARIABLES} variables")
    for name, value in env.items():
        if _VARIABLE.fullmatch(name) is None or len(value) > _VALUE_MAX or "\0" in value:
            raise Refused("environment", f"{name[:70]!r} is none of the runtime's variables")
