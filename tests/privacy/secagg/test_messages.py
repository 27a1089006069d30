"""Every wire message: golden bytes, a round trip, and decoders that are total and canonical."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg import messages
from privacy.secagg.messages import (
    MAX_FRAME_BYTES,
    REASON_MAX_BYTES,
    Announce,
    Chunk,
    DeliveredParcel,
    Encapsulated,
    Encapsulation,
    Established,
    Grant,
    KeyAdvert,
    Keys,
    Lock,
    LockRequest,
    Offer,
    OfferedParcel,
    Outcome,
    Reveal,
    RevealedRow,
    RevealRequest,
    Shares,
    SharesRequest,
    TotalChunk,
    chunks_of,
    decode,
    lock_digest,
    vector_hasher,
)
from privacy.secagg.threshold import MAX_COHORT
from tacit.errors import MalformedMessage

CTX = b"\xcc" * 32
ALPHA, BETA = "05616c706861", "0462657461"  # length, then ASCII


def h(byte: str, size: int = 32) -> str:
    """``size`` times one byte, as hex."""
    return byte * size


GOLDEN = {
    "key advert": (
        KeyAdvert(CTX, "alpha", b"\x11" * 32, b"\x22" * 1184, b"\x33" * 64),
        "0301" + h("cc") + ALPHA + h("11") + h("22", 1184) + h("33", 64),
    ),
    "encapsulation": (
        Encapsulation(CTX, b"\x11" * 32, "alpha", "beta", b"\x22" * 1088, b"\x33" * 64),
        "0306" + h("cc") + h("11") + ALPHA + BETA + h("22", 1088) + h("33", 64),
    ),
    "encapsulated": (
        Encapsulated(CTX, (b"one", b"")),
        "0308" + h("cc") + "02" + "00000003" + "6f6e65" + "00000000",
    ),
    "keys": (
        Keys(CTX, b"{}", (b"one", b"two")),
        "0310" + h("cc") + "00000002" + "7b7d" + "02" + "00000003" + "6f6e65" + "00000003" + "74776f",
    ),
    "established": (
        Established(CTX, ("alpha", "beta"), (b"one",)),
        "0314" + h("cc") + "02" + ALPHA + BETA + "01" + "00000003" + "6f6e65",
    ),
    "offer": (
        Offer(
            CTX,
            b"\x11" * 32,
            "alpha",
            80_000,
            b"\x22" * 32,
            b"\x33" * 32,
            (OfferedParcel("beta", b"\x44" * 32, b"\x55" * 32, b"box"),),
            b"\x66" * 64,
        ),
        "0302" + h("cc") + h("11") + ALPHA + "00013880" + h("22") + h("33")
        + "01" + BETA + h("44") + h("55") + "00000003" + "626f78" + h("66", 64),
    ),
    "chunk": (Chunk(CTX, 2, b"\1\2\3\4"), "0303" + h("cc") + "00000002" + "00000004" + "01020304"),
    "lock": (
        Lock(CTX, b"\x11" * 32, ("beta",), b"\x22" * 64),
        "0304" + h("cc") + h("11") + "01" + BETA + h("22", 64),
    ),
    "reveal": (
        Reveal(CTX, b"\x11" * 32, b"\x22" * 32, (("beta", b"\x33" * 32),), (b"\x44" * 32, b"\x55" * 32)),
        "0305" + h("cc") + h("11") + h("22") + "01" + BETA + h("33") + "02" + h("44") + h("55"),
    ),
    "shares": (
        Shares(CTX, b"\x11" * 32, (RevealedRow("alpha", (b"\x44" * 33, b"\x55" * 32)),)),
        "0307" + h("cc") + h("11") + "01" + ALPHA + "02" + "01" + h("44", 33) + "00" + h("55"),
    ),
    "announce": (
        Announce(CTX, b"{}", ("alpha", "beta")),
        "0315" + h("cc") + "00000002" + "7b7d" + "02" + ALPHA + BETA,
    ),
    "grant": (Grant(CTX), "0311" + h("cc")),
    "lock request": (
        LockRequest(
            CTX,
            (("alpha", b"\x11" * 32), ("beta", b"\x22" * 32)),
            (DeliveredParcel("beta", b"\x33" * 32, b"box"),),
        ),
        "0312" + h("cc") + "02" + ALPHA + h("11") + BETA + h("22") + "01" + BETA + h("33") + "00000003" + "626f78",
    ),
    "reveal request": (
        RevealRequest(CTX, b"\x11" * 32, (("alpha", b"\x22" * 64),)),
        "0313" + h("cc") + h("11") + "01" + ALPHA + h("22", 64),
    ),
    "shares request": (SharesRequest(CTX, b"\x11" * 32, ("beta",)), "0316" + h("cc") + h("11") + "01" + BETA),
    "outcome": (Outcome(CTX, ("alpha", "beta"), ""), "0317" + h("cc") + "02" + ALPHA + BETA + "00000000"),
    "outcome of a burnt step": (Outcome(CTX, (), "why"), "0317" + h("cc") + "00" + "00000003" + "776879"),
    "total chunk": (TotalChunk(CTX, 2, b"\1\2\3\4"), "0318" + h("cc") + "00000002" + "00000004" + "01020304"),
}  # fmt: skip


def test_every_message_has_golden_bytes():
    assert {type(message) for message, _ in GOLDEN.values()} == set(messages._MESSAGES.values())


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_bytes(kind):
    message, expected = GOLDEN[kind]
    assert message.encode().hex() == expected
    assert decode(bytes.fromhex(expected)) == message


@pytest.mark.parametrize("kind", GOLDEN)
def test_every_truncation_and_extension_is_malformed(kind):
    frame = GOLDEN[kind][0].encode()
    for size in range(len(frame)):
        with pytest.raises(MalformedMessage):
            decode(frame[:size])
    with pytest.raises(MalformedMessage, match="follow the end"):
        decode(frame + b"\0")


def decode_or_refuse(data: bytes) -> None:
    """What decodes writes back to the same bytes; anything else is a MalformedMessage."""
    try:
        message = decode(data)
    except MalformedMessage:
        return
    assert message.encode() == data


@given(st.binary(max_size=300))
def test_decoding_is_total_on_any_bytes(data):
    decode_or_refuse(data)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(messages._MESSAGES)),
    st.binary(max_size=400) | st.binary(max_size=99).map(lambda b: bytes(1400) + b),
)
def test_decoding_is_total_behind_a_good_header(kind, body):
    decode_or_refuse(bytes([messages.VERSION, kind]) + CTX + body)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(GOLDEN)),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_decoding_is_total_and_canonical_on_damaged_messages(kind, damage):
    frame = bytearray(GOLDEN[kind][0].encode())
    for at, byte in damage:
        frame[at % len(frame)] = byte
    decode_or_refuse(bytes(frame))


names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
hashes, signatures, boxes = (st.binary(min_size=n, max_size=m) for n, m in ((32, 32), (64, 64), (0, 80)))


def keyed(*parts):
    """A sorted tuple of tuples that begin with distinct names."""
    return st.dictionaries(names, st.tuples(*parts), max_size=5).map(
        lambda entries: tuple((name, *entries[name]) for name in sorted(entries))
    )


entries = st.lists(hashes | st.binary(min_size=33, max_size=33), max_size=5).map(tuple)
number = st.integers(0, 2**32 - 1)
sorted_names = keyed().map(lambda rows: tuple(row[0] for row in rows))
blobs = st.lists(boxes, max_size=5).map(tuple)
# the fuzzer's bytes would be used up by keys of this size
kem_keys = st.binary(min_size=1, max_size=1).map(lambda byte: byte * 1184)
ciphertexts = st.binary(min_size=1, max_size=1).map(lambda byte: byte * 1088)
any_message = st.one_of(
    st.builds(KeyAdvert, hashes, names, hashes, kem_keys, signatures),
    st.builds(Encapsulation, hashes, hashes, names, names, ciphertexts, signatures),
    st.builds(Encapsulated, hashes, blobs),
    st.builds(Keys, hashes, boxes, blobs),
    st.builds(Established, hashes, sorted_names, blobs),
    st.builds(
        Offer,
        hashes,
        hashes,
        names,
        number,
        hashes,
        hashes,
        keyed(hashes, hashes, boxes).map(lambda rows: tuple(OfferedParcel(*row) for row in rows)),
        signatures,
    ),
    st.builds(Chunk, hashes, number, boxes),
    st.builds(Lock, hashes, hashes, sorted_names, signatures),
    st.builds(Reveal, hashes, hashes, hashes, keyed(hashes), st.lists(hashes, max_size=5).map(tuple)),
    st.builds(Shares, hashes, hashes, keyed(entries).map(lambda rows: tuple(RevealedRow(*row) for row in rows))),
    st.builds(Announce, hashes, boxes, sorted_names),
    st.builds(Grant, hashes),
    st.builds(
        LockRequest,
        hashes,
        keyed(hashes),
        keyed(hashes, boxes).map(lambda rows: tuple(DeliveredParcel(*row) for row in rows)),
    ),
    st.builds(RevealRequest, hashes, hashes, keyed(signatures)),
    st.builds(SharesRequest, hashes, hashes, sorted_names),
    st.builds(Outcome, hashes, sorted_names.filter(len), st.just("")),
    st.builds(Outcome, hashes, st.just(()), st.text(min_size=1, max_size=99)),
    st.builds(TotalChunk, hashes, number, boxes),
)


@given(any_message)
def test_every_message_survives_a_round_trip(message):
    assert decode(message.encode()) == message


def reframe(kind, *parts):
    return bytes([3, kind]) + CTX + b"".join(bytes.fromhex(part) for part in parts)


OFFERED_BETA = BETA + h("44") + h("55") + "00000000"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"\1\1" + CTX, "protocol version 1"),
        (b"\2\1" + CTX, "protocol version 2"),
        (b"\3\x77" + CTX, "unknown type 119"),
        (reframe(4, h("11"), "02", BETA, ALPHA, h("22", 64)), "not sorted"),
        (reframe(4, h("11"), "02", BETA, BETA, h("22", 64)), "repeated"),
        (reframe(18, "02", ALPHA, h("11"), ALPHA, h("22"), "00"), "repeated"),
        (reframe(18, "00", "02", BETA, h("11"), "00000000", ALPHA, h("11"), "00000000"), "not sorted"),
        (reframe(19, h("11"), "02", BETA, h("22", 64), BETA, h("22", 64)), "repeated"),
        (reframe(20, "02", BETA, ALPHA, "00"), "not sorted"),
        (reframe(20, "02", BETA, BETA, "00"), "repeated"),
        (reframe(21, "00000000", "02", BETA, ALPHA), "not sorted"),
        (reframe(21, "00000000", "02", BETA, BETA), "repeated"),
        (reframe(22, h("11"), "02", BETA, ALPHA), "not sorted"),
        (reframe(22, h("11"), "02", BETA, BETA), "repeated"),
        (reframe(23, "02", BETA, ALPHA, "00000000"), "not sorted"),
        (reframe(23, "02", BETA, BETA, "00000000"), "repeated"),
        (reframe(23, "00", "00000000"), "survivors, or gives a reason"),
        (reframe(23, "01", BETA, "00000001", "61"), "not both"),
        (reframe(23, "00", f"{REASON_MAX_BYTES + 1:08x}", h("61", REASON_MAX_BYTES + 1)), "at most 4000 bytes"),
        (reframe(23, "00", "00000002", "c328"), "not UTF-8"),
        (reframe(5, h("11"), h("22"), "02", BETA, h("33"), ALPHA, h("33")), "not sorted"),
        (reframe(5, h("11"), h("22"), "02", BETA, h("33"), BETA, h("33")), "repeated"),
        (reframe(5, h("11"), h("22"), "00", "81"), "at most 128"),
        (reframe(7, h("11"), "02", BETA, "00", ALPHA, "00"), "not sorted"),
        (reframe(7, h("11"), "02", BETA, "00", BETA, "00"), "repeated"),
        (reframe(7, h("11"), "01", BETA, "01", "02", h("33")), "tagged 2"),
        (reframe(2, h("11"), ALPHA, "00000001", h("22"), h("33"), "02", OFFERED_BETA * 2, h("66", 64)), "repeated"),
        (reframe(4, h("11"), "81"), "at most 128"),
        (reframe(8, "81"), "at most 128"),
        (reframe(16, "00000000", "81"), "at most 128"),
        (reframe(20, "81"), "at most 128"),
        (reframe(4, h("11"), "01", "0441424344", h("22", 64)), "not a site name"),
        (reframe(4, h("11"), "01", "00", h("22", 64)), "not a site name"),
        (reframe(4, h("11"), "01", "022d61", h("22", 64)), "not a site name"),
        (reframe(4, h("11"), "01", "0261c3", h("22", 64)), "not a site name"),
        (reframe(3, "00000000", "ffffffff", "00"), "a field needs"),
        (b"\3\3" + CTX + bytes(MAX_FRAME_BYTES), "at most 1048640"),
    ],
)
def test_what_is_wrong_is_said(frame, words):
    with pytest.raises(MalformedMessage, match=words):
        decode(frame)


def test_signatures_cover_everything_before_them():
    for kind in ("key advert", "encapsulation", "offer"):
        message, expected = GOLDEN[kind]
        assert message.signed_part() == bytes.fromhex(expected)[:-64]


def test_messages_of_sites_have_types_below_16_and_those_of_coordinators_not():
    for kind, message in messages._MESSAGES.items():
        of_a_site = message in (KeyAdvert, Encapsulation, Encapsulated, Offer, Chunk, Lock, Reveal, Shares)
        assert (kind < 16) == of_a_site


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("key advert", "public_key", bytes(31)),
        ("key advert", "kem_public_key", bytes(1183)),
        ("encapsulation", "setup", bytes(31)),
        ("encapsulation", "ciphertext", bytes(1089)),
        ("reveal", "self_seed", bytes(33)),
        ("shares request", "digest", b""),
    ],
)
def test_a_field_of_another_size_is_not_written(replace, kind, field, value):
    with pytest.raises(ValueError, match="this format has"):
        replace(GOLDEN[kind][0], **{field: value}).encode()


def test_upload_hash_covers_every_field_of_the_offer(replace):
    offer = GOLDEN["offer"][0]
    parcel = offer.parcels[0]
    variants = [
        offer,
        replace(offer, ctx=b"\0" * 32),
        replace(offer, session=b"\0" * 32),
        replace(offer, name="beta"),
        replace(offer, length=1),
        replace(offer, vector_hash=b"\0" * 32),
        replace(offer, self_commitment=b"\0" * 32),
        replace(offer, parcels=(replace(parcel, peer="gamma"),)),
        replace(offer, parcels=(replace(parcel, pair_commitment=b"\0" * 32),)),
        replace(offer, parcels=(replace(parcel, row_digest=b"\0" * 32),)),
        replace(offer, parcels=(replace(parcel, box=b"xob"),)),
    ]
    assert len({variant.upload_hash() for variant in variants}) == len(variants)


def test_lock_digest_covers_step_setup_survivors_and_uploads():
    survivors = (("alpha", b"\1" * 32), ("beta", b"\2" * 32))
    digests = {
        lock_digest(CTX, b"\3" * 32, survivors),
        lock_digest(b"\0" * 32, b"\3" * 32, survivors),
        lock_digest(CTX, b"\0" * 32, survivors),
        lock_digest(CTX, b"\3" * 32, survivors[:1]),
        lock_digest(CTX, b"\3" * 32, (("alpha", b"\1" * 32), ("beta", b"\0" * 32))),
        lock_digest(CTX, b"\3" * 32, (("alpha", b"\1" * 32), ("gamma", b"\2" * 32))),
    }
    assert len(digests) == 6


@pytest.mark.parametrize("kind", [Chunk, TotalChunk])
def test_chunks_carry_the_vector_in_order_and_stay_below_a_mebibyte_of_payload(monkeypatch, kind):
    vector = bytes(range(256)) * 5
    monkeypatch.setattr(messages, "CHUNK_BYTES", 1000)
    chunks = [decode(frame) for frame in chunks_of(kind, CTX, memoryview(vector))]
    assert {type(chunk) for chunk in chunks} == {kind}
    assert [chunk.index for chunk in chunks] == [0, 1]
    assert b"".join(chunk.payload for chunk in chunks) == vector
    assert len(chunks[0].payload) == 1000


def test_a_vectors_hash_covers_its_step_and_does_not_know_its_chunks():
    whole, pieces, other = vector_hasher(CTX), vector_hasher(CTX), vector_hasher(bytes(32))
    whole.update(b"vector")
    other.update(b"vector")
    for piece in (b"vec", b"tor"):
        pieces.update(piece)
    assert whole.digest() == pieces.digest() == hashlib.sha256(b"tacit/secagg/vector/v2\0" + CTX + b"vector").digest()
    assert whole.digest() != other.digest()


def test_the_largest_cohort_fits_into_frames():
    """With 128 sites the messages that grow with the cohort, or with its square, stay below the limit."""
    everyone = tuple(f"{i:03d}" + "x" * 60 for i in range(MAX_COHORT))
    box = bytes(MAX_COHORT * 33 + 16)
    advert = KeyAdvert(CTX, everyone[0], CTX, bytes(1184), bytes(64)).encode()
    ciphertext = Encapsulation(CTX, CTX, everyone[0], everyone[1], bytes(1088), bytes(64)).encode()
    offer = Offer(
        CTX, CTX, everyone[0], 1, CTX, CTX, tuple(OfferedParcel(n, CTX, CTX, box) for n in everyone[1:]), bytes(64)
    )
    request = LockRequest(
        CTX, tuple((n, CTX) for n in everyone), tuple(DeliveredParcel(n, CTX, box) for n in everyone[1:])
    )
    row = (bytes(33),) * MAX_COHORT
    for message in (
        Keys(CTX, bytes(65_536), (advert,) * MAX_COHORT),
        Encapsulated(CTX, (ciphertext,) * (MAX_COHORT - 1)),
        Established(CTX, everyone, (ciphertext,) * (MAX_COHORT - 1)),
        Announce(CTX, bytes(65_536), everyone),
        offer,
        request,
        Shares(CTX, CTX, tuple(RevealedRow(n, row) for n in everyone[1:])),
    ):
        frame = message.encode()
        assert len(frame) < MAX_FRAME_BYTES
        assert decode(frame) == message
    for kind in (Chunk, TotalChunk):
        assert len(kind(CTX, 0, bytes(messages.CHUNK_BYTES)).encode()) <= MAX_FRAME_BYTES
