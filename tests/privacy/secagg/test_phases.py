"""The tables themselves: reachable, without dead ends, and the machines follow them."""

from itertools import pairwise

import pytest

from privacy.secagg.phases import (
    COORDINATOR_TRANSITIONS,
    FINAL_PHASES,
    GONE_STAGES,
    IN_A_STEP,
    PENDING_STAGES,
    SETUP_PHASES,
    SITE_TRANSITIONS,
    CoordinatorPhase,
    SiteEvent,
    SiteMessage,
    SitePhase,
    Stage,
    site_phase_after,
    stage_after,
)
from tacit.errors import IllegalEvent


@pytest.mark.parametrize("phase", SitePhase)
@pytest.mark.parametrize("event", SiteEvent)
def test_site_table_says_yes_or_raises(phase, event):
    if (phase, event) in SITE_TRANSITIONS:
        assert site_phase_after(phase, event) is SITE_TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalEvent, match=str(phase)):
            site_phase_after(phase, event)


@pytest.mark.parametrize("phase", CoordinatorPhase)
@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("message", SiteMessage)
def test_coordinator_table_says_yes_or_raises(phase, stage, message):
    if (phase, stage, message) in COORDINATOR_TRANSITIONS:
        assert stage_after(phase, "alpha", stage, message) is COORDINATOR_TRANSITIONS[phase, stage, message]
    else:
        with pytest.raises(IllegalEvent, match="alpha"):
            stage_after(phase, "alpha", stage, message)


STEP_EVENTS = set(SiteEvent) - {SiteEvent.START, SiteEvent.EXPECT, SiteEvent.KEYS, SiteEvent.ESTABLISHED}


def paths(phase, seen=()):
    """Every way from ``phase`` back to rest. No event comes twice on one, or this would not end."""
    if phase is SitePhase.IDLE and seen:
        yield seen
        return
    for (at, event), to in SITE_TRANSITIONS.items():
        if at is phase and event is not SiteEvent.EXPECT:
            assert event not in seen, "a step runs in a circle"
            yield from paths(to, (*seen, event))


def test_a_site_comes_to_rest_by_one_way_only_its_key_setup():
    assert list(paths(SitePhase.NEW)) == [(SiteEvent.START, SiteEvent.KEYS, SiteEvent.ESTABLISHED)]


def test_every_path_of_a_step_locks_once_then_reveals_once_after_one_upload():
    found = list(paths(SitePhase.IDLE))
    assert len(found) == len(set(found)) == 11
    for events in found:
        assert events[0] is SiteEvent.ANNOUNCE
        assert events[-1] is SiteEvent.OUTCOME
        assert len(set(events)) == len(events), "each event once at most"
        assert set(events) <= STEP_EVENTS
        for later, earlier in [
            (SiteEvent.LOCK_REQUEST, SiteEvent.UPLOAD),
            (SiteEvent.LOCK_REQUEST, SiteEvent.GRANT),
            (SiteEvent.REVEAL_REQUEST, SiteEvent.LOCK_REQUEST),
            (SiteEvent.SHARES_REQUEST, SiteEvent.REVEAL_REQUEST),
        ]:
            if later in events:
                assert earlier in events
                assert events.index(earlier) < events.index(later)
    assert set().union(*found) == STEP_EVENTS - {SiteEvent.TOTAL_CHUNK}


def test_a_sum_is_received_after_the_outcome_only():
    """The outcome leads to RECEIVING by the machine's own decision, and nothing but the sum is accepted there."""
    assert [at for at, event in SITE_TRANSITIONS if event is SiteEvent.TOTAL_CHUNK] == [SitePhase.RECEIVING]
    assert [event for at, event in SITE_TRANSITIONS if at is SitePhase.RECEIVING] == [SiteEvent.TOTAL_CHUNK]
    assert SitePhase.RECEIVING not in IN_A_STEP


def test_every_phase_of_a_step_may_be_ended_and_no_other():
    assert {at for at, event in SITE_TRANSITIONS if event is SiteEvent.OUTCOME} == set(IN_A_STEP)
    assert set(SitePhase) - set(IN_A_STEP) == {
        *(SitePhase.NEW, SitePhase.JOINING, SitePhase.KEYED, SitePhase.IDLE),
        *(SitePhase.RECEIVING, SitePhase.FAILED),
    }


def test_a_step_is_expected_between_steps_only():
    assert [at for at, event in SITE_TRANSITIONS if event is SiteEvent.EXPECT] == [SitePhase.IDLE]


def test_final_states_accept_nothing():
    assert not any(phase is SitePhase.FAILED for phase, _ in SITE_TRANSITIONS)
    ended = (*GONE_STAGES, Stage.LATE, Stage.SHARED)
    assert not any(phase in FINAL_PHASES or stage in ended for phase, stage, _ in COORDINATOR_TRANSITIONS)


def test_a_stage_is_reached_by_one_message_in_one_phase():
    """No message of a site is accepted twice: only chunks leave a site where it is."""
    for (_, stage, message), after in COORDINATOR_TRANSITIONS.items():
        assert (stage is after) == (message is SiteMessage.CHUNK)
    assert (
        len({message for _, _, message in COORDINATOR_TRANSITIONS}) == len(COORDINATOR_TRANSITIONS) == len(SiteMessage)
    )


def test_phases_wait_for_stages_that_can_move_on():
    assert set(PENDING_STAGES) == set(CoordinatorPhase) - set(FINAL_PHASES)
    assert set(SETUP_PHASES) < set(PENDING_STAGES)
    for phase, stages in PENDING_STAGES.items():
        movable = {stage for at, stage, _ in COORDINATOR_TRANSITIONS if at is phase}
        # An offered site waits for room, which the coordinator gives, not for a message.
        assert set(stages) - {Stage.OFFERED} == movable
        assert not set(stages) & {*GONE_STAGES, Stage.LATE}


def test_each_phase_takes_up_where_the_one_before_it_left_its_sites():
    order = [phase for phase in CoordinatorPhase if phase in PENDING_STAGES]
    for phase, following in pairwise(order):
        reached = {after for (at, _, _), after in COORDINATOR_TRANSITIONS.items() if at is phase}
        waiting = set(PENDING_STAGES[following])
        # an upload's last chunk makes it UPLOADED, which the machine decides
        assert waiting & (reached | {Stage.UPLOADED}), (phase, following)
