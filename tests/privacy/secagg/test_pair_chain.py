"""What two sites share: a hybrid secret, ratcheted with erasure, against HMAC written out by hand."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.secagg.keys import HybridKey, PairChain, StepKey, encapsulate, labelled_hash
from privacy.secagg.messages import Established

CTX, OTHER_CTX = b"\1" * 32, b"\2" * 32
SESSION, OTHER_SESSION = b"\3" * 32, b"\4" * 32
SECRET, TRANSCRIPT = b"x" * 32 + b"k" * 32, b"t" * 32


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def naive_hash(label, *parts):
    return hashlib.sha256(
        b"tacit/secagg/%s/v2\0" % label + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    ).digest()


def naive_step_key(secret, transcript, first_step, step, ctx, session):
    """HKDF (RFC 5869) with one block of output everywhere: extract once, expand once for each ratchet and once more."""
    chain = mac(transcript, secret)
    for passed in range(first_step, step):
        chain = mac(chain, naive_hash(b"ratchet", transcript, passed.to_bytes(4, "big")) + b"\1")
    return mac(chain, naive_hash(b"step", ctx, session) + b"\1")


def chain(secret=SECRET, transcript=TRANSCRIPT, first_step=4):
    return PairChain(secret, transcript, first_step)


def key_bytes(step_key):
    return step_key._key


def state(one):
    return {name: getattr(one, name) for name in PairChain.__slots__}


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 2**32 - 30),
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
)
def test_steps_taken_and_skipped_are_the_naive_ones(secret, transcript, first_step, skips):
    mine, peers = chain(secret, transcript, first_step), chain(secret, transcript, first_step)
    step = first_step - 1
    for skip in skips:
        step += 1 + skip
        key = mine.step_key(step, CTX, SESSION)
        expected = naive_step_key(secret, transcript, first_step, step, CTX, SESSION)
        assert key_bytes(key) == expected
    # a peer that skipped all the others is in step
    assert key_bytes(peers.step_key(step, CTX, SESSION)) == expected


def test_seeds_and_seal_keys_are_the_naive_ones():
    key = StepKey(b"s" * 32)
    mask = mac(b"s" * 32, naive_hash(b"mask", b"alpha", b"beta") + b"\1")
    assert key.mask_seed("beta", "alpha") == key.mask_seed("alpha", "beta") == mask
    assert key.seal_key("beta", "alpha") == mac(b"s" * 32, naive_hash(b"seal", b"beta", b"alpha") + b"\1")


def test_every_input_changes_the_keys_and_labels_separate_them():
    def first(step=4, ctx=CTX, session=SESSION, **of):
        return chain(**of).step_key(step, ctx, session)

    keys = [
        first().mask_seed("alpha", "beta"),
        first(ctx=OTHER_CTX).mask_seed("alpha", "beta"),
        first(session=OTHER_SESSION).mask_seed("alpha", "beta"),
        first(step=5).mask_seed("alpha", "beta"),
        first(transcript=b"u" * 32).mask_seed("alpha", "beta"),
        first().mask_seed("alpha", "gamma"),
        first().seal_key("alpha", "beta"),
        first().seal_key("beta", "alpha"),
        first(ctx=OTHER_CTX).seal_key("alpha", "beta"),
        first(step=5).seal_key("alpha", "beta"),
        key_bytes(first()),
        state(chain())["_chain"],
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize("at", [0, 31, 32, 63], ids=["X25519", "X25519's last", "KEM", "KEM's last"])
def test_the_chain_changes_with_either_secret(at):
    """Hybrid: whoever knows one of the two secrets alone knows nothing of the chain."""
    other = bytearray(SECRET)
    other[at] ^= 1
    assert state(chain())["_chain"] != state(chain(bytes(other)))["_chain"]
    assert key_bytes(chain().step_key(4, CTX, SESSION)) != key_bytes(chain(bytes(other)).step_key(4, CTX, SESSION))


@pytest.mark.parametrize("broken", ["X25519", "KEM"])
def test_machines_chain_from_both_secrets(paused, broken):
    """With either of them replaced at one side, two real sites no longer share a chain."""
    step, _ = paused(Established)
    alpha, beta = step.sites["alpha"], step.sites["beta"]
    if broken == "X25519":
        beta._key._x25519 = HybridKey(b"\7" * 96)._x25519
    else:
        secret, frame = alpha._setup._made["beta"]
        alpha._setup._made["beta"] = bytes(reversed(secret)), frame
    setup = alpha._setup
    for name in step.names:
        step.deliver_down(name)
    assert not setup._made, "the secrets it made are forgotten"
    assert state(alpha._chains["beta"]) != state(beta._chains["alpha"])
    assert state(alpha._chains["delta"]) == state(step.sites["delta"]._chains["alpha"])


# Erasure.


def test_a_step_key_leaves_nothing_from_which_it_could_be_had_again():
    one = chain()
    before = state(one)
    key = one.step_key(4, CTX, SESSION)
    after = state(one)
    assert after["_chain"] != before["_chain"]
    assert after["_step"] == 5
    secrets = {before["_chain"], key_bytes(key), SECRET}
    assert not secrets & set(after.values())
    # nor is it the chain's next value, in any step to come
    values = set()
    for step in range(5, 40):
        values |= {key_bytes(one.step_key(step, CTX, SESSION)), state(one)["_chain"]}
    assert len(values) == 2 * 35
    assert not secrets & values


@pytest.mark.parametrize("behind", [1, 3, 4, 6, 8])
def test_a_step_is_not_had_twice_and_none_before_it(behind):
    one = chain()
    one.step_key(4, CTX, SESSION)
    one.step_key(8, CTX, SESSION)
    before = state(one)
    with pytest.raises(ValueError, match=f"step {behind} was asked of a chain that is at step 9"):
        one.step_key(behind, CTX, SESSION)
    assert state(one) == before


def test_a_key_that_was_skipped_is_gone_too():
    """Skipping ratchets as well: what is left at step 9 has no key of steps 4 to 8."""
    taken, skipped = chain(), chain()
    keys = [key_bytes(taken.step_key(step, CTX, SESSION)) for step in range(4, 9)]
    assert len(set(keys)) == 5
    skipped.step_key(8, CTX, SESSION)
    assert state(skipped) == state(taken)


def test_two_pairs_with_equal_secrets_have_chains_apart():
    one, other = chain(), chain(transcript=b"u" * 32)
    assert state(one)["_chain"] != state(other)["_chain"]
    # even if both chains came to be equal, the next step takes them apart
    other._chain = one._chain
    one.step_key(4, CTX, SESSION)
    other.step_key(4, CTX, SESSION)
    assert state(one)["_chain"] != state(other)["_chain"]


def test_the_agreement_of_two_real_keys_is_the_same_on_both_sides():
    low, high = HybridKey(bytes(range(96))), HybridKey(bytes(range(96, 192)))
    secret, ciphertext = encapsulate(high.kem_public_bytes)
    mine = PairChain(low.agree(high.public_bytes) + secret, TRANSCRIPT, 1)
    peers = PairChain(high.agree(low.public_bytes) + high.decapsulate(ciphertext), TRANSCRIPT, 1)
    assert state(mine) == state(peers)


def test_the_naive_hash_is_the_real_one():
    assert naive_hash(b"x", b"a", b"") == labelled_hash("x", b"a", b"")
