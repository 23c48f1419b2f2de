"""Whatever is done to the log, by whoever has the database and not the key, is found."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from hutch.audit.chain import BEGINNING, Fault, Head, Link, Verifier, chain_key, sealed
from hutch.audit.models import OTHER, Entry, plain

KEY = chain_key(b"the installation's secret")


def chain_of(count: int, key: bytes = KEY) -> list[Link]:
    links: list[Link] = []
    head = Head()
    for number in range(count):
        links.append(sealed(key, head, Entry(f"action.{number}").line(1e9 + number)))
        head = Head(links[-1].seq, links[-1].seal)
    return links


def faults_of(links: list[Link], known: Head, before: Head | None = None) -> list[Fault]:
    verifier = Verifier(KEY, before or Head())
    faults = [fault for link in links for fault in verifier.take(link)]
    seals = {link.seq: link.seal for link in links}
    return faults + list(verifier.meets(known, seals.get(known.count)))


def head_of(links: list[Link]) -> Head:
    return Head(links[-1].seq, links[-1].seal) if links else Head()


@given(st.integers(0, 30))
def test_what_was_left_alone_is_intact(count: int) -> None:
    links = chain_of(count)
    assert faults_of(links, head_of(links)) == []
    # Also what was written after the head was noted.
    assert faults_of(links, head_of(links[: count // 2])) == []


@given(st.data())
def test_any_single_mutation_is_found(data: st.DataObject) -> None:
    links = chain_of(data.draw(st.integers(1, 20), "length"))
    known = head_of(links)
    at = data.draw(st.integers(0, len(links) - 1), "at")
    link = links[at]
    changed = list(links)
    match data.draw(
        st.sampled_from(["line", "seal", "seq", "remove", "truncate", "swap", "insert", "forge"])
    ):
        case "line":
            place = data.draw(st.integers(0, len(link.line) - 1))
            other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != link.line[place]))
            line = link.line[:place] + other + link.line[place + 1 :]
            changed[at] = dataclasses.replace(link, line=line)
        case "seal":
            place = data.draw(st.integers(0, 31))
            flipped = bytes([link.seal[place] ^ data.draw(st.integers(1, 255))])
            seal = link.seal[:place] + flipped + link.seal[place + 1 :]
            changed[at] = dataclasses.replace(link, seal=seal)
        case "seq":
            seq = data.draw(st.integers(0, 40).filter(lambda n: n != link.seq))
            changed[at] = dataclasses.replace(link, seq=seq)
            changed.sort(key=lambda one: one.seq)
        case "remove":
            del changed[at]
        case "truncate":
            del changed[at:]
        case "swap":
            other_at = data.draw(st.integers(0, len(links) - 1))
            if other_at == at:
                return
            one, two = links[at], links[other_at]
            changed[at] = Link(one.seq, two.line, two.seal)
            changed[other_at] = Link(two.seq, one.line, one.seal)
        case "insert":
            changed.insert(at, link)
        case "forge":  # as well as one can without the key
            changed[at:] = chain_of(len(links), b"another key")[at:]
    assert faults_of(changed, known) != []


def test_lines_that_are_taken_as_given() -> None:
    links = chain_of(10)
    links[2] = dataclasses.replace(links[2], line="{}")
    assert [fault.seq for fault in faults_of(links, head_of(links))] == [3]
    assert faults_of(links[3:], head_of(links), Head(3, links[2].seal)) == []
    assert Head().seal == BEGINNING


def test_no_line_holds_what_a_person_wrote() -> None:
    assert plain("user_00000000000000000000") == "user_00000000000000000000"
    for text in ("ada@example.org", "x" * 81, "", "a b", "é", "{}"):
        assert plain(text) == OTHER
