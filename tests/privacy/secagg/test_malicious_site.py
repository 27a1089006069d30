"""A site that lies. The step ends naming it: with the right sum of the others where they suffice, else burnt."""

import numpy as np
import pytest

from privacy.secagg import Stage, messages, uploads
from privacy.secagg.keys import ADVERT_CONTEXT, UPLOAD_CONTEXT, EphemeralKey, commit_pair, commit_self, seal
from privacy.secagg.messages import Announce, Chunk, Grant, KeyAdvert, Lock, Offer, Reveal, decode
from privacy.secagg.parcels import row_digest, share_hash
from privacy.secagg.shamir import split
from tacit.errors import BadShare, BadSignature, ConflictingLock, DescriptorMismatch, MalformedMessage

LIAR = "beta"


def lying(step, kind, change):
    """Pass the liar's messages of one kind through ``change``, which returns a message, bytes or None (silence)."""

    def tamper(name, frame):
        if name != LIAR or not isinstance(decode(frame), kind):
            return frame
        changed = change(decode(frame))
        return changed if isinstance(changed, bytes) or changed is None else changed.encode()

    step.tamper_up = tamper
    return step


def finish(step):
    step.run()
    while step.result is None:
        step.deadline()
        step.run()
    return step


def signed(step, message, context):
    unsigned = message.signed_part()
    return unsigned + step.identities[LIAR].sign(context, unsigned)


def others(step):
    return [name for name in step.names if name != LIAR]


def assert_only_the_liar_is_blamed(step, error):
    assert set(step.faults) == {LIAR}
    assert type(step.faults[LIAR]) is error
    assert step.faults[LIAR].peer in (LIAR, None)
    assert step.coordinator.stages[LIAR] is Stage.FAILED


# Lies at setup and upload: the liar is out before anything of it is added; the others' sum is right.

SETUP_LIES = {
    "garbage": (lambda step, m, replace: b"\xde\xad" * 40, MalformedMessage),
    "empty": (lambda step, m, replace: b"", MalformedMessage),
    "a coordinator's message": (lambda step, m, replace: Grant(m.ctx), MalformedMessage),
    "unsigned key": (lambda step, m, replace: replace(m, signature=bytes(64)), BadSignature),
    "key in another's name": (
        lambda step, m, replace: signed(step, replace(m, name="alpha"), ADVERT_CONTEXT),
        BadSignature,
    ),
    "key of another step": (
        lambda step, m, replace: signed(step, replace(m, ctx=bytes(32)), ADVERT_CONTEXT),
        DescriptorMismatch,
    ),
    "key of another epoch": (
        lambda step, m, replace: signed(step, replace(m, epoch=m.epoch - 1), ADVERT_CONTEXT),
        DescriptorMismatch,
    ),
    "key of another run": (
        lambda step, m, replace: signed(step, replace(m, run_id=bytes(8)), ADVERT_CONTEXT),
        DescriptorMismatch,
    ),
    "key of small order": (
        lambda step, m, replace: signed(step, replace(m, public_key=bytes(32)), ADVERT_CONTEXT),
        MalformedMessage,
    ),
}

OFFER_LIES = {
    "garbage": (lambda step, m, replace: b"\xde\xad" * 40, MalformedMessage),
    "unsigned": (lambda step, m, replace: replace(m, signature=bytes(64)), BadSignature),
    "changed after signing": (lambda step, m, replace: replace(m, vector_hash=bytes(32)), BadSignature),
    "in another's name": (
        lambda step, m, replace: signed(step, replace(m, name="alpha"), UPLOAD_CONTEXT),
        DescriptorMismatch,
    ),
    "of another setup": (
        lambda step, m, replace: signed(step, replace(m, session=bytes(32)), UPLOAD_CONTEXT),
        DescriptorMismatch,
    ),
    "of another step": (
        lambda step, m, replace: signed(step, replace(m, ctx=bytes(32)), UPLOAD_CONTEXT),
        DescriptorMismatch,
    ),
    "longer vector": (lambda step, m, replace: signed(step, replace(m, length=6), UPLOAD_CONTEXT), MalformedMessage),
    "shares for fewer sites": (
        lambda step, m, replace: signed(step, replace(m, parcels=m.parcels[:-1]), UPLOAD_CONTEXT),
        MalformedMessage,
    ),
    "shares for itself": (
        lambda step, m, replace: signed(
            step, replace(m, parcels=(*m.parcels[:-1], replace(m.parcels[-1], peer=LIAR))), UPLOAD_CONTEXT
        ),
        MalformedMessage,
    ),
    "a box of another size": (
        lambda step, m, replace: signed(
            step, replace(m, parcels=(replace(m.parcels[0], box=b"x"), *m.parcels[1:])), UPLOAD_CONTEXT
        ),
        MalformedMessage,
    ),
}

CHUNK_LIES = {
    "garbage": (lambda step, m, replace: b"\xde\xad" * 40, MalformedMessage),
    "truncated": (lambda step, m, replace: replace(m, payload=m.payload[:-4]), MalformedMessage),
    "empty": (lambda step, m, replace: replace(m, payload=b""), MalformedMessage),
    "oversized": (lambda step, m, replace: replace(m, payload=m.payload + bytes(4)), MalformedMessage),
    "beyond a frame": (lambda step, m, replace: replace(m, payload=bytes(2**21)).encode(), MalformedMessage),
    "out of order": (lambda step, m, replace: replace(m, index=1), MalformedMessage),
    "another vector": (lambda step, m, replace: replace(m, payload=bytes(len(m.payload))), BadSignature),
    "of another step": (lambda step, m, replace: replace(m, ctx=bytes(32)), DescriptorMismatch),
}

EARLY = [
    *((KeyAdvert, lie, SETUP_LIES) for lie in SETUP_LIES),
    *((Offer, lie, OFFER_LIES) for lie in OFFER_LIES),
    *((Chunk, lie, CHUNK_LIES) for lie in CHUNK_LIES),
]


@pytest.mark.parametrize(("kind", "lie", "lies"), EARLY, ids=[f"{k.__name__}: {lie}" for k, lie, _ in EARLY])
@pytest.mark.parametrize("n", [3, 4])
def test_an_early_lie_puts_the_liar_out(make_step, replace, kind, lie, lies, n):
    change, error = lies[lie]
    step = make_step(n)
    finish(lying(step, kind, lambda message: change(step, message, replace)).start())
    assert_only_the_liar_is_blamed(step, error)
    if n == 4:
        step.assert_exact(survivors=others(step))
    else:
        step.assert_burnt(LIAR, step.faults[LIAR].message, "3 must be")


@pytest.mark.parametrize("kind", [KeyAdvert, Offer, Chunk, Lock, Reveal])
def test_silence_from_some_message_on(make_step, kind):
    """It never answers: the deadline passes, and the others go on or burn the step naming it."""
    step = finish(lying(make_step(4), kind, lambda message: None).start())
    assert not step.faults
    assert step.coordinator.stages[LIAR] is Stage.LOST
    step.assert_exact(survivors=step.names if kind in (Lock, Reveal) else others(step))
    step = finish(lying(make_step(3), kind, lambda message: None).start())
    step.assert_burnt(f"{LIAR}: it did not finish phase")


def test_a_bad_piece_in_the_middle_of_a_long_upload(make_step, replace, monkeypatch):
    monkeypatch.setattr(messages, "CHUNK_BYTES", 40)
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 40)
    for change in (
        lambda m: replace(m, payload=bytes(40)) if m.index == 1 else m,
        lambda m: replace(m, index=2) if m.index == 1 else m,
        lambda m: replace(m, payload=m.payload[:36]) if m.index == 1 else m,
        lambda m: None if m.index == 1 else m,
        lambda m: replace(m, index=0) if m.index == 1 else m,
    ):
        step = finish(lying(make_step(4, length=33), Chunk, change).start())
        assert set(step.faults) == {LIAR}
        step.assert_exact(survivors=others(step))


def test_chunks_before_there_is_room_are_illegal_and_change_nothing(make_step):
    step = make_step(4, open_uploads_bytes=1).start()
    step.run(until=lambda: Stage.OFFERED in step.coordinator.stages.values())
    waiting = next(name for name, stage in step.coordinator.stages.items() if stage is Stage.OFFERED)
    step.give_coordinator(waiting, Chunk(step.descriptor.ctx(), 0, bytes(20)).encode())
    step.run().assert_exact(survivors=step.names)


# Lies at lock and reveal: its vector is in the sum; shares replace what it hides, as long as enough sites are left.

LOCK_LIES = {
    "garbage": (lambda m, replace: b"\xde\xad" * 40, MalformedMessage),
    "forged": (lambda m, replace: replace(m, signature=bytes(64)), BadSignature),
    "another set": (lambda m, replace: replace(m, digest=bytes(32)), ConflictingLock),
}

REVEAL_LIES = {
    "garbage": (lambda m, replace: b"\xde\xad" * 40, MalformedMessage),
    "for another lock": (lambda m, replace: replace(m, digest=bytes(32)), ConflictingLock),
    "wrong self seed": (lambda m, replace: replace(m, self_seed=bytes(32)), BadShare),
    "wrong pair seed": (lambda m, replace: replace(m, pair_seeds=(("epsilon", bytes(32)),)), BadShare),
    "no pair seed": (lambda m, replace: replace(m, pair_seeds=()), BadShare),
    "a pair seed too many": (lambda m, replace: replace(m, pair_seeds=(("alpha", bytes(32)), *m.pair_seeds)), BadShare),
    "wrong share": (lambda m, replace: with_entry(m, replace, 0, bytes(33)), BadShare),
    "a share as a hash": (lambda m, replace: with_entry(m, replace, 0, share_hash(m.rows[0].entries[0])), BadShare),
    "a share that must stay closed": (lambda m, replace: with_entry(m, replace, 1, bytes(33)), BadShare),
    "wrong hash": (lambda m, replace: with_entry(m, replace, 1, bytes(32)), BadShare),
    "a row cut short": (
        lambda m, replace: replace(m, rows=(replace(m.rows[0], entries=m.rows[0].entries[:-1]), *m.rows[1:])),
        BadShare,
    ),
    "shares of itself": (lambda m, replace: replace(m, rows=(replace(m.rows[0], dealer=LIAR),)), BadShare),
    "shares of a dropped site": (
        lambda m, replace: replace(m, rows=(replace(m.rows[0], dealer="epsilon"),)),
        BadShare,
    ),
}


def with_entry(reveal, replace, index, entry):
    row = reveal.rows[0]
    entries = (*row.entries[:index], entry, *row.entries[index + 1 :])
    return replace(reveal, rows=(replace(row, entries=entries), *reveal.rows[1:]))


@pytest.mark.parametrize("lie", LOCK_LIES)
def test_a_lie_at_the_lock(make_step, replace, lie):
    change, error = LOCK_LIES[lie]
    step = finish(lying(make_step(4), Lock, lambda message: change(message, replace)).start())
    assert_only_the_liar_is_blamed(step, error)
    step.assert_exact(survivors=step.names)


@pytest.mark.parametrize("lie", REVEAL_LIES)
def test_a_lie_at_the_reveal(make_step, replace, lie):
    """n = 7, t = 5, epsilon dropped before upload: its pair seeds and beta's seeds come from others' shares."""
    change, error = REVEAL_LIES[lie]
    step = lying(make_step(7), Reveal, lambda message: change(message, replace)).start()
    step.run(until=lambda: step.coordinator.phase == "upload")
    step.lose("epsilon")
    finish(step)
    assert_only_the_liar_is_blamed(step, error)
    step.assert_exact(survivors=[name for name in step.names if name != "epsilon"])


def test_a_lie_at_the_reveal_when_everyone_is_needed(make_step, replace):
    step = lying(make_step(3), Reveal, lambda message: replace(message, self_seed=bytes(32)))
    finish(step.start()).assert_burnt("beta: the self seed of beta is not the one it committed to")


# Lies in what a site leaves with its peers.


def with_wrong_self_commitment(step, offer, replace):
    return signed(step, replace(offer, self_commitment=bytes(32)), UPLOAD_CONTEXT)


def test_a_wrong_commitment_to_its_own_seed(make_step, replace):
    """Found when it reveals, and again when its shares are put together: the step is burnt and names it."""
    step = make_step(4)
    finish(lying(step, Offer, lambda offer: with_wrong_self_commitment(step, offer, replace)).start())
    assert set(step.faults) == {LIAR}
    step.assert_burnt(LIAR, "is not the one it committed to")


def test_wrong_commitments_to_pair_seeds(make_step, replace):
    """Its peers committed to other seeds for the same pairs. It is in every such pair, so it is named alone."""
    step = make_step(4)

    def change(offer):
        parcels = tuple(replace(parcel, pair_commitment=bytes(32)) for parcel in offer.parcels)
        return signed(step, replace(offer, parcels=parcels), UPLOAD_CONTEXT)

    finish(lying(step, Offer, change).start())
    assert set(step.faults) == {LIAR}
    assert isinstance(step.faults[LIAR], BadShare)
    step.assert_burnt("beta is in every such pair")


def test_one_wrong_commitment_names_the_pair(make_step, replace):
    step = make_step(4)

    def change(offer):
        parcels = (replace(offer.parcels[0], pair_commitment=bytes(32)), *offer.parcels[1:])
        return signed(step, replace(offer, parcels=parcels), UPLOAD_CONTEXT)

    finish(lying(step, Offer, change).start())
    assert not step.faults
    step.assert_burnt("committed to different masks", "alpha and beta")


def dealing_badly(step, replace, *, secret):
    """An offer whose boxes do not open, or hold shares of other secrets, with digests that match only if consistent."""

    def change(offer):
        session = step.sites[LIAR]._session
        roots = step.sites[LIAR]._secrets.roots
        peers = session.peers_of(LIAR)
        points = [session.point(peer) for peer in peers]
        parcels = []
        for i, parcel in enumerate(offer.parcels):
            if secret == "unopenable":
                parcels.append(replace(parcel, box=parcel.box[:-1] + bytes([parcel.box[-1] ^ 1])))
                continue
            count = len(session.joined)
            content = b"\7" * 32
            row = [split(content, session.threshold, points, bytes)[i] for _ in range(count)]
            associated = messages.labelled_hash("box", session.ctx, session.hash, LIAR.encode(), parcel.peer.encode())
            key = roots[parcel.peer].seal_key(session.ctx, LIAR, parcel.peer)
            digest = row_digest(session, LIAR, parcel.peer, [share_hash(share) for share in row])
            box = seal(key, b"".join(row), associated)
            parcels.append(replace(parcel, row_digest=digest if secret == "consistent" else parcel.row_digest, box=box))
        return signed(step, replace(offer, parcels=tuple(parcels)), UPLOAD_CONTEXT)

    return lying(step, Offer, change)


def relock(step):
    """The liar's own machine must lock the upload it really sent: tell it the tampered offer's hash."""
    original = step.give_coordinator

    def give(name, frame):
        message = decode(frame)
        if name == LIAR and isinstance(message, Offer):
            step.sites[LIAR]._upload_hash = message.upload_hash()
        original(name, frame)

    step.give_coordinator = give
    return step


@pytest.mark.parametrize("secret", ["unopenable", "other than committed", "consistent"])
def test_bad_shares_do_not_matter_while_their_dealer_answers(make_step, replace, secret):
    step = relock(dealing_badly(make_step(4), replace, secret=secret))
    finish(step.start()).assert_exact(survivors=step.names)


@pytest.mark.parametrize("secret", ["unopenable", "other than committed"])
def test_bad_shares_of_a_vanished_dealer_burn_the_step_naming_it_and_who_complained(make_step, replace, secret):
    step = relock(dealing_badly(make_step(4), replace, secret=secret)).start()
    step.run(until=lambda: step.coordinator.phase == "reveal")
    step.lose(LIAR)
    finish(step).assert_burnt("beta vanished after its upload", "alpha could not use the shares of beta")
    assert not step.faults


def test_consistent_shares_of_other_secrets_of_a_vanished_dealer_are_its_fault(make_step, replace):
    step = relock(dealing_badly(make_step(4), replace, secret="consistent")).start()
    step.run(until=lambda: step.coordinator.phase == "reveal")
    step.lose(LIAR)
    finish(step)
    assert set(step.faults) == {LIAR}
    step.assert_burnt("the self seed of beta is not the one it committed to")


def test_a_revealer_of_bad_shares_is_told_apart_from_the_dealer(make_step, replace):
    """Alpha vanishes after its upload; beta gives a wrong share of alpha's seed. Beta is out, the sum is right."""
    step = lying(make_step(7), Reveal, lambda message: with_entry(message, replace, 0, bytes(33))).start()
    step.run(until=lambda: step.coordinator.phase == "lock" and not step.up["alpha"])
    step.run(until=lambda: step.coordinator.stages["alpha"] is Stage.LOCKED)
    step.lose("alpha")
    finish(step)
    assert_only_the_liar_is_blamed(step, BadShare)
    assert "revealed other shares of alpha" in step.faults[LIAR].message
    step.assert_exact(survivors=step.names)


def test_values_beyond_the_bound_do_not_pass_as_a_sum(make_step):
    """A vector outside the agreed range, or masks that do not cancel, is not released."""
    step = make_step(4, value_bound=1.0, length=20)
    step.vectors[LIAR] = np.full(20, 2**30, dtype=np.uint32)
    finish(step.start()).assert_burnt("the masks did not cancel, or a site sent values beyond the bound")


def test_commitments_are_those_of_the_seeds(make_step):
    step = make_step(3, auto_upload=False).start().run()
    step.upload(LIAR)
    offer = decode(step.up[LIAR][0])
    site = step.sites[LIAR]
    session, secrets = site._session, site._secrets
    assert offer.self_commitment == commit_self(session.ctx, session.hash, LIAR, secrets.self_seed)
    for parcel in offer.parcels:
        seed = secrets.pair_seeds[parcel.peer]
        assert parcel.pair_commitment == commit_pair(session.ctx, session.hash, LIAR, parcel.peer, seed)


def test_messages_of_a_site_that_is_out_are_illegal(make_step, replace):
    step = lying(make_step(4), KeyAdvert, lambda message: replace(message, signature=bytes(64))).start().run()
    step.tamper_up = None
    for message in (
        KeyAdvert(bytes(32), bytes(8), 1, LIAR, EphemeralKey(b"1" * 32).public_bytes, bytes(64)),
        Announce(bytes(32), b"", ()),
    ):
        step.give_coordinator(LIAR, message.encode())
    step.assert_exact(survivors=others(step))
