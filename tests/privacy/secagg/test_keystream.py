"""The mask generator against published vectors and against a naive counter mode."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import keystream as module
from privacy.secagg.keystream import BLOCK_BYTES, Masks, add_masks, keystream
from privacy.secagg.ring import Ring

SEED = bytes(range(32))


def naive_counter_mode(key: bytes, first_block: bytes, size_bytes: int) -> bytes:
    """SP 800-38A section 6.5 from single AES blocks (ECB) and a 128-bit counter."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    counter = int.from_bytes(first_block, "big")
    stream = b""
    while len(stream) < size_bytes:
        stream += encryptor.update((counter % 2**128).to_bytes(16, "big"))
        counter += 1
    return stream[:size_bytes]


def test_naive_counter_mode_gives_the_vector_of_nist_sp_800_38a_f_5_5():
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    ciphertext = bytes.fromhex(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    stream = naive_counter_mode(key, counter, 64)
    assert bytes(a ^ b for a, b in zip(plaintext, stream, strict=True)) == ciphertext


def test_aes_256_block_of_fips_197_c_3():
    encryptor = Cipher(algorithms.AES256(SEED), modes.ECB()).encryptor()
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert encryptor.update(block).hex() == "8ea2b7ca516745bfeafc49904b496089"


def test_first_block_is_test_case_14_of_the_gcm_specification():
    """McGrew and Viega 2005, appendix B: zero key, zero iv, zero plaintext."""
    assert keystream(bytes(32), 4).astype("<u4").tobytes().hex() == "cea7403d4d606b6e074ec5d3baf39d18"


BITS = [16, 32, 64]


@pytest.mark.parametrize("make", [module._gcm_encryptor, module._ctr_encryptor], ids=["gcm", "ctr"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("blocks", "more"), [(0, 1), (0, 3), (0, 4), (0, 5), (0, 1000), (1, -1), (1, 0), (2, 7)])
def test_both_ciphers_give_the_counter_stream_from_iv_2(monkeypatch, make, bits, blocks, more):
    monkeypatch.setattr(module, "_encryptor", make)
    length = blocks * BLOCK_BYTES * 8 // bits + more
    stream = naive_counter_mode(SEED, bytes(15) + b"\2", bits // 8 * length)
    mask = keystream(SEED, length, bits)
    assert mask.dtype == np.dtype(f"<u{bits // 8}")
    assert mask.tobytes() == stream


def test_gcm_is_used_where_it_is_right_and_ctr_where_it_is_not(monkeypatch):
    assert module._encryptor is module._gcm_encryptor
    monkeypatch.setattr(module, "_gcm_encryptor", lambda seed: module._ctr_encryptor(bytes(32)))
    assert module._choose_encryptor() is module._ctr_encryptor

    def unsupported(seed):
        raise module.UnsupportedAlgorithm("no GCM here")

    monkeypatch.setattr(module, "_gcm_encryptor", unsupported)
    assert module._choose_encryptor() is module._ctr_encryptor


@given(
    st.sampled_from(BITS),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    st.integers(0, 40),
)
def test_masks_add_and_cancel(bits, plus, minus, length):
    vector = np.arange(length).astype(f"<u{bits // 8}")
    naive = vector.astype(object)
    for sign, seeds in ((1, plus), (-1, minus)):
        for seed in seeds:
            naive = naive + sign * keystream(seed, length, bits).astype(object)
    add_masks(vector, plus=plus, minus=minus)
    assert vector.tolist() == [int(value) % 2**bits for value in naive]
    add_masks(vector, plus=minus, minus=plus)
    assert vector.tolist() == list(range(length))


@given(st.sampled_from(BITS), st.integers(0, 3), st.integers(0, 3), st.lists(st.integers(1, 5), max_size=5), st.data())
def test_masks_added_piece_by_piece_are_those_of_the_whole(bits, adding, subtracting, blocks, data):
    """Pieces of 16 bytes and multiples of it, the last of any size."""
    seeds = [bytes([i]) * 32 for i in range(adding + subtracting)]
    plus, minus = seeds[:adding], seeds[adding:]
    sizes = [128 // bits * count for count in blocks] + [data.draw(st.integers(0, 40))]
    whole = np.arange(sum(sizes)).astype(f"<u{bits // 8}")
    pieces = np.split(whole.copy(), np.cumsum(sizes)[:-1])
    add_masks(whole, plus=plus, minus=minus)
    masks = Masks(Ring(bits), plus=plus, minus=minus)
    for piece in pieces:
        masks.add_to(piece)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_masks_of_two_seeds_are_unrelated_and_longer_ones_begin_alike():
    other = bytes([SEED[0] ^ 1]) + SEED[1:]
    assert not (keystream(SEED, 1000, 64) == keystream(other, 1000, 64)).any()
    np.testing.assert_array_equal(keystream(SEED, 1000)[:7], keystream(SEED, 7))


def chi_square_is_plausible(vector: np.ndarray) -> bool:
    """Each byte of an element over 256 cells: 255 degrees of freedom, mean 255, standard deviation 22.6."""
    for byte in range(vector.itemsize):
        counts = np.bincount(vector.view(np.uint8)[byte :: vector.itemsize], minlength=256)
        expected = len(vector) / 256
        statistic = ((counts - expected) ** 2 / expected).sum()
        if abs(statistic - 255) > 5 * np.sqrt(2 * 255):
            return False
    return True


@pytest.mark.parametrize("bits", BITS)
def test_a_masked_vector_looks_uniform_and_the_test_has_power(bits):
    kind = np.dtype(f"<u{bits // 8}")
    small = np.random.default_rng(0).integers(-100, 100, 200_000).astype(np.int64).astype(kind)
    masked = small.copy()
    add_masks(masked, plus=[SEED])
    assert chi_square_is_plausible(masked)
    assert not chi_square_is_plausible(small)
    folded = small + (keystream(SEED, len(small), bits) & kind.type(2 ** (bits - 4) - 1))
    assert not chi_square_is_plausible(folded)
    biased = np.where(np.arange(len(small)) % 50 == 0, small, masked)
    assert not chi_square_is_plausible(biased)
