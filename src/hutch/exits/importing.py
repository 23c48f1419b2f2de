"""An inventory as its seller writes it: Decodo's download, CSV or YAML. All of it or nothing.

The lines of a text are ``host:port:user:password``, ``user:password@host:port`` or
``host,port,username,password[,expected_ip[,expires_at]]``, after a header in any order of columns.
"""

from __future__ import annotations

import csv
import ipaddress
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import yaml

from hutch.errors import InvalidRequest
from hutch.exits.models import Kind, NewExit
from hutch.secrets import Secret

EXITS_MAX: Final = 5000  # in one import
_TEXT_MAX: Final = 2_000_000  # characters
_PROBLEMS_SHOWN: Final = 20
_COLUMNS: Final = ("host", "port", "username", "password", "expected_ip", "expires_at")
_NAMES: Final = {
    "user": "username",
    "pass": "password",
    "ip": "expected_ip",
    "expires": "expires_at",
}
_KNOWN: Final = frozenset({*_COLUMNS, "label", "kind"})
_HOST: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
# A colon would end the user name in the header that carries both.
_USERNAME: Final = re.compile(r"[!-9;-~]{1,200}")
_PASSWORD: Final = re.compile(r"[!-~]{1,255}")
# Decodo's residential grammar: user-NAME[-country-us][-session-ID][-sessionduration-MINUTES].
_RESIDENTIAL: Final = re.compile(
    r"user-[A-Za-z0-9_.]+"
    r"(-(?:continent|country|state|city|zip|asn)-[A-Za-z0-9_]+)*"
    r"(?P<session>-session-[A-Za-z0-9_]+)?"
    r"(-sessionduration-(?P<minutes>[0-9]+))?"
)
_COLONS: Final = re.compile(
    r"(?P<host>[^:,;@]+):(?P<port>[0-9]+):(?P<username>[^:]*):(?P<password>.*)"
)
_AT: Final = re.compile(
    r"(?P<username>[^:,;]*):(?P<password>.*)@(?P<host>[^:,;@]+):(?P<port>[^:,;@]+)"
)
_RESIDENTIAL_HOST: Final = "gate.decodo.com"


def parse(text: str) -> list[NewExit]:
    """Every exit in ``text``. Raises ``InvalidRequest``, which names each bad line by its number
    and what is wrong with it, and never shows a password.
    """
    if len(text) > _TEXT_MAX:
        raise InvalidRequest(f"An inventory has at most {_TEXT_MAX} characters.", hint="Split it.")
    found: dict[tuple[str, int, str], NewExit] = {}
    problems: list[str] = []
    for where, entry in _entries(text):
        try:
            exit_ = _checked(entry)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if exit_.key in found:
            problems.append(f"{where}: the same host, port and user as before")
        found[exit_.key] = exit_
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if problems[_PROBLEMS_SHOWN:] else ""
        raise InvalidRequest(
            f"Nothing was imported. {shown}{more}",
            hint="One exit a line: host:port:user:password, or CSV or YAML (docs/operating.md).",
        )
    if not found:
        raise InvalidRequest(
            "There is no exit in the file.",
            hint="One exit a line: host:port:user:password, or CSV or YAML (docs/operating.md).",
        )
    if len(found) > EXITS_MAX:
        raise InvalidRequest(f"At most {EXITS_MAX} exits at once.", hint="Split the file.")
    return list(found.values())


def _entries(text: str) -> Iterator[tuple[str, Mapping[str, Any] | ValueError]]:
    """Each with the place where it stands."""
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if lines and _is_yaml(lines[0][1]):
        yield from _yaml(text)
        return
    columns: tuple[str, ...] | None = None
    for index, (number, line) in enumerate(lines):
        if index == 0 and (header := _header(line)):
            columns = header
            continue
        try:
            yield f"line {number}", _line(line, columns)
        except ValueError as error:
            yield f"line {number}", error


def _is_yaml(first: str) -> bool:
    return first == "---" or first.startswith(("- ", "exits:"))


def _yaml(text: str) -> Iterator[tuple[str, Mapping[str, Any] | ValueError]]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its words quote the text, and with it passwords.
        mark = getattr(error, "problem_mark", None)
        yield f"line {mark.line + 1}" if mark else "the file", ValueError("this is not YAML")
        return
    if isinstance(document, Mapping):
        document = document.get("exits")
    if not isinstance(document, list):
        yield "the file", ValueError("a list of exits is expected")
        return
    for number, entry in enumerate(document, 1):
        if isinstance(entry, Mapping):
            yield f"exit {number}", entry
        else:
            yield f"exit {number}", ValueError("host, port, username and password are expected")


def _header(line: str) -> tuple[str, ...] | None:
    cells = [cell.lower() for cell in _cells(line)]
    names = tuple(_NAMES.get(cell, cell) for cell in cells)
    return names if {"host", "port", "username", "password"} <= set(names) else None


def _cells(line: str) -> list[str]:
    separator = ";" if ";" in line and "," not in line else ","
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _line(line: str, columns: tuple[str, ...] | None) -> Mapping[str, Any]:
    """``columns`` are the header's, if there was one: then it is CSV, whatever it looks like."""
    if columns is None:
        plain = line.removeprefix("http://")
        # A password may hold every separator, so the rest of the line has to tell the form.
        readings = [m for form in (_COLONS, _AT) if (m := form.fullmatch(plain)) is not None]
        if len(readings) > 1:
            raise ValueError("this can be read in two ways; write it as YAML")
        if readings:
            return readings[0].groupdict()
        if "," not in line and ";" not in line:
            raise ValueError("host:port:user:password or user:password@host:port is expected")
    expected = columns or _COLUMNS
    cells = _cells(line)
    if not 4 <= len(cells) <= len(expected):
        raise ValueError(f"{len(cells)} columns; expected are {', '.join(expected)}")
    return {name: cell for name, cell in zip(expected, cells, strict=False) if cell}


def _checked(entry: Mapping[str, Any] | ValueError) -> NewExit:
    """Raises ``ValueError``, whose words may be shown."""
    if isinstance(entry, ValueError):
        raise entry
    entry = {_NAMES.get(str(name), str(name)): value for name, value in entry.items()}
    if unknown := sorted(set(entry) - _KNOWN):
        raise ValueError(f"{unknown[0][:40]!r} is not known; there are {', '.join(sorted(_KNOWN))}")
    host = _text(entry, "host").lower().rstrip(".")
    if not _HOST.fullmatch(host):
        raise ValueError("the host is not a name or an IPv4 address")
    port = _text(entry, "port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    username = _text(entry, "username")
    if not _USERNAME.fullmatch(username):
        raise ValueError("the user name is missing, too long, or has a space or a colon")
    password = _text(entry, "password")
    if not _PASSWORD.fullmatch(password):
        raise ValueError("the password is missing, longer than 255, or not printable ASCII")
    label = _text(entry, "label")
    if len(label) > 200 or not (label.isprintable() or not label):
        raise ValueError("the label is longer than 200 characters or not printable")
    return NewExit(
        kind=_kind(_text(entry, "kind"), host, username),
        host=host,
        port=int(port),
        username=username,
        password=Secret(password),
        label=label,
        expected_ip=_address(_text(entry, "expected_ip")),
        expires_at=_time(entry.get("expires_at")),
    )


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is not a text")  # noqa: TRY004  shown as any other bad line
    return str(value).strip()


def _kind(given: str, host: str, username: str) -> Kind:
    residential = _RESIDENTIAL.fullmatch(username)
    session = residential is not None and (residential["session"] or residential["minutes"])
    sticky = bool(session) or (residential is not None and host == _RESIDENTIAL_HOST)
    if residential is not None and residential["minutes"]:
        minutes = int(residential["minutes"])
        if not 1 <= minutes <= 1440:
            raise ValueError("a session's duration is 1 to 1440 minutes")
    match given:
        case "":
            return "sticky" if sticky else "static"
        case "sticky":
            return "sticky"
        case "static" if sticky:
            raise ValueError("a residential session is sticky: its address changes")
        case "static":
            return "static"
        case _:
            raise ValueError("kind is static or sticky")


def _address(text: str) -> str | None:
    if not text:
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("expected_ip is not an IP address") from None


def _time(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        at = value
    elif isinstance(value, date):
        at = datetime(value.year, value.month, value.day, tzinfo=UTC)
    else:
        try:
            at = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise ValueError("expires_at is not a date such as 2027-01-31") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
