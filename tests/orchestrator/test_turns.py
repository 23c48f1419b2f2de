"""Turns within a user, and the line between users: what holds whatever comes in whichever order."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hutch.runs.models import Standing
from hutch.runs.turns import Turns
from hutch.sandboxes.line import Line

USERS = ("ada", "bob", "eve")
AT_ONCE = {"ada": 1, "bob": 2, "eve": 4}


class TurnsMachine(RuleBasedStateMachine):
    """Runs come, end and are cancelled, users are held back; a model that is only lists."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.made = 0
        self.owner: dict[str, tuple[str, str]] = {}
        self.sessions: dict[str, list[str]] = defaultdict(list)
        self.going: set[str] = set()
        self.begun: set[str] = set()  # from before a restart, which no limit binds
        self.granted: Counter[str] = Counter()
        self.held: set[str] = set()

    def grant(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            user, session = self.owner[run_id]
            self.granted[run_id] += 1
            if run_id not in self.begun:
                assert user not in self.held
                assert self.sessions[session][0] == run_id
            self.going.add(run_id)

    @rule(user=st.sampled_from(USERS), session=st.integers(0, 3))
    def join(self, user: str, session: int) -> None:
        self.add(user, session, begun=False)

    @rule(user=st.sampled_from(USERS), session=st.integers(0, 3))
    def take_up(self, user: str, session: int) -> None:
        """Of a session, the one that had begun is the first."""
        if not self.sessions[f"{user}/{session}"]:
            self.add(user, session, begun=True)

    def add(self, user: str, session: int, *, begun: bool) -> None:
        run_id, session_id = f"run{self.made}", f"{user}/{session}"
        self.made += 1
        at_once = AT_ONCE[user]
        free = self.turns.free(user, session_id, at_once=at_once)
        self.owner[run_id] = (user, session_id)
        if begun:
            self.begun.add(run_id)
        self.sessions[session_id].append(run_id)
        granted = self.turns.join(run_id, user, session_id, at_once=at_once, begun=begun)
        assert free == (run_id in granted) or begun
        self.grant(granted)

    @precondition(lambda self: bool(self.owner))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.owner)))
        _, session = self.owner[run_id]
        self.sessions[session].remove(run_id)
        self.going.discard(run_id)
        granted = self.turns.leave(run_id)
        del self.owner[run_id]
        self.grant(granted)

    @rule(user=st.sampled_from(USERS))
    def hold(self, user: str) -> None:
        self.held.add(user)
        self.turns.hold(user)

    @rule(user=st.sampled_from(USERS))
    def release(self, user: str) -> None:
        self.held.discard(user)
        self.grant(self.turns.release(user))

    @invariant()
    def each_goes_once_and_none_too_many(self) -> None:
        assert all(times == 1 for times in self.granted.values())
        for user in USERS:
            going = [r for r in self.going if self.owner[r][0] == user and r not in self.begun]
            assert len(going) <= AT_ONCE[user]

    @invariant()
    def who_can_go_goes(self) -> None:
        for session, run_ids in self.sessions.items():
            user = session.split("/")[0]
            going = sum(self.owner[r][0] == user for r in self.going)
            if run_ids and run_ids[0] not in self.going and user not in self.held:
                assert going >= AT_ONCE[user]

    @invariant()
    def standings_agree_one_by_one_and_all_at_once(self) -> None:
        together = dict(self.turns.standings())
        assert together == {run_id: self.turns.standing(run_id) for run_id in self.owner}
        for run_id, standing in together.items():
            assert (standing is None) == (run_id in self.going)
            assert standing is None or standing.position >= 1

    def teardown(self) -> None:
        """Nobody waits for ever: with no hold left and each run ending, all have gone."""
        for user in USERS:
            self.release(user)
        while self.going:
            run_id = min(self.going)
            _, session = self.owner[run_id]
            self.sessions[session].remove(run_id)
            self.going.discard(run_id)
            granted = self.turns.leave(run_id)
            del self.owner[run_id]
            self.grant(granted)
        assert not self.owner
        assert list(self.turns.standings()) == []


TestTurns = TurnsMachine.TestCase


def test_what_a_run_waits_for() -> None:
    turns = Turns()
    for run_id, session in (("a", "s"), ("b", "s"), ("c", "s"), ("d", "t"), ("e", "u"), ("f", "v")):
        turns.join(run_id, "ada", session, at_once=2)
    assert dict(turns.standings()) == {
        "a": None,
        "b": Standing("session", 1),
        "c": Standing("session", 2),
        "d": None,
        "e": Standing("user_limit", 1),
        "f": Standing("user_limit", 2),
    }
    turns.hold("ada")
    assert turns.leave("d") == []
    assert turns.standing("e") == Standing("others_first", 1)
    assert turns.release("ada") == ["e"]


weights = st.sampled_from([1, 2, 4])


@given(
    mine=weights,
    others=st.lists(weights, min_size=1, max_size=6),
    before=st.lists(st.integers(0, 5), max_size=30),
)
def test_nobody_is_passed_more_often_than_weights_say(
    mine: int, others: list[int], before: list[int]
) -> None:
    """All others come back the moment that they were served, for ever."""
    line = Line()
    for n, weight in enumerate(others):
        line.join(f"u{n}", weight=weight)
    for n in before:  # any history
        if n < len(others) and (user := line.next()) is not None:
            line.serve(user)
            line.join(user, weight=others[int(user[1:])])
    line.join("me", weight=mine)
    passed: Counter[str] = Counter()
    while (user := line.next()) != "me":
        assert user is not None
        assert line.position(user) == 1
        line.serve(user)
        passed[user] += 1
        line.join(user, weight=others[int(user[1:])])
    for user, times in passed.items():
        assert times <= others[int(user[1:])] / mine + 1


@given(st.lists(weights, min_size=2, max_size=6))
def test_who_always_waits_is_served_by_weight(by_user: list[int]) -> None:
    line = Line()
    for n, weight in enumerate(by_user):
        line.join(f"u{n}", weight=weight)
    rounds = 40
    served: Counter[str] = Counter()
    for _ in range(rounds * sum(by_user)):
        user = line.next()
        assert user is not None
        line.serve(user)
        served[user] += 1
        line.join(user, weight=by_user[int(user[1:])])
    for n, weight in enumerate(by_user):
        assert abs(served[f"u{n}"] - rounds * weight) <= weight + len(by_user)


def test_newcomers_of_a_higher_tier_do_not_pass_for_ever() -> None:
    line = Line()
    line.join("free", weight=1)
    newcomers = 0
    while line.next() != "free":
        line.serve(str(line.next()))
        line.join(f"team{newcomers}", weight=4)
        newcomers += 1
        assert newcomers < 10
        line.join(f"team{newcomers}+", weight=4)
        newcomers += 1
    # And one who gave up has used nothing.
    line.leave("free")
    assert "free" not in line


def test_a_thousand_of_one_count_as_one_user() -> None:
    line = Line()
    for _ in range(1000):
        line.join("many", weight=1)
    line.join("one", weight=1)
    assert list(line) == ["many", "one"]
    assert line.position("one") == 2
