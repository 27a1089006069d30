"""One step of honest sites and an honest coordinator, from its first frame to its last."""

import numpy as np
import pytest

from privacy.secagg import (
    CoordinatorMachine,
    CoordinatorPhase,
    Ended,
    Keep,
    PhaseChanged,
    Ready,
    Send,
    SendTo,
    SiteAt,
    SiteMachine,
    SitePhase,
    Stage,
    site_step,
    uploads,
)
from privacy.secagg.keystream import keystream
from privacy.secagg.messages import Announce, LockRequest, Outcome, RevealRequest, decode
from privacy.secagg.surplus import Contribution
from tacit.errors import BadSignature, CohortTooSmall, EncodingRange, IllegalEvent, TacitError


def test_all_survive(make_step):
    step = make_step(4).start().run()
    step.assert_exact(survivors=step.names)
    assert all(site.phase is SitePhase.IDLE for site in step.sites.values())
    assert set(step.ended) == set(step.names)
    phases = [effect.phase for effect in step.effects if isinstance(effect, PhaseChanged)]
    assert phases == ["keys", "upload", "lock", "reveal", "summed"]
    for name in step.names:
        seen = [effect.phase for effect in step.effects if isinstance(effect, SiteAt) and effect.site == name]
        assert seen == ["advertised", "joined", "uploading", "uploaded", "locked", "revealed"]


def test_what_is_uploaded_is_not_the_vector_but_masked_by_every_peer(make_step):
    """Unmask each upload by hand; with any one mask left on, it is not the vector."""
    step = make_step(3, length=50, auto_upload=False).start().run()
    held = {name: site._step._secrets for name, site in step.sites.items()}
    for me, secrets in held.items():
        step.upload(me)
        masked = np.frombuffer(decode(step.up[me][1]).payload, dtype="<u4")
        masks = [keystream(secrets.self_seed, 50)]
        for peer, seed in secrets.pair_seeds.items():
            assert seed == held[peer].pair_seeds[me]
            masks.append(keystream(seed, 50) * np.uint32(1 if me < peer else 2**32 - 1))
        assert len(masks) == len(step.names)
        np.testing.assert_array_equal(masked - sum(masks), step.vectors[me])
        for i in range(len(masks)):
            partly = masked - sum(masks[:i] + masks[i + 1 :])
            assert not (partly == step.vectors[me]).any()
    step.run().assert_exact(survivors=step.names)


def test_the_callers_vector_is_not_modified(make_step):
    step = make_step(3, auto_upload=False)
    step.start().run()
    before = {name: vector.copy() for name, vector in step.vectors.items()}
    for name in step.names:
        step.upload(name)
    for name in step.names:
        np.testing.assert_array_equal(step.vectors[name], before[name])


def test_a_vector_that_is_a_view_is_taken_in_its_own_order(make_step):
    step = make_step(3, auto_upload=False, length=7).start().run()
    for name in step.names:
        step.vectors[name] = np.repeat(step.vectors[name], 3)[::-3]
        step.upload(name)
    step.run().assert_exact(survivors=step.names)


def test_a_site_gets_ready_then_the_end(make_step):
    step = make_step(3, auto_upload=False).start().hold(Announce)
    site = step.sites["alpha"]
    assert site.receive(step.down["alpha"].popleft()) == [Ready(4, step.names)]
    assert site.phase is SitePhase.READY
    step.run()
    for name in step.names:
        step.upload(name)
    step.hold(Outcome)
    assert site.phase is SitePhase.REVEALED
    (ended,) = site.receive(step.down["alpha"].popleft())
    assert isinstance(ended, Ended)
    assert (ended.step, ended.survivors, ended.reason, ended.total) == (4, step.names, "", None)


def test_a_vector_is_masked_where_it_is(make_step, small_chunks):
    """Nothing of it stays in clear, and what is sent are views of it, not a second vector."""
    small_chunks(48)
    step = make_step(3, auto_upload=False).start().run()
    vector = step.vectors["alpha"].copy()
    _, _, *sent = step.sites["alpha"].upload(Contribution(vector))
    assert not np.array_equal(vector, step.vectors["alpha"])
    assert all(np.shares_memory(np.frombuffer(each.content.payload, np.uint8), vector) for each in sent)
    assert b"".join(decode(each.frame).payload for each in sent) == vector.tobytes()


def test_a_vector_that_cannot_be_masked_where_it_is_is_copied(make_step):
    step = make_step(3, auto_upload=False).start().run()
    for name, vector in step.vectors.items():
        frozen = np.repeat(vector, 2)[::2]
        frozen.flags.writeable = False
        step._site_effects(name, step.sites[name].upload(Contribution(frozen)))
        assert np.array_equal(frozen, vector)
    step.run().assert_exact(survivors=step.names)


def test_what_is_sent_is_written_down_first(make_step):
    """Upload, lock and reveal: a crash after the frame never finds the record missing."""
    step = make_step(3, auto_upload=False).start().run()
    effects = [step.sites["alpha"].upload(Contribution(step.vectors["alpha"].copy()))]
    step._site_effects("alpha", effects[0])
    for name in step.names[1:]:
        step.upload(name)
    for kind in (LockRequest, RevealRequest):
        step.hold(kind)
        effects.append(step.sites["alpha"].receive(step.down["alpha"].popleft()))
        step._site_effects("alpha", effects[-1])
    for sent, found in zip(("uploaded", "locked", "revealed"), effects, strict=True):
        assert isinstance(found[0], Keep)
        assert (found[0].record.step, found[0].record.sent) == (4, sent)
        assert found[1:]
        assert all(isinstance(effect, Send) for effect in found[1:])
    step.run().assert_exact(survivors=step.names)


def test_seeds_are_forgotten_with_the_reveal_and_shares_with_the_outcome(make_step):
    step = make_step(3).start().hold(Outcome)
    for site in step.sites.values():
        assert site._step._secrets is None
        assert set(site._step._locked.rows) == set(step.names) - {site.name}
    step.run()
    assert all(site._step is None for site in step.sites.values())


# Losing a site in each phase, with the smallest cohorts.

MOMENTS = {
    "before its key arrives": lambda step: False,
    "before upload": lambda step: step.coordinator.phase is CoordinatorPhase.UPLOAD,
    "after upload, before lock": lambda step: step.coordinator.stages["beta"] is Stage.UPLOADED,
    "after lock, before reveal": lambda step: step.coordinator.stages["beta"] is Stage.LOCKED,
}


def lose_beta(step, moment):
    step.start()
    if moment == "before its key arrives":
        step.lose("beta")
    else:
        step.run(until=lambda: MOMENTS[moment](step))
        assert step.result is None
        step.lose("beta")
    return step.run()


@pytest.mark.parametrize("moment", MOMENTS)
def test_with_three_of_three_any_loss_burns_the_step_naming_the_site(make_step, moment):
    step = lose_beta(make_step(3), moment)
    step.assert_burnt("step 4 of run 00112233445566ff", "beta: its connection broke", "3 must")
    assert "alpha, delta" in step.result.reason


@pytest.mark.parametrize("moment", MOMENTS)
def test_with_three_of_four_one_loss_does_not_stop_the_step(make_step, moment):
    step = lose_beta(make_step(4), moment)
    is_in_sum = moment.startswith("after")
    step.assert_exact(survivors=[n for n in step.names if is_in_sum or n != "beta"])


def test_a_loss_after_the_reveal_changes_nothing(make_step):
    step = make_step(3).start()
    step.run(until=lambda: step.coordinator.stages["alpha"] is Stage.REVEALED)
    assert step.result is None
    step.lose("alpha")
    step.run().assert_exact(survivors=step.names)


def test_shares_are_asked_for_only_if_a_survivor_vanished(make_step):
    for moment in ("before upload", "after lock, before reveal"):
        step = lose_beta(make_step(4), moment)
        phases = [effect.phase for effect in step.effects if isinstance(effect, PhaseChanged)]
        assert ("shares" in phases) == moment.startswith("after lock")


@pytest.mark.parametrize("moment", MOMENTS)
def test_deadlines_drop_who_has_not_answered(make_step, moment):
    step = make_step(4).start()
    silenced = moment == "before its key arrives"
    for _ in range(300):
        silenced = silenced or MOMENTS[moment](step)
        if silenced:
            step.up["beta"].clear()
        waiting = [name for name in step.names if step.up[name] or step.down[name]]
        if step.result is not None:
            break
        if not waiting:
            step.deadline()
        for name in waiting:
            (step.deliver_up if step.up[name] else step.deliver_down)(name)
            if MOMENTS[moment](step):
                break
    step.assert_exact()
    assert ("beta" in step.result.survivors) == moment.startswith("after")


def test_min_cohort_above_the_threshold_is_kept(make_step):
    step = lose_beta(make_step(4, min_cohort=4), "before upload")
    step.assert_burnt("3 of 4 sites are left", "4 must be")
    step = lose_beta(make_step(4, min_cohort=4), "after upload, before lock")
    step.assert_exact(survivors=step.names)


def test_two_losses_at_different_times(make_step):
    """n = 7, t = 5: one gone before upload, one between lock and reveal: k by the living, b and k by shares."""
    step = make_step(7).start()
    step.run(until=lambda: step.coordinator.phase is CoordinatorPhase.UPLOAD)
    step.lose("gamma")
    step.run(until=lambda: step.coordinator.stages["alpha"] is Stage.LOCKED)
    step.lose("alpha")
    step.run().assert_exact(survivors=[name for name in step.names if name != "gamma"])


def test_a_late_upload_is_left_out_and_its_site_told_no_secret(make_step):
    step = make_step(4, auto_upload=False).start().run()
    for name in step.names[:3]:
        step.upload(name)
    step.run()
    step.deadline()
    step.upload(step.names[3])
    step.run()
    step.assert_exact(survivors=step.names[:3])
    late = step.names[3]
    assert not any(isinstance(decode(frame), LockRequest) for name, frame in step.sent if name == late)
    assert step.ended[late].survivors == step.names[:3]
    assert step.kept[late][-1].sent == "uploaded"


# Memory and turns.


def largest_number_of_buffers(step) -> int:
    most = 0
    original = step.give_coordinator

    def watching(name, frame):
        nonlocal most
        original(name, frame)
        if step.coordinator._step is not None:
            most = max(most, len(step.coordinator._step.uploads._open))

    step.give_coordinator = watching
    step.start().run()
    return most


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_uploads_take_turns_so_that_memory_is_bounded(make_step, monkeypatch, slots):
    for module in (site_step, uploads):
        monkeypatch.setattr(module, "CHUNK_BYTES", 40)
    step = make_step(7, length=33, open_uploads_bytes=slots * 4 * 33 + 5)
    assert largest_number_of_buffers(step) <= slots
    step.assert_exact(survivors=step.names)


def test_a_site_lost_while_it_has_the_turn_gives_it_to_the_next(make_step):
    step = make_step(4, open_uploads_bytes=1).start()
    step.run(until=lambda: Stage.UPLOADING in step.coordinator.stages.values())
    holder = next(name for name, stage in step.coordinator.stages.items() if stage is Stage.UPLOADING)
    step.run(until=lambda: list(step.coordinator.stages.values()).count(Stage.OFFERED) == 3)
    step.lose(holder)
    step.run().assert_exact(survivors=[name for name in step.names if name != holder])


def test_a_site_lost_while_it_waits_its_turn_does_not_block_others(make_step):
    step = make_step(4, open_uploads_bytes=1).start()
    step.run(until=lambda: Stage.OFFERED in step.coordinator.stages.values())
    waiting = next(name for name, stage in step.coordinator.stages.items() if stage is Stage.OFFERED)
    step.lose(waiting)
    step.run().assert_exact(survivors=[name for name in step.names if name != waiting])


# Calls out of order.


def test_calls_out_of_order_change_nothing(make_step):
    step = make_step(3, auto_upload=False)
    site, vector = step.sites["alpha"], step.vectors["alpha"]
    with pytest.raises(IllegalEvent):
        site.upload(Contribution(vector))
    step.start()
    with pytest.raises(IllegalEvent):
        site.start()
    with pytest.raises(IllegalEvent):
        site.upload(Contribution(vector))
    step.run()
    for bad in (vector[:-1], vector.astype(np.int64), vector.reshape(1, -1), np.append(vector, vector)):
        with pytest.raises(EncodingRange, match="uint32"):
            site.upload(Contribution(bad))
    assert site.phase is SitePhase.GRANTED
    for name in step.names:
        step.upload(name)
    with pytest.raises(IllegalEvent):
        site.upload(Contribution(vector))
    step.run().assert_exact(survivors=step.names)
    with pytest.raises(IllegalEvent):
        site.upload(Contribution(vector))


def test_a_coordinator_does_not_begin_a_step_no_site_would_take(make_step, make_descriptor):
    roster = make_step(4).roster
    CoordinatorMachine(roster, make_descriptor(4))
    with pytest.raises(BadSignature, match="delta"):
        CoordinatorMachine({name: one for name, one in roster.items() if name != "delta"}, make_descriptor(4))
    with pytest.raises(CohortTooSmall):
        CoordinatorMachine(roster, make_descriptor(4, threshold=2))
    with pytest.raises(EncodingRange):
        CoordinatorMachine(roster, make_descriptor(4, scale=2.0**28))
    with pytest.raises(EncodingRange):
        SiteMachine("alpha", make_step(4).identities["alpha"], roster, make_descriptor(4, scale=2.0**28))


def test_coordinator_calls_out_of_order(make_step):
    step = make_step(3).start()
    with pytest.raises(IllegalEvent, match="not in the cohort"):
        step.coordinator.receive("mallory", b"")
    with pytest.raises(IllegalEvent, match="not in the cohort"):
        step.coordinator.lost("mallory")
    assert step.coordinator.deadline(CoordinatorPhase.REVEAL) == []
    step.run().assert_exact(survivors=step.names)
    assert step.coordinator.deadline(CoordinatorPhase.REVEAL) == []
    with pytest.raises(IllegalEvent):
        step.coordinator.deadline()
    assert step.coordinator.lost("alpha") == [SiteAt("alpha", Stage.LOST)]
    assert step.coordinator.lost("alpha") == []
    with pytest.raises(IllegalEvent):
        step.coordinator.receive("alpha", b"")


def test_errors_are_the_projects_own(make_step):
    """What any frame can raise at a site or a coordinator is in the exception tree."""
    step = make_step(3).start()
    for garbage in (b"", b"\1", bytes(100), b"\xff" * 500):
        with pytest.raises(TacitError):
            make_step(3).sites["alpha"].receive(garbage)
        effects = make_step(3).coordinator.receive("alpha", garbage)
        assert not any(isinstance(effect, SendTo) for effect in effects)
    step.run().assert_exact(survivors=step.names)
