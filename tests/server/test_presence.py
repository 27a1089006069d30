"""One connection speaks for a site; another one may when the first is gone."""

from __future__ import annotations

import pytest

from server.presence import Presence
from tacit.errors import TransportError

FIRST, SECOND = "ipv4:10.0.0.1:1111", "ipv4:10.0.0.2:2222"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> Presence:
    return Presence(clock)


def test_a_second_connection_is_turned_away_while_the_first_has_a_call_open(presence: Presence, clock: Clock) -> None:
    presence.enter("alpha", FIRST)
    clock.now_s += 3600
    with pytest.raises(TransportError, match=r"another agent with the identity of alpha is connected, from ipv4:10\.0"):
        presence.enter("alpha", SECOND)
    presence.enter("alpha", FIRST)
    presence.enter("beta", SECOND)


def test_between_two_calls_the_place_is_kept_for_a_while(presence: Presence, clock: Clock) -> None:
    presence.enter("alpha", FIRST)
    presence.leave("alpha", FIRST, broken=False)
    clock.now_s += 3.5
    with pytest.raises(TransportError):
        presence.enter("alpha", SECOND)
    clock.now_s += 3.5
    presence.enter("alpha", SECOND)
    with pytest.raises(TransportError):
        presence.enter("alpha", FIRST)


def test_a_broken_connection_frees_the_place_at_once(presence: Presence) -> None:
    presence.enter("alpha", FIRST)
    presence.enter("alpha", FIRST)
    assert not presence.leave("alpha", FIRST, broken=True)
    with pytest.raises(TransportError):
        presence.enter("alpha", SECOND)
    assert presence.leave("alpha", FIRST, broken=True)
    presence.enter("alpha", SECOND)


def test_a_late_end_of_a_replaced_connection_changes_nothing(presence: Presence, clock: Clock) -> None:
    presence.enter("alpha", FIRST)
    presence.leave("alpha", FIRST, broken=False)
    clock.now_s += 60
    presence.enter("alpha", SECOND)
    assert not presence.leave("alpha", FIRST, broken=True)
    with pytest.raises(TransportError):
        presence.enter("alpha", FIRST)
