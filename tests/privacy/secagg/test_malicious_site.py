"""A site that lies before its vector is in the sum: it is out, and named; the sum of the others is right, or the step
is burnt."""

import pytest

from privacy.secagg import Stage
from privacy.secagg.keys import ADVERT_CONTEXT, ENCAPSULATION_CONTEXT, UPLOAD_CONTEXT, HybridKey
from privacy.secagg.messages import (
    Announce,
    Chunk,
    Encapsulated,
    Grant,
    KeyAdvert,
    Lock,
    Offer,
    Reveal,
    Shares,
    decode,
)
from tacit.errors import BadSignature, DescriptorMismatch, MalformedMessage

LIAR = "beta"


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
        lambda step, m, replace: signed(
            step, replace(m, ctx=replace(step.descriptor, epoch=2).epoch_ctx()), ADVERT_CONTEXT
        ),
        DescriptorMismatch,
    ),
    "key signed in another context": (lambda step, m, replace: signed(step, m, UPLOAD_CONTEXT), BadSignature),
    "key of small order": (
        lambda step, m, replace: signed(step, replace(m, public_key=bytes(32)), ADVERT_CONTEXT),
        MalformedMessage,
    ),
    "no KEM key": (
        lambda step, m, replace: signed(step, replace(m, kem_public_key=b"\xff" * 1184), ADVERT_CONTEXT),
        MalformedMessage,
    ),
    "oversized": (lambda step, m, replace: m.encode() + b"\0", MalformedMessage),
    "truncated": (lambda step, m, replace: m.encode()[:-1], MalformedMessage),
}


def with_frame(step, message, replace, frame=None, context=ENCAPSULATION_CONTEXT, **changes):
    """The liar's ciphertexts with the first one changed, and signed again unless ``frame`` is given."""
    first = signed(step, replace(decode(message.frames[0]), **changes), context) if frame is None else frame
    return replace(message, frames=(first, *message.frames[1:]))


CIPHERTEXT_LIES = {
    "garbage": (lambda step, m, replace: b"\xde\xad" * 40, MalformedMessage),
    "none": (lambda step, m, replace: replace(m, frames=()), MalformedMessage),
    "one missing": (lambda step, m, replace: replace(m, frames=m.frames[1:]), MalformedMessage),
    "one too many": (lambda step, m, replace: replace(m, frames=(*m.frames, m.frames[0])), MalformedMessage),
    "garbage inside": (lambda step, m, replace: with_frame(step, m, replace, b"\xde\xad"), MalformedMessage),
    "another message inside": (
        lambda step, m, replace: with_frame(step, m, replace, Grant(m.ctx).encode()),
        MalformedMessage,
    ),
    "of another size": (lambda step, m, replace: with_frame(step, m, replace, m.frames[0][:-1]), MalformedMessage),
    "unsigned": (
        lambda step, m, replace: with_frame(step, m, replace, m.frames[0][:-64] + bytes(64)),
        BadSignature,
    ),
    "signed in another context": (
        lambda step, m, replace: with_frame(step, m, replace, context=ADVERT_CONTEXT),
        BadSignature,
    ),
    "in another's name": (lambda step, m, replace: with_frame(step, m, replace, sender="alpha"), BadSignature),
    "for a site before it": (
        lambda step, m, replace: with_frame(step, m, replace, recipient="alpha"),
        DescriptorMismatch,
    ),
    "for a stranger": (lambda step, m, replace: with_frame(step, m, replace, recipient="zeta"), DescriptorMismatch),
    "under other keys": (lambda step, m, replace: with_frame(step, m, replace, setup=bytes(32)), DescriptorMismatch),
    "of another epoch": (lambda step, m, replace: with_frame(step, m, replace, ctx=bytes(32)), DescriptorMismatch),
    "in another epoch's message": (lambda step, m, replace: replace(m, ctx=bytes(32)), DescriptorMismatch),
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
    "signed in another context": (lambda step, m, replace: signed(step, m, ADVERT_CONTEXT), BadSignature),
    "shorter vector": (lambda step, m, replace: signed(step, replace(m, length=4), UPLOAD_CONTEXT), MalformedMessage),
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
    *((Encapsulated, lie, CIPHERTEXT_LIES) for lie in CIPHERTEXT_LIES),
    *((Offer, lie, OFFER_LIES) for lie in OFFER_LIES),
    *((Chunk, lie, CHUNK_LIES) for lie in CHUNK_LIES),
]


@pytest.mark.parametrize(("kind", "lie", "lies"), EARLY, ids=[f"{k.__name__}: {lie}" for k, lie, _ in EARLY])
@pytest.mark.parametrize("n", [3, 4])
def test_an_early_lie_puts_the_liar_out(make_step, replace, kind, lie, lies, n):
    change, error = lies[lie]
    step = make_step(n)
    step.lie(LIAR, kind, lambda message: change(step, message, replace)).start().finish()
    assert_only_the_liar_is_blamed(step, error)
    if n == 4:
        step.assert_exact(survivors=others(step))
    else:
        step.assert_burnt(LIAR, step.faults[LIAR].message, "3 must be")


def test_ciphertexts_that_would_be_each_others_are_refused(make_step, replace):
    """Four sites: beta's two ciphertexts, each good, in the other's place."""
    step = make_step(4)
    step.lie(LIAR, Encapsulated, lambda m: replace(m, frames=m.frames[::-1])).start().finish()
    assert_only_the_liar_is_blamed(step, DescriptorMismatch)
    step.assert_exact(survivors=others(step))


def test_a_wrong_ciphertext_that_is_well_signed_costs_the_step_and_names_the_liar(make_step, replace):
    """A ciphertext that opens to another secret than the liar's own: its peers commit to other seeds than it does, and
    it is the one site in every pair that disagrees."""
    step = make_step(4)

    def change(message):
        frames = (
            signed(step, replace(decode(f), ciphertext=bytes(1088)), ENCAPSULATION_CONTEXT) for f in message.frames
        )
        return replace(message, frames=tuple(frames))

    step.lie(LIAR, Encapsulated, change).start().finish()
    assert set(step.faults) == {LIAR}
    step.assert_burnt("committed to different masks", "beta is in every such pair")


SILENCE = {
    KeyAdvert: (Stage.LOST, False),
    Encapsulated: (Stage.LOST, False),
    Offer: (Stage.LATE, False),
    Chunk: (Stage.LATE, False),
    Lock: (Stage.LATE, True),
    Reveal: (Stage.LATE, True),
}


@pytest.mark.parametrize("kind", SILENCE)
def test_silence_from_some_message_on(make_step, kind):
    """It never answers: the deadline passes, and the others go on or burn the step naming it."""
    stage, is_in_sum = SILENCE[kind]
    step = make_step(4).lie(LIAR, kind, lambda message: None).start().finish()
    assert not step.faults
    assert step.coordinator.stages[LIAR] is stage
    step.assert_exact(survivors=step.names if is_in_sum else others(step))
    step = make_step(3).lie(LIAR, kind, lambda message: None).start().finish()
    assert not step.faults
    step.assert_burnt(f"{LIAR}: it did not finish phase")


@pytest.mark.parametrize("n", [4, 7])
def test_silence_when_it_is_asked_for_shares(make_step, n):
    """Delta vanishes after its lock, and beta does not send its shares: with seven sites nobody misses them."""
    step = make_step(n).lie(LIAR, Shares, lambda message: None).start()
    step.run(until=lambda: step.coordinator.stages["delta"] is Stage.LOCKED)
    step.lose("delta")
    step.run()
    assert not step.faults
    if n == 7:
        step.assert_exact(survivors=step.names)
    else:
        assert step.result is None
        step.finish().assert_burnt("beta: it did not finish phase shares in time", "delta: its connection broke")


def test_everyone_falls_silent(make_step):
    for kind in SILENCE:
        step = make_step(4).start()
        step.tamper_up = lambda name, frame, kind=kind: None if isinstance(decode(frame), kind) else frame
        step.finish().assert_burnt("was burnt in phase", *(f"{name}: it did not finish" for name in step.names))


def test_a_bad_piece_in_the_middle_of_a_long_upload(make_step, replace, small_chunks):
    small_chunks(48)
    for change in (
        lambda m: replace(m, payload=bytes(48)) if m.index == 1 else m,
        lambda m: replace(m, index=2) if m.index == 1 else m,
        lambda m: replace(m, payload=m.payload[:44]) if m.index == 1 else m,
        lambda m: None if m.index == 1 else m,
        lambda m: replace(m, index=0) if m.index == 1 else m,
    ):
        step = make_step(4, length=33).lie(LIAR, Chunk, change).start().finish()
        assert set(step.faults) == {LIAR}
        step.assert_exact(survivors=others(step))


def test_chunks_before_there_is_room_are_illegal_and_change_nothing(make_step):
    step = make_step(4, open_uploads_bytes=1).start()
    step.run(until=lambda: Stage.OFFERED in step.coordinator.stages.values())
    waiting = next(name for name, stage in step.coordinator.stages.items() if stage is Stage.OFFERED)
    step.give_coordinator(waiting, Chunk(step.descriptor.ctx(), 0, bytes(20)).encode())
    step.run().assert_exact(survivors=step.names)


def test_a_liar_that_has_the_turn_gives_it_to_the_next(make_step):
    """With room for one vector, whoever it is and without any deadline."""
    for liar in ("alpha", "beta", "delta", "epsilon"):
        for kind in (Offer, Chunk):
            step = make_step(4, open_uploads_bytes=1).lie(liar, kind, lambda message: b"garbage").start().run()
            assert set(step.faults) == {liar}
            step.assert_exact(survivors=[name for name in step.names if name != liar])


def test_an_upload_with_too_many_pieces_is_in_the_sum_once(make_step):
    """The vector is whole: what is sent on top is illegal and changes nothing."""
    step = make_step(4).start()
    step.run(until=lambda: step.coordinator.stages[LIAR] is Stage.UPLOADED)
    for index in (0, 1):
        step.give_coordinator(LIAR, Chunk(step.descriptor.ctx(), index, bytes(20)).encode())
    step.run().assert_exact(survivors=step.names)
    assert not step.faults


def test_messages_of_a_site_that_is_out_are_illegal(make_step, replace):
    step = make_step(4).lie(LIAR, KeyAdvert, lambda message: replace(message, signature=bytes(64))).start().run()
    step.tamper_up = None
    key = HybridKey(b"1" * 96)
    for message in (
        KeyAdvert(bytes(32), LIAR, key.public_bytes, key.kem_public_bytes, bytes(64)),
        Announce(bytes(32), b"", ()),
    ):
        step.give_coordinator(LIAR, message.encode())
    step.assert_exact(survivors=others(step))


def test_a_repeated_key_or_ciphertext_changes_nothing(make_step):
    """A second key after the first, and a second set of ciphertexts: passed over, whatever is in them."""
    step = make_step(4).start()
    step.run()
    again = [
        frame for name, frame in step.received if name == LIAR and isinstance(decode(frame), KeyAdvert | Encapsulated)
    ]
    assert len(again) == 2
    step = make_step(4).start()
    for kind, frame in zip(("keys", "upload"), again, strict=True):
        step.run(until=lambda kind=kind: step.coordinator.phase == kind)
        step.give_coordinator(LIAR, frame)
    step.run().assert_exact(survivors=step.names)
    assert not step.faults
