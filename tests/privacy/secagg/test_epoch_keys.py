"""What an epoch's steps do to keys and to what is kept: masks unrelated, chains ratcheted, records before frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import Keep, Send, Sent, Stage, StepRecord, Summed, last_steps
from privacy.secagg.keystream import keystream
from privacy.secagg.messages import (
    Announce,
    Chunk,
    Established,
    Lock,
    LockRequest,
    Offer,
    Outcome,
    Reveal,
    RevealRequest,
    Shares,
    SharesRequest,
    decode,
)


def chain_states(step):
    """The chains of every two sites that are left, which must be the same on both sides."""
    names = [name for name in step.names if name not in step.gone]
    chains = {}
    for one in names:
        for other in set(names) - {one}:
            chain = step.sites[one]._chains[other]
            state = chain._step, chain._chain, chain._transcript
            assert chains.setdefault(frozenset((one, other)), state) == state, (one, other)
    return chains


def secrets_of(step):
    """Every seed and key of the step under way, at every site that is in it."""
    found = set()
    for name in step.names:
        secrets = step.sites[name]._step and step.sites[name]._step._secrets
        if secrets:
            found |= {secrets.self_seed, *secrets.pair_seeds.values(), *(key._key for key in secrets.keys.values())}
            found |= {key.seal_key(name, peer) for peer, key in secrets.keys.items()}
    return found


# Masks.


def test_masks_of_two_steps_are_unrelated(make_step):
    """The very same vectors in every step: what is uploaded has not one element in common, nor has the difference."""
    step = make_step(3, length=400, steps=3).start()
    same = step.vectors
    uploads, seen = [], set()
    for _ in range(3):
        step.vectors = same
        step.hold(LockRequest)
        found = secrets_of(step)
        # 3 own seeds; of 3 pairs a key and a mask seed, and a seal key each way
        assert len(found) == 3 + 3 + 3 + 6
        assert not found & seen
        seen |= found
        payloads = {name: decode(f).payload for name, f in step.received if isinstance(decode(f), Chunk)}
        uploads.append({name: np.frombuffer(payload, "<u4") for name, payload in payloads.items()})
        step.run().assert_exact(survivors=step.names)
        if len(uploads) < 3:
            step.begin_next()
    for name in step.names:
        one, other, third = (upload[name] for upload in uploads)
        assert not (one == other).any()
        assert not (other == third).any()
        assert not ((one - other) == (other - third)).any(), "the masks do not move on by a constant"


def test_an_upload_of_a_later_step_is_masked_by_every_peer_with_that_steps_seeds(make_step):
    step = make_step(3, length=50, steps=2, auto_upload=False).start().run()
    for name in step.names:
        step.upload(name)
    step.run().begin_next().hold(LockRequest)
    for me in step.names:
        step.upload(me)
        secrets = step.sites[me]._step._secrets
        masked = np.frombuffer(decode(step.up[me][1]).payload, "<u4")
        masks = [keystream(secrets.self_seed, 50)]
        for peer, seed in secrets.pair_seeds.items():
            assert seed == step.sites[peer]._step._secrets.pair_seeds[me]
            masks.append(keystream(seed, 50) * np.uint32(1 if me < peer else 2**32 - 1))
        np.testing.assert_array_equal(masked - sum(masks), step.vectors[me])
    step.run().assert_exact(survivors=step.names)


# Chains.


def test_the_ratchet_moves_when_a_step_is_announced_and_forgets(make_step):
    step = make_step(3, steps=3).start().hold(Announce)
    earlier = []
    for number in range(4, 7):
        before = chain_states(step)
        assert {state[0] for state in before.values()} == {number}
        step.hold(LockRequest)
        after = chain_states(step)
        assert {state[0] for state in after.values()} == {number + 1}
        earlier += [state[1] for state in before.values()]
        assert not {state[1] for state in after.values()} & set(earlier)
        step.run().assert_exact(survivors=step.names)
        if number < 6:
            step.begin_next().hold(Announce)


def test_nothing_a_site_holds_after_a_step_is_one_of_its_secrets(make_step):
    """Every bytes object reachable from the machine, after the step, against every secret before."""
    step = make_step(3, steps=2).start().hold(Established)
    setups = set()
    for name in step.names:
        site = step.sites[name]
        setups |= {site._key.agree(site._setup._parsed[peer].public_key) for peer in step.names if peer != name}
        setups |= {secret for secret, _ in site._setup._made.values()}
    assert len(setups) == 3 + 3
    step.hold(Announce)
    held = set().union(*(reachable(site) for site in step.sites.values()))
    assert not setups & held, "the agreement's secrets are gone with the setup"
    assert all(site._key is None and site._setup is None for site in step.sites.values()), "and so are the private keys"
    chains = {state[1] for state in chain_states(step).values()}
    assert chains < held
    step.hold(LockRequest)
    secrets = secrets_of(step) | chains
    held = set().union(*(reachable(site) for site in step.sites.values()))
    assert len(held & secrets) == 3 + 3 + 3, "own seeds, pair seeds and step keys are found while they are held"
    step.run()
    for site in step.sites.values():
        assert not secrets & reachable(site)


def reachable(thing, seen=None):
    """All bytes below a machine's attributes."""
    seen = set() if seen is None else seen
    if isinstance(thing, bytes):
        return {thing}
    if id(thing) in seen or isinstance(thing, str | int | float | None):
        return set()
    seen.add(id(thing))
    if isinstance(thing, dict):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set):
        inside = list(thing)
    elif type(thing).__module__.startswith("privacy.secagg"):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        inside = [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name) for name in slots)]
    else:
        inside = []
    return set().union(*(reachable(one, seen) for one in inside))


def test_chains_of_sites_that_were_late_stay_in_step(make_step):
    """Beta is late in two steps, delta in one: the chains of all pairs are equal on both sides, and move together."""
    step = make_step(5, steps=5).start()
    for silent in ((), ("beta",), ("beta",), ("delta",), ()):
        step.tamper_up = lambda name, frame, silent=silent: (
            None if name in silent and isinstance(decode(frame), Offer | Chunk) else frame
        )
        step.finish().assert_exact(survivors=[name for name in step.names if name not in silent])
        assert {state[0] for state in chain_states(step).values()} == {step.descriptor.step + 1}
        if step.descriptor.step < 8:
            step.begin_next()


def test_chains_with_sites_that_take_no_part_move_on_too(paused, replace):
    """A coordinator announces a step without epsilon: the others' chains with it must not give its key later."""
    step, announce = paused(Announce, steps=3)
    few = replace(announce, participants=announce.participants[:3]).encode()
    alpha, epsilon = step.sites["alpha"], step.sites["epsilon"]
    before = alpha._chains["epsilon"]._chain
    alpha.receive(few)
    assert sorted(alpha._step._secrets.pair_seeds) == ["beta", "delta"]
    assert alpha._chains["epsilon"]._step == 5
    assert alpha._chains["epsilon"]._chain != before
    assert alpha._chains["epsilon"]._chain != epsilon._chains["alpha"]._chain
    # epsilon, which was told nothing, catches up with the next step it is in
    key = epsilon._chains["alpha"].step_key(6, b"c", b"s")
    assert alpha._chains["epsilon"].step_key(6, b"c", b"s")._key == key._key


@settings(max_examples=25, deadline=None)
@given(
    st.integers(4, 6),
    st.integers(0, 99),
    st.lists(st.tuples(st.sampled_from([None, Offer, Chunk, Lock, Reveal, "lose"]), st.integers(0, 5)), max_size=4),
)
def test_any_epoch_gives_the_exact_sum_or_a_reason_in_every_step(make_step, n, seed, troubles):
    """One site a step late at some point, or lost for good: every other step is right, and chains stay in step."""
    step = make_step(n, seed=seed, steps=len(troubles) + 1).start()
    for trouble, number in [*troubles, (None, 0)]:
        name = step.names[number % n]
        step.tamper_up = None
        if isinstance(trouble, type):
            step.lie(name, trouble, lambda message: None)
        elif trouble == "lose":
            step.run(until=lambda: step.coordinator.phase == "lock")
            step.lose(name)
        step.finish()
        assert not step.site_errors
        assert not step.faults
        if isinstance(step.result, Summed):
            step.assert_exact()
        else:
            step.assert_burnt("was burnt in phase")
        chain_states(step)
        if step.descriptor.step == step.descriptor.last_step or not step.coordinator.can_begin():
            return
        step.begin_next()


# Records.


def recording(step):
    """Every effect of every site, in order, by site."""
    seen = {name: [] for name in step.names}
    original = step._site_effects

    def watch(name, effects):
        seen[name] += effects
        original(name, effects)

    step._site_effects = watch
    return seen


SPOKEN_OF = {Offer: Sent.UPLOADED, Lock: Sent.LOCKED, Reveal: Sent.REVEALED}


@pytest.mark.parametrize("open_uploads_bytes", [None, 1])
def test_a_record_is_kept_before_each_frame_it_speaks_of(make_step, open_uploads_bytes):
    """In two steps, with all at once and with turns: Keep, then the offer, the lock or the reveal, and once each."""
    step = make_step(4, steps=2, open_uploads_bytes=open_uploads_bytes)
    seen = recording(step)
    step.start().run().begin_next().run()
    for name in step.names:
        kept = []
        for effect in seen[name]:
            if isinstance(effect, Keep):
                kept.append(effect.record)
            elif isinstance(effect, Send) and type(decode(effect.frame)) in SPOKEN_OF:
                message = decode(effect.frame)
                record = kept[-1]
                assert record.sent is SPOKEN_OF[type(message)]
                assert bytes.fromhex(record.digest) == (
                    message.upload_hash() if isinstance(message, Offer) else message.digest
                )
        assert [(record.step, record.sent) for record in kept] == [
            (number, sent) for number in (4, 5) for sent in (Sent.UPLOADED, Sent.LOCKED, Sent.REVEALED)
        ]
        assert {(record.run_id, record.epoch) for record in kept} == {("00112233445566ff", 3)}
        assert step.kept[name] == kept
        assert last_steps(kept) == {"00112233445566ff": 5}


def test_a_keep_is_the_effect_right_before_its_send(make_step):
    step = make_step(3).start()
    seen = recording(step)
    step.run()
    for effects in seen.values():
        for at, effect in enumerate(effects):
            if isinstance(effect, Send) and type(decode(effect.frame)) in SPOKEN_OF:
                assert isinstance(effects[at - 1], Keep)


def test_shares_are_sent_without_a_record_of_their_own(make_step):
    """They follow the reveal of the same lock, which was kept."""
    step = make_step(4).start().hold(RevealRequest)
    step.lose("beta")
    step.hold(SharesRequest)
    seen = recording(step)
    step.run().assert_exact(survivors=step.names)
    assert [type(decode(e.frame)) for e in seen["alpha"] if isinstance(e, Send)] == [Shares]
    assert [record.sent for record in step.kept["alpha"]] == [Sent.UPLOADED, Sent.LOCKED, Sent.REVEALED]


def test_what_is_refused_is_not_kept(paused, replace):
    step, request = paused(LockRequest)
    before = list(step.kept["alpha"])
    step.give_site("alpha", replace(request, survivors=request.survivors[:2], parcels=()).encode())
    assert "alpha" in step.site_errors
    assert (
        step.kept["alpha"]
        == before
        == [StepRecord("00112233445566ff", 3, 4, Sent.UPLOADED, step.sites["alpha"]._step.upload_hash.hex())]
    )


# Shares are asked for only when somebody vanished.


@pytest.mark.parametrize("vanishes", [False, True])
def test_shares_are_asked_for_only_when_a_survivor_vanished_after_the_lock(make_step, vanishes):
    step = make_step(4, steps=2).start().hold(RevealRequest)
    if vanishes:
        step.lose("beta")
    step.run().assert_exact(survivors=step.names)
    kinds = {type(decode(frame)) for _, frame in step.sent}
    assert (SharesRequest in kinds) == vanishes
    assert Outcome in kinds
    assert any(isinstance(decode(frame), Shares) for _, frame in step.received) == vanishes
    assert all(site._step is None for name, site in step.sites.items() if name not in step.gone)


def test_a_site_that_revealed_and_went_needs_no_shares(make_step):
    step = make_step(3).start()
    step.run(until=lambda: Stage.REVEALED in step.coordinator.stages.values())
    assert step.result is None
    step.lose(next(name for name, stage in step.coordinator.stages.items() if stage is Stage.REVEALED))
    step.run().assert_exact(survivors=step.names)
    assert not any(isinstance(decode(frame), SharesRequest) for _, frame in step.sent)
