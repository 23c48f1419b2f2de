"""What sellers' files look like, and what is said about lines that are not right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import InvalidRequest
from hutch.exits.importing import EXITS_MAX, parse
from hutch.exits.models import NewExit
from hutch.secrets import Secret

PASSWORD = "pa55:w@rd,that;is-not-shown"


def one(text: str) -> NewExit:
    [found] = parse(text)
    return found


def shape(exit_: NewExit) -> tuple[str, str, int, str, str]:
    return exit_.kind, exit_.host, exit_.port, exit_.username, exit_.password.reveal()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("isp.decodo.com:10001:sp1:a:b", ("static", "isp.decodo.com", 10001, "sp1", "a:b")),
        ("sp1:a:b@ISP.decodo.com.:10001", ("static", "isp.decodo.com", 10001, "sp1", "a:b")),
        ("http://sp1:p@w@192.0.2.7:80", ("static", "192.0.2.7", 80, "sp1", "p@w")),
        ("192.0.2.7,8080,sp1,secret", ("static", "192.0.2.7", 8080, "sp1", "secret")),
        ("192.0.2.7;8080;sp1;secret", ("static", "192.0.2.7", 8080, "sp1", "secret")),
        ("\ufeff# a comment\n\nh:1:u:p\n", ("static", "h", 1, "u", "p")),
        ("port,password,user,host\n8080,secret,sp1,h", ("static", "h", 8080, "sp1", "secret")),
        (
            "gate.decodo.com:7000:user-ann-country-us:p",
            ("sticky", "gate.decodo.com", 7000, "user-ann-country-us", "p"),
        ),
        (
            "proxy.test:7000:user-ann-session-a1-sessionduration-60:p",
            ("sticky", "proxy.test", 7000, "user-ann-session-a1-sessionduration-60", "p"),
        ),
        ("proxy.test:7000:user-ann:p", ("static", "proxy.test", 7000, "user-ann", "p")),
        ("- {host: h, port: 1, username: u, password: 12345}", ("static", "h", 1, "u", "12345")),
    ],
)
def test_forms(text: str, expected: tuple[str, str, int, str, str]) -> None:
    assert shape(one(text)) == expected


def test_what_a_line_may_say_besides() -> None:
    found = one("h,1,u,p,192.0.2.9,2027-01-31")
    assert (found.expected_ip, found.expires_at) == ("192.0.2.9", 1801353600.0)
    found = one(
        "exits:\n- host: h\n  port: 1\n  user: u\n  password: p\n"
        "  label: the third\n  ip: 2001:DB8::1\n  expires: 2027-01-31\n  kind: sticky\n"
    )
    assert (found.kind, found.label, found.expected_ip) == ("sticky", "the third", "2001:db8::1")
    assert found.expires_at == 1801353600.0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (f"host only {PASSWORD[:4]}", "line 2: host:port:user:password"),
        ("h:0:u:" + PASSWORD, "line 2: the port is not a number from 1 to 65535"),
        ("h:65536:u:" + PASSWORD, "the port is not"),
        (f"u:{PASSWORD}@h:²", "the port is not"),
        ("h:x:u:secret", "line 2: host:port:user:password or"),
        ("-h:1:u:x", "the host is not a name"),
        ("h:1::x", "the user name is missing"),
        ("h:1:u v:x", "the user name is missing, too long, or has a space"),
        ("h:1:u:", "the password is missing"),
        ("h:1:u:" + "x" * 256, "the password is missing, longer than 255"),
        ("h:1:u:s3cr\x07t", "not printable ASCII"),
        ("h,1,u", "3 columns; expected are host, port, username, password"),
        ("h,1,u,p,nowhere", "expected_ip is not an IP address"),
        ("h,1,u,p,192.0.2.9,soon", "expires_at is not a date"),
        ("u:1:b:c@h:1", "in two ways; write it as YAML"),
        ("good:1:u:p", "the same host, port and user as before"),
        ("h:1:user-a-session-b-sessionduration-1441:x", "1 to 1440 minutes"),
    ],
)
def test_one_bad_line_keeps_all_out(line: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(f"good:1:u:p\n{line}\ngood:2:u:p")
    assert complaint in refused.value.message
    assert refused.value.message.startswith("Nothing was imported.")
    assert PASSWORD not in refused.value.message
    assert "s3cr" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "There is no exit in the file"),
        ("# nothing\n", "There is no exit in the file"),
        ("- {host: [", "this is not YAML"),
        ("exits: 5", "a list of exits is expected"),
        ("- just words", "exit 1: host, port, username and password are expected"),
        ("- {host: h, port: 1, username: u, password: p, colour: red}", "'colour' is not known"),
        ("- {host: h, port: 1, username: u, password: {a: b}}", "password is not a text"),
        ("- {host: h, port: true, username: u, password: p}", "port is not a text"),
        (
            "- {host: h, port: 1, username: user-a-session-b, password: p, kind: static}",
            "a residential session is sticky",
        ),
        ("- {host: h, port: 1, username: u, password: p, kind: own}", "kind is static or sticky"),
        ("x" * 2_000_001, "at most 2000000 characters"),
    ],
)
def test_what_is_no_inventory(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(text)
    assert complaint in refused.value.message


def test_many_bad_lines_are_counted() -> None:
    with pytest.raises(InvalidRequest, match="and 30 more"):
        parse("\n".join(["bad"] * 50))


def test_no_more_than_can_be_kept() -> None:
    lines = [f"h:{1 + number % 60_000}:u{number}:p" for number in range(EXITS_MAX + 1)]
    with pytest.raises(InvalidRequest, match="At most 5000"):
        parse("\n".join(lines))
    assert len(parse("\n".join(lines[:-1]))) == EXITS_MAX


@given(st.text(max_size=300))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidRequest:
        return
    assert all(isinstance(exit_.password, Secret) and exit_.password.reveal() for exit_ in found)


passwords = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(passwords)
def test_any_password_survives_a_line(password: str) -> None:
    for line in (f"h:1:u:{password}", f"u:{password}@h:1"):
        try:
            found = one(line)
        except InvalidRequest as error:
            assert "in two ways" in error.message  # noqa: PT017  most passwords are no trouble
        else:
            assert found.password.reveal() == password
