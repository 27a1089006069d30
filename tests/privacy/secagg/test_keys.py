"""Key agreement against published vectors, HKDF against a naive one, and every hash and commitment."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg.keys import (
    CIPHERTEXT_BYTES,
    KEM_PUBLIC_BYTES,
    HybridKey,
    commit_pair,
    commit_self,
    encapsulate,
    hkdf_expand,
    hkdf_extract,
    labelled_hash,
    pair_transcript,
    seal,
    session_hash,
    setup_hash,
    unseal,
    verify,
)
from tacit.errors import BadShare, BadSignature, MalformedMessage

CTX, OTHER_CTX = b"\1" * 32, b"\2" * 32


def naive_hkdf(salt, key, info, size):
    """RFC 5869, sections 2.2 and 2.3, from HMAC alone."""
    pseudorandom = hmac.new(salt, key, hashlib.sha256).digest()
    block, output, counter = b"", b"", 1
    while len(output) < size:
        block = hmac.new(pseudorandom, block + info + bytes([counter]), hashlib.sha256).digest()
        output, counter = output + block, counter + 1
    return output[:size]


RFC_5869 = [  # appendix A.1 and A.2: key, salt, info, PRK, OKM
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
]


@pytest.mark.parametrize(("key", "salt", "info", "prk", "okm"), RFC_5869)
def test_hkdf_of_rfc_5869(key, salt, info, prk, okm):
    extracted = hkdf_extract(bytes.fromhex(salt), bytes.fromhex(key))
    assert extracted.hex() == prk
    assert naive_hkdf(bytes.fromhex(salt), bytes.fromhex(key), bytes.fromhex(info), len(okm) // 2).hex() == okm
    # one block is all that is ever asked for
    assert hkdf_expand(extracted, bytes.fromhex(info)).hex() == okm[:64]


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_hkdf_is_the_naive_one(salt, key, info):
    assert hkdf_expand(hkdf_extract(salt, key), info) == naive_hkdf(salt, key, info, 32)


def test_x25519_of_rfc_7748_section_6_1():
    alice = HybridKey(bytes.fromhex(ALICE) + bytes(64))
    bob = HybridKey(bytes.fromhex(BOB) + bytes(64))
    assert alice.public_bytes.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public_bytes.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.agree(bob.public_bytes).hex() == bob.agree(alice.public_bytes).hex() == shared


ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\1" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_points_of_small_order_are_refused(point):
    """The small-order points of curve25519 (https://cr.yp.to/ecdh.html, "validate")."""
    with pytest.raises(MalformedMessage, match="all-zero"):
        HybridKey(bytes(range(96))).agree(point)


def test_a_wrong_ciphertext_gives_an_unrelated_secret():
    """Implicit rejection (FIPS 203, algorithm 18): J(z || c), SHAKE256 to 32 bytes."""
    seed = bytes(range(96))
    key = HybridKey(seed)
    secret, ciphertext = encapsulate(key.kem_public_bytes)
    wrong = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert key.decapsulate(wrong) == hashlib.shake_256(seed[64:] + wrong).digest(32) != secret


@given(st.binary(min_size=96, max_size=96))
@settings(max_examples=20, deadline=None)
def test_what_is_encapsulated_is_decapsulated_by_its_owner_only(seed):
    key, other = HybridKey(seed), HybridKey(seed[:32] + bytes([seed[32] ^ 1]) + seed[33:])
    secret, ciphertext = encapsulate(key.kem_public_bytes)
    again, _ = encapsulate(key.kem_public_bytes)
    assert key.decapsulate(ciphertext) == secret != other.decapsulate(ciphertext)
    assert again != secret, "every encapsulation is fresh"
    assert (len(secret), len(ciphertext)) == (32, CIPHERTEXT_BYTES)


def test_what_is_no_kem_key_or_ciphertext_is_refused():
    """FIPS 203, section 7.2: coefficients must be below the modulus 3329."""
    key = HybridKey(bytes(96))
    for bad in (b"\xff" * KEM_PUBLIC_BYTES, key.kem_public_bytes[:-1], b""):
        with pytest.raises(MalformedMessage, match="not usable"):
            encapsulate(bad)
    for size in (0, CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES + 1):
        with pytest.raises(MalformedMessage, match="expected 1088"):
            key.decapsulate(bytes(size))


@pytest.mark.parametrize("size", [0, 32, 95, 97])
def test_a_hybrid_key_is_made_from_96_bytes(size):
    with pytest.raises(ValueError, match="expected 96"):
        HybridKey(bytes(size))


def test_each_key_pair_has_randomness_of_its_own():
    one, x, kem = HybridKey(bytes(96)), HybridKey(b"\xff" + bytes(95)), HybridKey(bytes(95) + b"\xff")
    assert one.public_bytes != x.public_bytes
    assert one.kem_public_bytes == x.kem_public_bytes
    assert one.public_bytes == kem.public_bytes
    last = HybridKey(bytes(32) + b"\1" + bytes(63))
    assert one.public_bytes == last.public_bytes
    assert one.kem_public_bytes != last.kem_public_bytes


# Transcripts, hashes and commitments.


def test_transcripts_cover_the_epoch_the_adverts_they_name_and_the_ciphertext():
    adverts = {"alpha": b"A", "beta": b"B", "gamma": b"C"}
    pair = pair_transcript(CTX, adverts, "alpha", "beta", b"E")
    assert pair == pair_transcript(CTX, adverts, "beta", "alpha", b"E")
    assert pair == pair_transcript(CTX, adverts | {"gamma": b"X"}, "alpha", "beta", b"E")
    assert pair != pair_transcript(OTHER_CTX, adverts, "alpha", "beta", b"E")
    assert pair != pair_transcript(CTX, adverts | {"alpha": b"X"}, "alpha", "beta", b"E")
    assert pair != pair_transcript(CTX, adverts | {"beta": b"X"}, "alpha", "beta", b"E")
    assert pair != pair_transcript(CTX, {"alpha": b"B", "beta": b"A"}, "alpha", "beta", b"E")
    assert pair != pair_transcript(CTX, adverts, "alpha", "beta", b"X")


def test_setup_and_session_cover_all_they_name():
    adverts = {"alpha": b"A", "beta": b"B", "gamma": b"C"}
    setup = setup_hash(CTX, adverts)
    assert setup == setup_hash(CTX, dict(reversed(adverts.items())))
    assert setup != setup_hash(OTHER_CTX, adverts)
    assert setup != setup_hash(CTX, adverts | {"gamma": b"X"})
    assert setup != setup_hash(CTX, {"alpha": b"A", "beta": b"B"})
    sessions = [
        session_hash(CTX, setup, ("alpha", "beta")),
        session_hash(OTHER_CTX, setup, ("alpha", "beta")),
        session_hash(CTX, b"x" * 32, ("alpha", "beta")),
        session_hash(CTX, setup, ("alpha", "beta", "gamma")),
        session_hash(CTX, setup, ("alpha", "gamma")),
        session_hash(CTX, setup, ("alphabeta",)),
    ]
    assert len(set(sessions)) == len(sessions)


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_labelled_hash_does_not_confuse_lists_of_parts(one, other):
    assert (labelled_hash("x", *one) == labelled_hash("x", *other)) == (one == other)
    assert labelled_hash("x", *one) != labelled_hash("y", *one)


def test_labelled_hash_golden():
    data = b"tacit/secagg/thing/v2\0" + b"\0\0\0\3abc" + b"\0\0\0\0"
    assert labelled_hash("thing", b"abc", b"") == hashlib.sha256(data).digest()


def test_commitments_bind_seed_owner_step_and_setup():
    commitments = [
        commit_self(CTX, b"h", "alpha", b"seed"),
        commit_self(OTHER_CTX, b"h", "alpha", b"seed"),
        commit_self(CTX, b"g", "alpha", b"seed"),
        commit_self(CTX, b"h", "beta", b"seed"),
        commit_self(CTX, b"h", "alpha", b"eeds"),
        commit_pair(CTX, b"h", "alpha", "beta", b"seed"),
        commit_pair(OTHER_CTX, b"h", "alpha", "beta", b"seed"),
        commit_pair(CTX, b"g", "alpha", "beta", b"seed"),
        commit_pair(CTX, b"h", "alpha", "gamma", b"seed"),
        commit_pair(CTX, b"h", "alpha", "beta", b"eeds"),
    ]
    assert len(set(commitments)) == len(commitments)
    assert commit_pair(CTX, b"h", "beta", "alpha", b"seed") == commit_pair(CTX, b"h", "alpha", "beta", b"seed")


# Boxes and signatures.


def test_a_box_opens_only_with_its_key_and_associated_data():
    box = seal(b"k" * 32, b"shares", b"who")
    assert unseal(b"k" * 32, box, b"who") == b"shares"
    flipped = bytes([box[0] ^ 1]) + box[1:]
    for key, data, associated in [
        (b"x" * 32, box, b"who"),
        (b"k" * 32, box, b"hwo"),
        (b"k" * 32, flipped, b"who"),
        (b"k" * 32, box[:-1], b"who"),
        (b"k" * 32, b"", b"who"),
    ]:
        with pytest.raises(BadShare, match="does not open"):
            unseal(key, data, associated)


def test_sealing_is_aes_256_gcm_with_a_zero_nonce():
    """Test case 14 of the GCM specification (McGrew and Viega 2005, appendix B)."""
    expected = "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    assert seal(bytes(32), bytes(16), b"").hex() == expected


def test_verify_names_the_peer(make_step):
    step = make_step(3)
    alpha = step.identities["alpha"]
    signature = alpha.sign("here", b"message")
    verify(step.roster, "alpha", "here", b"message", signature)
    for peer, context, message in [
        ("alpha", "there", b"message"),
        ("alpha", "here", b"massage"),
        ("beta", "here", b"message"),
        ("stranger", "here", b"message"),
    ]:
        with pytest.raises(BadSignature) as caught:
            verify(step.roster, peer, context, message, signature)
        assert caught.value.peer == peer
