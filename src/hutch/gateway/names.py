"""Hosts as sandboxes, users and operators write them, in the one form that is compared and dialled.

What two programs could read as two different hosts is refused, not repaired: percent signs,
addresses in octal, hexadecimal or as one number, zones, anything that is not ASCII (a name in
another script is written in its ``xn--`` form).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from hutch.errors import InvalidRequest
from hutch.gateway.table import HostRule

HTTPS_PORT: Final = 443
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what URL parsers take for a part of an address
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


def host_name(text: str) -> str:
    """A name in lower case without its last dot, or an address in its usual form, an IPv6 one
    without brackets. Raises ``InvalidRequest``.
    """
    if text.startswith("["):
        inner = text[1:-1] if text.endswith("]") else ""
        try:
            return str(ipaddress.IPv6Address(inner if "%" not in inner else ""))
        except ValueError:
            raise InvalidRequest("That is not an IPv6 address.") from None
    name = text.lower().removesuffix(".") if text.isascii() else ""
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))  # refuses octal and short forms
        except ValueError:
            raise InvalidRequest("An address is written as four decimal numbers.") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest(
            "That is not the name of a host.",
            hint="Letters, digits, dashes and dots; other scripts in their xn-- form.",
        )
    return name


def authority(text: str, default_port: int | None = None) -> tuple[str, int]:
    """``host:port`` → both. Raises ``InvalidRequest``, also if there is no port and no default."""
    host, port = text, ""
    if not text.endswith("]"):
        before, colon, after = text.rpartition(":")
        if colon:
            host, port = before, after
    if not port and default_port is not None and not text.endswith(":"):
        return host_name(host), default_port
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise InvalidRequest("A port is a number from 1 to 65535.")
    return host_name(host), int(port)


def parse_rule(text: str) -> HostRule:
    """``host``, ``*.host`` or an address, each with ``:port`` or for 443. Raises
    ``InvalidRequest``.
    """
    text = text.strip()
    below = text.startswith("*.")
    host, port = authority(text.removeprefix("*."), HTTPS_PORT)
    if not below:
        return HostRule(host, port)
    if "." not in host or _is_address(host):
        raise InvalidRequest(
            "A rule with * needs a domain of its own behind it.", hint="For example: *.example.org"
        )
    return HostRule(f"*.{host}", port)


def matches(rule: HostRule, host: str, port: int) -> bool:
    """Whether the rule lets ``host`` pass, which has to come from ``authority``."""
    if rule.port != port:
        return False
    if rule.host.startswith("*."):
        return host.endswith(rule.host[1:]) and not _is_address(host)
    return rule.host == host


def rule_text(rule: HostRule) -> str:
    """As ``parse_rule`` reads it."""
    host = f"[{rule.host}]" if ":" in rule.host else rule.host
    return host if rule.port == HTTPS_PORT else f"{host}:{rule.port}"


def written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
