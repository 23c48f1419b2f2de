"""One spelling for each host, whatever is sent."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import HostNotReady, InvalidRequest
from hutch.gateway.addresses import AddressCheck, is_open
from hutch.gateway.names import authority, host_name, matches, parse_rule, rule_text, written
from hutch.gateway.table import HostRule


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9.:\[\]%x*-]{1,40}", fullmatch=True))
def test_what_is_accepted_stays_as_it_is(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        host, port = authority(text, 443)
        assert authority(written(host, port)) == (host, port)
        assert host == host.lower()
        assert host.isascii()
        assert not host.endswith(".")
        assert "%" not in host
    with contextlib.suppress(InvalidRequest):
        rule = parse_rule(text)
        assert parse_rule(rule_text(rule)) == rule


@given(st.ip_addresses())
def test_an_address_is_itself(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    text = f"[{address.exploded}]" if address.version == 6 else str(address)
    assert ipaddress.ip_address(host_name(text)) == address


@given(st.ip_addresses(v=4))
def test_an_address_in_an_address_counts_as_that(address: ipaddress.IPv4Address) -> None:
    for text in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_open(ipaddress.ip_address(text)) == is_open(address)
    six_to_four = ipaddress.ip_address((0x2002 << 112) | (int(address) << 80))
    assert is_open(six_to_four) == is_open(address)


def test_a_network_that_cannot_be_read_is_named() -> None:
    for text in ("10.0.0.1/8", "10.0.0.0/33", "example.org"):
        with pytest.raises(HostNotReady, match="HUTCH_EGRESS_NETWORKS"):
            AddressCheck([text])


@pytest.mark.parametrize(
    ("rule", "host", "port", "passes"),
    [
        ("example.org", "example.org", 443, True),
        ("example.org", "www.example.org", 443, False),
        ("example.org", "example.org", 80, False),
        ("example.org:80", "example.org", 80, True),
        ("*.example.org", "www.example.org", 443, True),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "notexample.org", 443, False),
        ("1.2.3.4", "1.2.3.4", 443, True),
        ("[2001:DB8::1]:80", "2001:db8::1", 80, True),
    ],
)
def test_rules(rule: str, host: str, port: int, passes: bool) -> None:  # noqa: FBT001 - a case
    assert matches(parse_rule(rule), host, port) is passes


def test_a_wildcard_takes_no_address() -> None:
    assert not matches(HostRule("*.3.4", 443), "1.2.3.4", 443)
