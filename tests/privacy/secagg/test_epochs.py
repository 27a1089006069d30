"""Many steps on one key setup: exact sums, sites that are late or lost, burnt steps."""

import numpy as np
import pytest

from privacy.secagg import SendTo, SitePhase, Stage, next_history
from privacy.secagg.messages import (
    Chunk,
    Established,
    Grant,
    KeyAdvert,
    Keys,
    Lock,
    LockRequest,
    Offer,
    Outcome,
    Reveal,
    RevealRequest,
    TotalChunk,
)
from privacy.secagg.messages import decode as read
from tacit.errors import IllegalEvent, MalformedMessage


def assert_all_were_told(step, *, except_for=()):
    """Every site that is left knows the survivors, and the sum if there is a step to come."""
    is_last = step.descriptor.step == step.descriptor.last_step
    for name in set(step.names) - step.gone - set(except_for):
        ended = step.ended[name]
        assert (ended.step, ended.survivors, ended.reason) == (step.descriptor.step, step.result.survivors, "")
        if is_last:
            assert ended.total is None
        else:
            np.testing.assert_array_equal(ended.total, step.result.total)
            assert ended.total.dtype == step.descriptor.ring.dtype
        assert step.sites[name].phase is SitePhase.IDLE


def test_five_steps_on_one_key_setup(make_step):
    step = make_step(4, steps=5).start().run()
    assert sum(isinstance(read(frame), KeyAdvert) for _, frame in step.received) == 4
    totals = []
    for number in range(4, 9):
        assert step.descriptor.step == number
        step.assert_exact(survivors=step.names)
        assert_all_were_told(step)
        totals.append(tuple(step.result.total.tolist()))
        if number < 8:
            step.begin_next().run()
            assert not any(isinstance(read(frame), KeyAdvert) for _, frame in step.received), "keys are set up once"
    assert len(set(totals)) == 5


def test_an_epoch_ends_with_its_last_step(make_step):
    step = make_step(3, steps=2).start().run().begin_next().run()
    step.assert_exact(survivors=step.names)
    beyond = step.descriptor
    with pytest.raises(MalformedMessage, match="step 6 is not one of the epoch's 2 steps"):
        beyond.following(beyond.history)
    for again in (beyond, step.sites["alpha"].descriptor):
        with pytest.raises(IllegalEvent, match="no later step"):
            step.coordinator.begin(again)


def kinds_sent(step):
    return {type(read(effect.frame)) for effect in step.effects if isinstance(effect, SendTo)}


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_sends_no_total(make_step, steps):
    step = make_step(3, steps=steps).start().run()
    while step.descriptor.step < step.descriptor.last_step:
        assert {Outcome, TotalChunk} <= kinds_sent(step)
        step.begin_next().run()
    step.assert_exact(survivors=step.names)
    assert Outcome in kinds_sent(step)
    assert TotalChunk not in kinds_sent(step)
    assert_all_were_told(step)


def test_a_sum_of_many_pieces_is_put_together(make_step, small_chunks):
    small_chunks(48)
    step = make_step(3, steps=2, length=33).start().run()
    assert len([frame for name, frame in step.sent if name == "beta" and isinstance(read(frame), TotalChunk)]) == 3
    assert_all_were_told(step)
    step.begin_next().run().assert_exact(survivors=step.names)


# Late, lost, burnt.


def late(step, name, kind):
    """Let a site's messages of one kind disappear for one step."""
    step.lie(name, kind, lambda message: None).finish()
    assert step.coordinator.stages[name] is Stage.LATE
    step.tamper_up = None
    return step


@pytest.mark.parametrize("kind", [Offer, Chunk, Lock, Reveal])
def test_a_site_that_is_late_takes_part_in_the_next_step(make_step, kind):
    step = make_step(4, steps=3).start()
    late(step, "beta", kind)
    in_sum = kind in (Lock, Reveal)
    step.assert_exact(survivors=step.names if in_sum else ["alpha", "delta", "epsilon"])
    assert_all_were_told(step)
    for _ in range(2):
        step.begin_next()
        assert step.coordinator.stages["beta"] is Stage.JOINED
        step.run().assert_exact(survivors=step.names)
        assert_all_were_told(step)


def test_what_a_late_site_sends_afterwards_is_passed_over(make_step):
    """Frames of the step it was late in come while the next one runs, in every one of its phases: no fault, no harm."""
    step = make_step(4, steps=2).start()
    frames = []
    step.lie("beta", (Offer, Chunk), lambda message: frames.append(message.encode()))
    step.hold(Outcome)
    step.deadline()
    assert step.coordinator.stages["beta"] is Stage.LATE
    for frame in frames:
        assert step.coordinator.receive("beta", frame) == []
    step.tamper_up = None
    step.run()
    for frame in frames:
        assert step.coordinator.receive("beta", frame) == [], "the step is over"
    step.begin_next()
    for phase in ("upload", "lock", "reveal", "summed"):
        step.run(until=lambda phase=phase: step.coordinator.phase == phase)
        for frame in frames:
            assert step.coordinator.receive("beta", frame) == []
    assert not step.faults
    step.run().assert_exact(survivors=step.names)


@pytest.mark.parametrize("kind", [Offer, Chunk, Lock, Reveal])
def test_a_site_that_is_late_with_everyone_needed_burns_the_step_and_the_next_is_good(make_step, kind):
    step = late(make_step(3, steps=3).start(), "beta", kind)
    step.assert_burnt("beta: it did not finish phase", "3 must")
    reasons = {ended.reason for ended in step.ended.values()}
    assert reasons == {step.result.reason}
    assert all(ended.survivors == () and ended.total is None for ended in step.ended.values())
    for _ in range(2):
        step.begin_next().run().assert_exact(survivors=step.names)
        assert_all_were_told(step)


@pytest.mark.parametrize("moment", ["upload", "lock", "reveal", "summed"])
def test_a_lost_site_does_not_come_back(make_step, moment):
    step = make_step(4, steps=3).start()
    step.run(until=lambda: step.coordinator.phase == moment)
    step.lose("beta")
    step.run().assert_exact()
    assert_all_were_told(step)
    step.begin_next()
    assert step.coordinator.stages["beta"] is Stage.LOST
    announced = {effect.site for effect in step.effects if hasattr(effect, "frame")}
    assert announced == {"alpha", "delta", "epsilon"}
    with pytest.raises(IllegalEvent, match="beta is lost"):
        step.coordinator.receive("beta", b"")
    step.run().assert_exact(survivors=["alpha", "delta", "epsilon"])
    step.begin_next().run().assert_exact(survivors=["alpha", "delta", "epsilon"])


def test_a_site_that_broke_the_protocol_does_not_come_back(make_step, replace):
    step = make_step(4, steps=2).start()
    step.lie("beta", Offer, lambda offer: replace(offer, signature=bytes(64))).finish()
    step.assert_exact(survivors=["alpha", "delta", "epsilon"])
    step.tamper_up = None
    step.begin_next()
    assert step.coordinator.stages["beta"] is Stage.FAILED
    step.run().assert_exact(survivors=["alpha", "delta", "epsilon"])


@pytest.mark.parametrize("stage", [Stage.LOST, Stage.FAILED])
def test_no_step_can_begin_when_too_few_are_left(make_step, stage):
    step = make_step(4, steps=3).start().run()
    for name, is_enough in (("beta", True), ("delta", False)):
        if stage is Stage.LOST:
            step.lose(name)
        else:
            step.give_coordinator(name, b"garbage")
        assert step.coordinator.stages[name] is stage
        assert step.coordinator.can_begin() == is_enough
    step = make_step(4, steps=3, min_cohort=4).start().run()
    step.lose("beta")
    assert not step.coordinator.can_begin()
    with pytest.raises(IllegalEvent, match="cannot begin"):
        step.coordinator.begin(step.descriptor.following(step.descriptor.history))


@pytest.mark.parametrize("phase", ["upload", "lock", "reveal"])
def test_a_burnt_step_is_followed_by_a_good_one(make_step, phase):
    step = make_step(4, steps=2).start()
    step.run(until=lambda: step.coordinator.phase == phase)
    step.coordinator_effects(step.coordinator.abort("the operator said so"))
    step.assert_burnt("the operator said so", f"in phase {phase}")
    step.run()
    assert {ended.reason for ended in step.ended.values()} == {step.result.reason}
    assert all(machine.phase is SitePhase.IDLE and machine._step is None for machine in step.sites.values())
    assert step.coordinator.abort("again") == []
    step.begin_next().run().assert_exact(survivors=step.names)
    assert_all_were_told(step)


def test_a_burnt_steps_reason_does_not_name_who_was_late_in_an_earlier_one(make_step):
    step = late(make_step(4, steps=2).start(), "beta", Offer)
    step.begin_next()
    step.coordinator_effects(step.coordinator.abort("the operator said so"))
    step.assert_burnt("the operator said so")
    assert "beta" not in step.result.reason


@pytest.mark.parametrize("phase", ["setup", "keys"])
def test_no_step_begins_on_a_setup_that_failed(make_step, phase):
    step = make_step(4, steps=2).start()
    step.run(until=lambda: step.coordinator.phase == phase)
    step.coordinator_effects(step.coordinator.abort("the operator said so"))
    step.assert_burnt(f"in phase {phase}")
    assert not step.coordinator.can_begin()
    with pytest.raises(IllegalEvent, match="cannot begin in an epoch that is burnt"):
        step.coordinator.begin(step.descriptor.following(step.descriptor.history))


def test_a_step_begins_after_another_has_ended_and_only_a_later_one_of_this_epoch(make_step, make_descriptor):
    step = make_step(4, steps=3).start()
    following = step.descriptor.following(step.descriptor.history)
    for phase in ("setup", "keys", "upload", "lock", "reveal"):
        step.run(until=lambda phase=phase: step.coordinator.phase == phase)
        assert not step.coordinator.can_begin()
        with pytest.raises(IllegalEvent, match=f"an epoch that is {phase}"):
            step.coordinator.begin(following)
    step.run()
    assert step.coordinator.can_begin()
    for wrong in (step.descriptor, make_descriptor(4, steps=4, step=5), make_descriptor(4, steps=3, step=5, epoch=4)):
        with pytest.raises(IllegalEvent, match="no later step of this epoch"):
            step.coordinator.begin(wrong)
    step.begin_next().run().assert_exact(survivors=step.names)


@pytest.mark.parametrize("before", [None, Keys, Established, Grant, LockRequest, RevealRequest, Outcome, TotalChunk])
def test_a_site_is_told_what_to_expect_between_steps_only(make_step, before):
    step = make_step(4, steps=3)
    if before is not None:
        step.start().hold(before)
    machine = step.sites["alpha"]
    following = step.descriptor.following(step.descriptor.history)
    phase = machine.phase
    with pytest.raises(IllegalEvent, match="given the event 'expect'"):
        machine.expect(following)
    assert (machine.phase, machine.descriptor) == (phase, step.descriptor)
    step.run()
    if before is not None:
        step.begin_next().run().assert_exact(survivors=step.names)


def test_a_step_number_may_be_skipped(make_step):
    """The coordinator was restarted, say: sites and coordinator go on with a later number."""
    step = make_step(4, steps=9).start().run()
    later = {}
    for name, machine in step.sites.items():
        last = machine.descriptor
        history = next_history(last.history, step.result.survivors, step.ended[name].total)
        later[name] = last.following(history).following(history).following(history)
        machine.expect(later[name])
    assert len(set(later.values())) == 1
    step.descriptor, step.effects, step.ended = later["alpha"], [], {}
    step.coordinator_effects(step.coordinator.begin(step.descriptor))
    step.run().assert_exact(survivors=step.names)
    assert step.descriptor.step == 7
