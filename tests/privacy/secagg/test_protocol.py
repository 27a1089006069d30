"""Honest coordinator, honest sites, any network: the exact sum of the survivors, or a burnt step that says why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import (
    Completed,
    CoordinatorMachine,
    CoordinatorPhase,
    PhaseChanged,
    Ready,
    SendTo,
    SiteAt,
    SiteMachine,
    SitePhase,
    Stage,
    Summed,
    check_threshold,
    messages,
    uploads,
)
from privacy.secagg.keystream import keystream
from privacy.secagg.messages import Reveal, decode
from tacit.errors import BadSignature, CohortTooSmall, EncodingRange, IllegalEvent, SecAggError, TacitError


def test_all_survive(make_step):
    step = make_step(4).start().run()
    step.assert_exact(survivors=step.names)
    assert all(site.phase is SitePhase.REVEALED for site in step.sites.values())
    phases = [effect.phase for effect in step.effects if isinstance(effect, PhaseChanged)]
    assert phases == ["upload", "lock", "reveal", "summed"]
    for name in step.names:
        seen = [effect.phase for effect in step.effects if isinstance(effect, SiteAt) and effect.site == name]
        assert seen == ["joined", "uploading", "uploaded", "locked", "revealed"]


def test_what_is_uploaded_is_not_the_vector_but_masked_by_every_peer(make_step):
    """Unmask each upload by hand; with any one mask left on, it is not the vector."""
    step = make_step(3, length=50, auto_upload=False).start().run()
    for me in step.names:
        step.upload(me)
        secrets = step.sites[me]._secrets
        masked = np.frombuffer(decode(step.up[me][1]).payload, dtype="<u4")
        masks = [keystream(secrets.self_seed, 50)]
        for peer, seed in secrets.pair_seeds.items():
            assert seed == step.sites[peer]._secrets.pair_seeds[me]
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


def test_a_site_gets_ready_then_completed(make_step):
    step = make_step(3, auto_upload=False)
    step.start()
    for name in step.names:
        step.deliver_up(name)
    site = step.sites["alpha"]
    assert site.receive(step.down["alpha"].popleft()) == [Ready(step.names)]
    assert site.phase is SitePhase.READY
    step.run()
    for name in step.names:
        step.upload(name)
    step.run(until=lambda: site.phase is SitePhase.LOCKED and step.down["alpha"])
    effects = site.receive(step.down["alpha"].popleft())
    assert effects[-1] == Completed(step.names)


def test_secrets_are_forgotten_after_the_reveal(make_step):
    step = make_step(3).start().run()
    for site in step.sites.values():
        assert site._secrets is None
        assert site._key is None
        assert not site._locked.rows


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
    step.run(until=lambda: step.coordinator.stages["beta"] is Stage.REVEALED)
    assert step.result is None
    assert step.coordinator.lost("beta") == []
    step.lose("beta")
    assert step.coordinator.stages["beta"] is Stage.REVEALED
    step.run().assert_exact(survivors=step.names)


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
    assert step.sites[step.names[3]].phase is SitePhase.UPLOADED


# Memory and turns.


def largest_number_of_buffers(step) -> int:
    most = 0
    original = step.give_coordinator

    def watching(name, frame):
        nonlocal most
        original(name, frame)
        if step.coordinator._sum is not None:
            most = max(most, len(step.coordinator._sum.uploads._open))

    step.give_coordinator = watching
    step.start().run()
    return most


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_uploads_take_turns_so_that_memory_is_bounded(make_step, monkeypatch, slots):
    monkeypatch.setattr(messages, "CHUNK_BYTES", 40)
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 40)
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
        site.upload(vector)
    step.start()
    with pytest.raises(IllegalEvent):
        site.start()
    with pytest.raises(IllegalEvent):
        site.upload(vector)
    step.run()
    for bad in (vector[:-1], vector.astype(np.int64), vector.reshape(1, -1), np.append(vector, vector)):
        with pytest.raises(EncodingRange, match="uint32"):
            site.upload(bad)
    assert site.phase is SitePhase.GRANTED
    for name in step.names:
        step.upload(name)
    with pytest.raises(IllegalEvent):
        site.upload(vector)
    step.run().assert_exact(survivors=step.names)
    with pytest.raises(IllegalEvent):
        site.upload(vector)


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
    assert step.coordinator.lost("alpha") == []
    assert step.coordinator.deadline(CoordinatorPhase.REVEAL) == []
    with pytest.raises(IllegalEvent):
        step.coordinator.deadline()
    with pytest.raises(IllegalEvent):
        step.coordinator.receive("alpha", b"")


# Any order of deliveries, duplicates, losses and deadlines.

moves = st.one_of(
    st.tuples(st.just("up"), st.integers(0, 9)),
    st.tuples(st.just("down"), st.integers(0, 9)),
    st.tuples(st.just("run"), st.integers(1, 30)),
    st.tuples(st.just("repeat up"), st.integers(0, 40)),
    st.tuples(st.just("repeat down"), st.integers(0, 40)),
)
troubles = st.one_of(
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("deadline"), st.just(0)),
)


@st.composite
def scripts(draw):
    """Moves, with up to two troubles among them, any time from the beginning to the end of a step."""
    script = draw(st.lists(moves, max_size=30))
    for trouble in draw(st.lists(troubles, max_size=2)):
        at = draw(st.integers(0, len(script)))
        script[at:at] = [("run", draw(st.integers(1, 60))), trouble]
    return script


def allowed_parameters():
    for n in range(3, 7):
        for t in range(3, n + 1):
            for c in range(1, n):
                try:
                    check_threshold(n, t, c)
                except SecAggError:
                    continue
                yield n, t, c


def act(step, kind, number):
    name = step.names[number % len(step.names)]
    if kind == "up" and step.up[name]:
        step.deliver_up(name)
    elif kind == "down" and step.down[name]:
        step.deliver_down(name)
    elif kind == "run":
        budget = iter(range(number))
        step.run(until=lambda: next(budget, None) is None)
    elif kind == "repeat up" and step.received:
        sender, frame = step.received[number % len(step.received)]
        if sender not in step.gone:
            step.give_coordinator(sender, frame)
    elif kind == "repeat down" and step.sent:
        receiver, frame = step.sent[number % len(step.sent)]
        if receiver not in step.gone:
            step.give_site(receiver, frame)
    elif kind == "lose":
        step.lose(name)
    elif kind == "deadline" and step.coordinator.phase not in ("summed", "burnt"):
        step.deadline()


def revealed_secrets(step):
    """Every seed and share the coordinator was given: (owner, None or peer), by who gave it."""
    found = []
    for name, frame in step.received:
        message = decode(frame)
        if isinstance(message, Reveal):
            joined = step.sites[name]._session.joined
            found.append((name, None))
            found += [(name, peer) for peer, _ in message.pair_seeds]
            for row in message.rows:
                owners = [None, *(peer for peer in joined if peer != row.dealer)]
                found += [
                    (row.dealer, owner) for owner, entry in zip(owners, row.entries, strict=True) if len(entry) == 33
                ]
    return found


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(list(allowed_parameters())),
    st.integers(1, 9),
    st.integers(2, 6),
    st.sampled_from([None, 1, 80]),
    scripts(),
    st.integers(0, 2**32 - 1),
)
def test_the_exact_sum_or_a_reason(make_step, parameters, d, min_cohort, open_uploads_bytes, script, seed):
    n, threshold, collusion_bound = parameters
    step = make_step(
        n,
        seed=seed,
        length=d,
        threshold=threshold,
        collusion_bound=collusion_bound,
        min_cohort=min(min_cohort, n),
        open_uploads_bytes=open_uploads_bytes,
    ).start()
    for kind, number in script:
        act(step, kind, number)
    step.run()
    while step.result is None:
        step.deadline()
        step.run()
    assert not step.site_errors, "an honest coordinator never breaks the protocol"
    if isinstance(step.result, Summed):
        step.assert_exact()
        survivors = step.result.survivors
        assert len(survivors) >= max(threshold, min(min_cohort, n))
        for owner, peer in revealed_secrets(step):
            assert owner in survivors, "a secret of a dropped site was revealed by itself or by shares"
            assert peer is None or peer not in survivors, "both secrets that hide a survivor were revealed"
    else:
        step.assert_burnt("was burnt in phase")
        assert any(name in step.result.reason for name in step.names)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 9), st.data())
def test_every_pattern_of_dropouts_the_threshold_allows_gives_the_sum(make_step, n, data):
    step = make_step(n, seed=data.draw(st.integers(0, 99)))
    spare = n - step.descriptor.threshold
    losses = data.draw(st.lists(st.sampled_from(step.names), max_size=spare, unique=True))
    when = {name: data.draw(st.sampled_from(list(Stage)[:6])) for name in losses}
    step.start()

    def due():
        stages = step.coordinator.stages
        return [name for name in losses if name not in step.gone and stages[name] is when[name]]

    while step.result is None:
        for name in due():
            step.lose(name)
        step.run(until=lambda: bool(due()))
    step.assert_exact()
    assert set(step.names) - set(losses) <= set(step.result.survivors)


def test_errors_are_the_projects_own(make_step):
    """What any frame can raise at a site or a coordinator is in the exception tree."""
    step = make_step(3).start()
    for garbage in (b"", b"\1", bytes(100), b"\xff" * 500):
        with pytest.raises(TacitError):
            make_step(3).sites["alpha"].receive(garbage)
        effects = make_step(3).coordinator.receive("alpha", garbage)
        assert not any(isinstance(effect, SendTo) for effect in effects)
    step.run().assert_exact(survivors=step.names)
