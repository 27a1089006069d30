"""The tables themselves: reachable, without dead ends, and the machines follow them."""

import pytest

from privacy.secagg.phases import (
    COORDINATOR_TRANSITIONS,
    FINAL_PHASES,
    GONE_STAGES,
    NEXT_PHASE,
    PENDING_STAGES,
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


def paths(phase=SitePhase.NEW, seen=()):
    after = [(event, to) for (at, event), to in SITE_TRANSITIONS.items() if at is phase]
    if not after:
        yield phase, seen
    for event, to in after:
        yield from paths(to, (*seen, event))


def test_every_path_of_a_site_locks_once_then_reveals_once_after_one_upload():
    found = list(paths())
    assert len(found) == 2
    for end, events in found:
        assert end is SitePhase.REVEALED
        assert sorted(events) == sorted(SiteEvent), "each event exactly once"
        for first, second in [
            (SiteEvent.ANNOUNCE, SiteEvent.UPLOAD),
            (SiteEvent.UPLOAD, SiteEvent.LOCK_REQUEST),
            (SiteEvent.GRANT, SiteEvent.LOCK_REQUEST),
            (SiteEvent.LOCK_REQUEST, SiteEvent.REVEAL_REQUEST),
        ]:
            assert events.index(first) < events.index(second)


def test_final_states_accept_nothing():
    assert not any(phase in (SitePhase.REVEALED, SitePhase.FAILED) for phase, _ in SITE_TRANSITIONS)
    assert not any(
        phase in FINAL_PHASES or stage in (*GONE_STAGES, Stage.REVEALED) for phase, stage, _ in COORDINATOR_TRANSITIONS
    )


def test_phases_run_in_order_and_wait_for_stages_that_can_move_on():
    order = [CoordinatorPhase.SETUP]
    while order[-1] in NEXT_PHASE:
        order.append(NEXT_PHASE[order[-1]])
    assert order[-1] is CoordinatorPhase.SUMMED
    assert set(PENDING_STAGES) == set(NEXT_PHASE) == set(CoordinatorPhase) - set(FINAL_PHASES)
    for phase, stages in PENDING_STAGES.items():
        movable = {stage for at, stage, _ in COORDINATOR_TRANSITIONS if at is phase}
        # An offered site waits for room, which the coordinator gives, not for a message.
        assert set(stages) - {Stage.OFFERED} == movable
