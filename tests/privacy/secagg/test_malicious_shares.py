"""A site that lies when its vector is in the sum, or in what it left with its peers: it is named, and shares replace
what it hides as long as enough sites are left."""

import numpy as np
import pytest

from privacy.secagg import Stage, messages
from privacy.secagg.keys import ADVERT_CONTEXT, LOCK_CONTEXT, UPLOAD_CONTEXT, commit_pair, commit_self, seal
from privacy.secagg.messages import Lock, Offer, Reveal, RevealRequest, Shares, decode, lock_digest
from privacy.secagg.parcels import row_digest, share_hash
from privacy.secagg.shamir import split
from tacit.errors import BadShare, BadSignature, ConflictingLock, DescriptorMismatch, IllegalEvent, MalformedMessage

LIAR = "beta"


def signed(step, message, context):
    unsigned = message.signed_part()
    return unsigned + step.identities[LIAR].sign(context, unsigned)


def assert_only_the_liar_is_blamed(step, error):
    assert set(step.faults) == {LIAR}
    assert type(step.faults[LIAR]) is error
    assert step.faults[LIAR].peer in (LIAR, None)
    assert step.coordinator.stages[LIAR] is Stage.FAILED


LOCK_LIES = {
    "garbage": (lambda step, m, replace: b"\xde\xad" * 40, MalformedMessage),
    "forged": (lambda step, m, replace: replace(m, signature=bytes(64)), BadSignature),
    "signed in another context": (
        lambda step, m, replace: replace(m, signature=step.identities[LIAR].sign(ADVERT_CONTEXT, m.digest)),
        BadSignature,
    ),
    "signed by another": (
        lambda step, m, replace: replace(m, signature=step.identities["alpha"].sign(LOCK_CONTEXT, m.digest)),
        BadSignature,
    ),
    "another set": (lambda step, m, replace: replace(m, digest=bytes(32)), ConflictingLock),
    "another set, well signed": (lambda step, m, replace: lock_of_others(step, m, replace), ConflictingLock),
    "of another step": (lambda step, m, replace: replace(m, ctx=bytes(32)), DescriptorMismatch),
    "truncated": (lambda step, m, replace: m.encode()[:-1], MalformedMessage),
    "oversized": (lambda step, m, replace: m.encode() + b"\0", MalformedMessage),
}

REVEAL_LIES = {
    "garbage": (lambda m, replace: b"\xde\xad" * 40, MalformedMessage),
    "truncated": (lambda m, replace: m.encode()[:-1], MalformedMessage),
    "for another lock": (lambda m, replace: replace(m, digest=bytes(32)), ConflictingLock),
    "of another step": (lambda m, replace: replace(m, ctx=bytes(32)), DescriptorMismatch),
    "wrong self seed": (lambda m, replace: replace(m, self_seed=bytes(32)), BadShare),
    "wrong pair seed": (lambda m, replace: replace(m, pair_seeds=(("epsilon", bytes(32)),)), BadShare),
    "no pair seed": (lambda m, replace: replace(m, pair_seeds=()), BadShare),
    "a pair seed too many": (lambda m, replace: replace(m, pair_seeds=(("alpha", bytes(32)), *m.pair_seeds)), BadShare),
    "a pair seed of another site": (
        lambda m, replace: replace(m, pair_seeds=(("delta", m.pair_seeds[0][1]),)),
        BadShare,
    ),
}

SHARES_LIES = {
    "garbage": (lambda m, replace: b"\xde\xad" * 40, MalformedMessage),
    "truncated": (lambda m, replace: m.encode()[:-1], MalformedMessage),
    "for another lock": (lambda m, replace: replace(m, digest=bytes(32)), ConflictingLock),
    "of another step": (lambda m, replace: replace(m, ctx=bytes(32)), DescriptorMismatch),
    "wrong share": (lambda m, replace: with_entry(m, replace, 0, bytes(33)), BadShare),
    "wrong share of a seed with a dropped site": (lambda m, replace: with_entry(m, replace, 3, bytes(33)), BadShare),
    "a share as a hash": (lambda m, replace: with_entry(m, replace, 0, share_hash(m.rows[0].entries[0])), BadShare),
    "a share that must stay closed": (lambda m, replace: with_entry(m, replace, 1, bytes(33)), BadShare),
    "wrong hash": (lambda m, replace: with_entry(m, replace, 1, bytes(32)), BadShare),
    "a row cut short": (lambda m, replace: with_row(m, replace, entries=m.rows[0].entries[:-1]), BadShare),
    "a row too long": (lambda m, replace: with_row(m, replace, entries=(*m.rows[0].entries, bytes(32))), BadShare),
    "an empty row": (lambda m, replace: with_row(m, replace, entries=()), BadShare),
    "shares of itself": (lambda m, replace: with_row(m, replace, dealer=LIAR), BadShare),
    "shares of a dropped site": (lambda m, replace: with_row(m, replace, dealer="epsilon"), BadShare),
    "shares of a site that revealed": (lambda m, replace: with_row(m, replace, dealer="delta"), BadShare),
    "shares of a stranger": (lambda m, replace: with_row(m, replace, dealer="zulu"), BadShare),
}


def lock_of_others(step, lock, replace):
    """A good signature of the liar on everyone but itself."""
    session = step.sites[LIAR]._step.session
    survivors = tuple((name, site._step.upload_hash) for name, site in step.sites.items() if name != LIAR)
    digest = lock_digest(session.ctx, session.hash, survivors)
    return replace(lock, digest=digest, signature=step.identities[LIAR].sign(LOCK_CONTEXT, digest))


def with_row(shares, replace, **changes):
    return replace(shares, rows=(replace(shares.rows[0], **changes), *shares.rows[1:]))


def with_entry(shares, replace, index, entry):
    entries = shares.rows[0].entries
    return with_row(shares, replace, entries=(*entries[:index], entry, *entries[index + 1 :]))


@pytest.mark.parametrize("lie", LOCK_LIES)
@pytest.mark.parametrize("n", [3, 4])
def test_a_lie_at_the_lock(make_step, replace, lie, n):
    change, error = LOCK_LIES[lie]
    step = make_step(n)
    step.lie(LIAR, Lock, lambda message: change(step, message, replace)).start().finish()
    assert_only_the_liar_is_blamed(step, error)
    if n == 4:
        step.assert_exact(survivors=step.names)
    else:
        step.assert_burnt(LIAR, step.faults[LIAR].message, "3 must")


def without_epsilon(step):
    """Epsilon is lost before its upload: it is the one dropped site."""
    step.start().run(until=lambda: step.coordinator.phase == "upload")
    step.lose("epsilon")
    return step


@pytest.mark.parametrize("lie", REVEAL_LIES)
def test_a_lie_at_the_reveal(make_step, replace, lie):
    """n = 7, t = 5, epsilon dropped before upload: its pair seeds and beta's seeds come from others' shares."""
    change, error = REVEAL_LIES[lie]
    step = without_epsilon(make_step(7).lie(LIAR, Reveal, lambda message: change(message, replace))).finish()
    assert_only_the_liar_is_blamed(step, error)
    step.assert_exact(survivors=[name for name in step.names if name != "epsilon"])


def test_a_lie_at_the_reveal_when_everyone_is_needed(make_step, replace):
    step = make_step(3).lie(LIAR, Reveal, lambda message: replace(message, self_seed=bytes(32)))
    step.start().finish().assert_burnt("beta: the self seed of beta is not the one it committed to")


@pytest.mark.parametrize("lie", SHARES_LIES)
@pytest.mark.parametrize("threshold", [6, 7])
def test_a_lie_about_shares(make_step, replace, lie, threshold):
    """n = 9, epsilon dropped before upload, alpha vanished after the lock, beta lies about alpha's shares: of the six
    others, six must answer for a threshold of six, and a threshold of seven is not reached."""
    change, error = SHARES_LIES[lie]
    step = make_step(9, threshold=threshold, collusion_bound=2)
    without_epsilon(step.lie(LIAR, Shares, lambda message: change(message, replace))).hold(RevealRequest)
    step.lose("alpha")
    step.finish()
    assert_only_the_liar_is_blamed(step, error)
    if threshold == 6:
        step.assert_exact(survivors=[name for name in step.names if name != "epsilon"])
    else:
        step.assert_burnt(LIAR, step.faults[LIAR].message, "alpha: its connection broke", "7 must")


def test_no_shares_at_all_are_no_lie_but_do_not_count(make_step, replace):
    """As a site that could use none says it: the others' are enough, or the step is burnt naming who has good ones."""
    for n in (7, 4):
        step = make_step(n).lie(LIAR, Shares, lambda message: replace(message, rows=())).start().hold(RevealRequest)
        step.lose("alpha")
        step.finish()
        assert not step.faults
        if n == 7:
            step.assert_exact(survivors=step.names)
        else:
            step.assert_burnt("alpha vanished after its upload and only 2 sites hold good shares", "delta, epsilon")


# Lies in what a site leaves with its peers.


def with_wrong_self_commitment(step, offer, replace):
    return signed(step, replace(offer, self_commitment=bytes(32)), UPLOAD_CONTEXT)


@pytest.mark.parametrize("answers", [True, False])
def test_a_wrong_commitment_to_its_own_seed(make_step, replace, answers):
    """Found when it reveals, and again when its shares are put together: the step is burnt and names it."""
    step = relock(make_step(4)) if answers else make_step(4)
    step.lie(LIAR, Offer, lambda offer: with_wrong_self_commitment(step, offer, replace)).start().finish()
    assert set(step.faults) == {LIAR}
    step.assert_burnt(LIAR, "is not the one it committed to")


def test_wrong_commitments_to_pair_seeds(make_step, replace):
    """Its peers committed to other seeds for the same pairs. It is in every such pair, so it is named alone, and out:
    the next step is good without it."""
    step = make_step(4, steps=2)

    def change(offer):
        parcels = tuple(replace(parcel, pair_commitment=bytes(32)) for parcel in offer.parcels)
        return signed(step, replace(offer, parcels=parcels), UPLOAD_CONTEXT)

    step.lie(LIAR, Offer, change).start().finish()
    assert set(step.faults) == {LIAR}
    assert isinstance(step.faults[LIAR], BadShare)
    step.assert_burnt("beta is in every such pair")
    assert step.coordinator.stages[LIAR] is Stage.FAILED
    step.begin_next().run().assert_exact(survivors=["alpha", "delta", "epsilon"])


def test_one_wrong_commitment_names_the_pair(make_step, replace):
    step = make_step(4)

    def change(offer):
        parcels = (replace(offer.parcels[0], pair_commitment=bytes(32)), *offer.parcels[1:])
        return signed(step, replace(offer, parcels=parcels), UPLOAD_CONTEXT)

    step.lie(LIAR, Offer, change).start().finish()
    assert not step.faults
    step.assert_burnt("committed to different masks", "alpha and beta")


def dealing_badly(step, replace, *, secret):
    """An offer whose boxes do not open, or hold shares of other secrets, with digests that match only if consistent."""

    def change(offer):
        session = step.sites[LIAR]._step.session
        keys = step.sites[LIAR]._step._secrets.keys
        peers = session.peers_of(LIAR)
        points = [session.point(peer) for peer in peers]
        parcels = []
        for i, parcel in enumerate(offer.parcels):
            if secret == "unopenable":
                parcels.append(replace(parcel, box=parcel.box[:-1] + bytes([parcel.box[-1] ^ 1])))
                continue
            count = len(session.participants)
            content = b"\7" * 32
            row = [split(content, session.threshold, points, bytes)[i] for _ in range(count)]
            associated = messages.labelled_hash("box", session.ctx, session.hash, LIAR.encode(), parcel.peer.encode())
            key = keys[parcel.peer].seal_key(LIAR, parcel.peer)
            digest = row_digest(session, LIAR, parcel.peer, [share_hash(share) for share in row])
            box = seal(key, b"".join(row), associated)
            parcels.append(replace(parcel, row_digest=digest if secret == "consistent" else parcel.row_digest, box=box))
        return signed(step, replace(offer, parcels=tuple(parcels)), UPLOAD_CONTEXT)

    return step.lie(LIAR, Offer, change)


def relock(step):
    """The liar's own machine must lock the upload it really sent: tell it the tampered offer's hash."""
    original = step.give_coordinator

    def give(name, frame):
        message = decode(frame)
        if name == LIAR and isinstance(message, Offer):
            step.sites[LIAR]._step.upload_hash = message.upload_hash()
        original(name, frame)

    step.give_coordinator = give
    return step


@pytest.mark.parametrize("secret", ["unopenable", "other than committed", "consistent"])
def test_bad_shares_do_not_matter_while_their_dealer_answers(make_step, replace, secret):
    step = relock(dealing_badly(make_step(4), replace, secret=secret))
    step.start().finish().assert_exact(survivors=step.names)


@pytest.mark.parametrize("secret", ["unopenable", "other than committed"])
def test_bad_shares_of_a_vanished_dealer_burn_the_step_naming_it_and_who_complained(make_step, replace, secret):
    step = relock(dealing_badly(make_step(4), replace, secret=secret)).start()
    step.run(until=lambda: step.coordinator.phase == "reveal")
    step.lose(LIAR)
    step.finish().assert_burnt("beta vanished after its upload", "alpha could not use the shares of beta")
    assert not step.faults


def test_consistent_shares_of_other_secrets_of_a_vanished_dealer_are_its_fault(make_step, replace):
    step = relock(dealing_badly(make_step(4), replace, secret="consistent")).start()
    step.run(until=lambda: step.coordinator.phase == "reveal")
    step.lose(LIAR)
    step.finish()
    assert set(step.faults) == {LIAR}
    step.assert_burnt("the self seed of beta is not the one it committed to")


def test_a_revealer_of_bad_shares_is_told_apart_from_the_dealer(make_step, replace):
    """Alpha vanishes after its upload; beta gives a wrong share of alpha's seed. Beta is out, the sum is right."""
    step = make_step(7).lie(LIAR, Shares, lambda message: with_entry(message, replace, 0, bytes(33)))
    step.start().hold(RevealRequest)
    step.lose("alpha")
    step.finish()
    assert_only_the_liar_is_blamed(step, BadShare)
    assert "revealed other shares of alpha" in step.faults[LIAR].message
    step.assert_exact(survivors=step.names)


def test_values_beyond_the_bound_do_not_pass_as_a_sum(make_step):
    """A vector outside the agreed range, or masks that do not cancel, is not released."""
    step = make_step(4, value_bound=1.0, length=20)
    step.vectors[LIAR] = np.full(20, 2**30, dtype=np.uint32)
    step.start().finish().assert_burnt("the masks did not cancel, or a site sent values beyond the bound")


def test_a_complaint_about_a_good_dealer_costs_nothing(make_step, replace):
    """Whoever complains is only listened to when a step is burnt: a lie about others' boxes puts nobody out."""
    step = make_step(4).lie(LIAR, Lock, lambda lock: replace(lock, complaints=("alpha", "delta"))).start().finish()
    assert not step.faults
    step.assert_exact(survivors=step.names)


def test_commitments_are_those_of_the_seeds(make_step):
    step = make_step(3, auto_upload=False).start().run()
    step.upload(LIAR)
    offer = decode(step.up[LIAR][0])
    site = step.sites[LIAR]
    session, secrets = site._step.session, site._step._secrets
    assert offer.self_commitment == commit_self(session.ctx, session.hash, LIAR, secrets.self_seed)
    for parcel in offer.parcels:
        seed = secrets.pair_seeds[parcel.peer]
        assert parcel.pair_commitment == commit_pair(session.ctx, session.hash, LIAR, parcel.peer, seed)


def test_an_epoch_in_which_one_of_a_pair_lies_is_over(make_step, replace):
    """Nobody can say which of the two it is, so with the same keys it could burn every step that is left."""
    step = make_step(4, steps=3)

    def change(offer):
        parcels = (replace(offer.parcels[0], pair_commitment=bytes(32)), *offer.parcels[1:])
        return signed(step, replace(offer, parcels=parcels), UPLOAD_CONTEXT)

    step.lie(LIAR, Offer, change).start().finish()
    step.assert_burnt("alpha and beta")
    assert not step.coordinator.can_begin()
    with pytest.raises(IllegalEvent, match="cannot begin"):
        step.begin_next()
