"""No step is taken twice, across restarts."""

import pytest

from privacy.secagg import Sent, SiteMachine, StepRecord, last_steps, messages
from privacy.secagg.journal import check_new_step
from tacit.errors import RepeatedStep

RUN, OTHER_RUN = "00112233445566ff", "ff66554433221100"


def record(run_id, step, sent=Sent.UPLOADED):
    return StepRecord(run_id, 3, step, sent, "ab" * 32)


def test_the_last_step_of_each_run_whatever_was_sent_and_in_whatever_order():
    records = [
        record(RUN, 4),
        record(RUN, 4, Sent.LOCKED),
        record(OTHER_RUN, 9, Sent.REVEALED),
        record(RUN, 7),
        record(RUN, 5, Sent.LOCKED),
    ]
    assert last_steps(records) == {RUN: 7, OTHER_RUN: 9}
    assert last_steps([]) == {}


@pytest.mark.parametrize("step", [0, 1, 6, 7])
def test_a_step_that_is_not_later_is_refused_naming_both(step):
    with pytest.raises(RepeatedStep, match=f"step {step} of run {RUN} was asked of alpha.*step 7"):
        check_new_step("alpha", RUN, step, 7)
    check_new_step("alpha", RUN, 8, 7)


@pytest.mark.parametrize(("last_step", "is_refused"), [(0, False), (3, False), (4, True), (5, True)])
def test_a_machine_is_made_for_a_later_step_only(make_step, last_step, is_refused):
    step = make_step(3)
    arguments = "alpha", step.identities["alpha"], step.roster, step.descriptor
    if is_refused:
        with pytest.raises(RepeatedStep, match="step 4 of run"):
            SiteMachine(*arguments, last_step=last_step)
    else:
        SiteMachine(*arguments, last_step=last_step)


@pytest.mark.parametrize(("message", "sent"), [("LockRequest", "uploaded"), ("RevealRequest", "locked")])
def test_what_was_kept_before_a_restart_refuses_the_step_after_it(make_step, message, sent):
    """Within a step: the site comes back with its records only, and neither a lock nor a reveal is had from it."""
    step = make_step(3).start().hold(getattr(messages, message))
    kept = step.kept["alpha"]
    assert kept[-1].sent == sent
    last = last_steps(kept)[step.descriptor.run_id]
    with pytest.raises(RepeatedStep):
        SiteMachine("alpha", step.identities["alpha"], step.roster, step.descriptor, last_step=last)


def test_other_runs_have_steps_of_their_own(make_step, make_descriptor):
    step = make_step(3).start().run()
    last = last_steps(step.kept["alpha"])
    other = make_descriptor(3, run_id=OTHER_RUN, step=4)
    SiteMachine("alpha", step.identities["alpha"], step.roster, other, last_step=last.get(OTHER_RUN, 0))
