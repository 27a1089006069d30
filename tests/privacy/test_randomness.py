"""Randomness: known answers for the stream, and statistical tests that reject what is nearly right.

Each statistical check is a function that accepts or refuses a sample. It must accept the real generator at a fixed
seed, and refuse every broken variant: otherwise it has no power. Bounds are in standard errors (4.5, two-sided
probability 7e-6 each).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privacy import randomness
from privacy.randomness import (
    OsRandomSource,
    RandomSource,
    SeededRandomSource,
    _CounterStream,
    standard_normal,
    uniform,
)
from tests.privacy.constant_source import ConstantSource

Sample = npt.NDArray[np.float64]
COUNT = 400_000
BOUND = 4.5


# --- the stream --------------------------------------------------------------------------------------------------


def test_aes_256_ctr_known_answers() -> None:
    """Blocks 0, 1 and 2 under the zero key.

    McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", test cases 13 and 14: the hash key H is block 0,
    the tag of the empty message is block 1, and the ciphertext of one zero block is block 2.
    """
    stream = _CounterStream(bytes(32)).bytes(48)
    assert stream[:16].hex() == "dc95c078a2408989ad48a21492842087"
    assert stream[16:32].hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert stream[32:].hex() == "cea7403d4d606b6e074ec5d3baf39d18"


@given(st.binary(min_size=32, max_size=32), st.integers(0, 200))
def test_the_stream_is_the_cipher_of_a_counter(key: bytes, size_bytes: int) -> None:
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    blocks = b"".join(encryptor.update(block.to_bytes(16, "big")) for block in range(size_bytes // 16 + 1))
    assert _CounterStream(key).bytes(size_bytes) == blocks[:size_bytes]


@given(st.lists(st.integers(0, 40), max_size=6))
def test_the_stream_does_not_depend_on_how_it_is_cut(sizes: list[int]) -> None:
    source = SeededRandomSource(1, "cut")
    pieces = b"".join(source.bytes(size) for size in sizes)
    assert pieces == SeededRandomSource(1, "cut").bytes(sum(sizes))


@pytest.mark.parametrize("size_bytes", [0, 1, 63, 64, 65, 80, 2**18 - 1, 2**18, 2**18 + 16, 2**18 + 17, 2**19 + 5])
def test_a_stream_written_in_place_is_the_same_stream(size_bytes: int) -> None:
    """Long draws go through the cipher in pieces."""
    key = bytes(range(32))
    expected = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(size_bytes + 24))
    source = _CounterStream(key)
    framed = np.full(size_bytes + 2, 0xA5, dtype=np.uint8)
    source.fill(framed[1:-1])
    assert framed[1:-1].tobytes() == expected[:size_bytes]
    assert framed[0] == framed[-1] == 0xA5
    words = np.empty((3, 1), dtype="<u8")
    source.fill(words)
    assert words.tobytes() == expected[size_bytes:]


def test_words_that_are_not_side_by_side_are_refused() -> None:
    """They would be copied, and the copy filled."""
    with pytest.raises(TypeError, match="contiguous"):
        SeededRandomSource(1, "apart").fill(np.empty((4, 4), dtype="<u4")[:, ::2])


def test_the_operating_system_keys_the_secret_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return bytes(size)

    monkeypatch.setattr(os, "urandom", urandom)
    assert OsRandomSource().bytes(16).hex() == "dc95c078a2408989ad48a21492842087"
    assert asked == [32]


def test_two_secret_sources_differ() -> None:
    assert OsRandomSource().bytes(32) != OsRandomSource().bytes(32)


def test_only_the_operating_systems_source_is_secret() -> None:
    sources: tuple[RandomSource, ...] = (OsRandomSource(), SeededRandomSource(1, "a"))
    assert [source.secret for source in sources] == [True, False]


def test_the_seeded_source_is_keyed_by_seed_and_label() -> None:
    key = hashlib.sha256(b"tacit/test-seed/v1\x007\x00noise/alpha/round-1").digest()
    expected = _CounterStream(key).bytes(64)
    assert SeededRandomSource(7, "noise/alpha/round-1").bytes(64) == expected
    others = [(8, "noise/alpha/round-1"), (7, "noise/alpha/round-2"), (-7, "noise/alpha/round-1"), (70, "")]
    assert all(SeededRandomSource(seed, label).bytes(64) != expected for seed, label in others)


def test_no_other_generator_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a generator that is not cryptographic was asked")

    for module, name in [(np.random, "default_rng"), (np.random, "normal"), (np.random, "random")]:
        monkeypatch.setattr(module, name, forbidden)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    standard_normal(OsRandomSource(), 100)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


def test_what_protects_privacy_draws_from_no_other_generator() -> None:
    root = Path(randomness.__file__).parents[1]
    other = re.compile(
        r"\b(?:np|numpy)\.random\b|^\s*(?:import|from)\s+random\b|\.(?:normal_|uniform_|bernoulli_?)\("
        r"|torch\.(?:rand\w*|normal|multinomial|Generator)\b",
        re.MULTILINE,
    )
    files = [*(root / "privacy").rglob("*.py"), *(root / "client").rglob("*.py")]
    files.remove(root / "privacy" / "randomness.py")  # names them to say that nobody calls them
    assert len(files) > 20
    assert {file.name: found for file in files if (found := other.findall(file.read_text()))} == {}


# --- uniform -----------------------------------------------------------------------------------------------------


def test_uniform_is_the_top_53_bits() -> None:
    words = SeededRandomSource(3, "u").bytes(8 * 1000)
    naive = [(int.from_bytes(words[i : i + 8], "little") >> 11) / 2**53 for i in range(0, len(words), 8)]
    assert uniform(SeededRandomSource(3, "u"), 1000).tolist() == naive


def test_uniform_reaches_zero_and_not_one() -> None:
    assert uniform(ConstantSource(0x00), 3).tolist() == [0.0] * 3
    assert uniform(ConstantSource(0xFF), 3).tolist() == [1 - 2.0**-53] * 3


def test_normal_is_finite_at_the_ends_of_the_range() -> None:
    for byte in (0x00, 0xFF):
        assert np.isfinite(standard_normal(ConstantSource(byte), 5)).all()


def looks_uniform(sample: Sample) -> bool:
    """Mean and variance within bounds, Kolmogorov-Smirnov, neighbours uncorrelated, inside [0, 1)."""
    count = len(sample)
    centred = sample - 0.5
    return (
        bool((sample >= 0).all() and (sample < 1).all())
        and abs(centred.mean()) < BOUND * math.sqrt(1 / 12 / count)
        # variance of (u - 1/2)^2 is 1/180
        and abs((centred**2).mean() - 1 / 12) < BOUND * math.sqrt(1 / 180 / count)
        and abs((centred[1:] * centred[:-1]).mean()) < BOUND / 12 / math.sqrt(count)
        and stats.kstest(sample, "uniform").pvalue > 1e-5
    )


BROKEN_UNIFORMS: dict[str, Callable[[Sample], Sample]] = {
    "slightly narrow": lambda u: u * 0.99,
    "shifted": lambda u: (u + 0.003) % 1.0 * 0.997,
    "upper half favoured": lambda u: np.where(u < 0.005, u + 0.5, u),
    "squared a little": lambda u: u**1.01,
    "four bits": lambda u: np.floor(u * 16) / 16,
    "every value twice": lambda u: np.repeat(u[: len(u) // 2], 2),
    "signed": lambda u: u - 0.5,
}


def test_uniform_looks_uniform() -> None:
    for seed in range(3):
        assert looks_uniform(uniform(SeededRandomSource(seed, "uniform"), COUNT))
    assert looks_uniform(np.random.Generator(np.random.PCG64(1)).random(COUNT))  # an independent generator


@pytest.mark.parametrize("variant", BROKEN_UNIFORMS)
def test_a_broken_uniform_is_refused(variant: str) -> None:
    assert not looks_uniform(BROKEN_UNIFORMS[variant](uniform(SeededRandomSource(1, "uniform"), COUNT)))


# --- normal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31])
def test_normal_values_do_not_depend_on_how_many_are_made_at_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = standard_normal(SeededRandomSource(5, "blocks"), count)
    monkeypatch.setattr(randomness, "_BLOCK", 2)
    np.testing.assert_array_equal(standard_normal(SeededRandomSource(5, "blocks"), count), whole)


def test_normal_is_half_the_sum_of_four_box_muller_samples() -> None:
    def naive(source: RandomSource, count: int) -> list[float]:
        def fraction() -> float:
            return (int.from_bytes(source.bytes(8), "little") >> 11) / 2**53

        totals = [0.0] * count
        for _ in range(4):
            pairs = (count + 1) // 2
            radii = [math.sqrt(-2 * math.log(1 - fraction())) for _ in range(pairs)]
            angles = [2 * math.pi * fraction() for _ in range(pairs)]
            ordered = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
            ordered += [r * math.sin(a) for r, a in zip(radii, angles, strict=True)]
            totals = [total + value for total, value in zip(totals, ordered, strict=False)]
        return [total / 2 for total in totals]

    for count in (1, 2, 7, 100):
        ours = standard_normal(SeededRandomSource(5, "n"), count)
        assert ours.shape == (count,)
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, naive(SeededRandomSource(5, "n"), count), rtol=0, atol=1e-12)


def test_no_values_are_no_values() -> None:
    assert standard_normal(SeededRandomSource(1, "x"), 0).shape == (0,)


def looks_normal(sample: Sample) -> bool:
    """Four moments, tails, Kolmogorov-Smirnov, and no correlation between neighbours, halves or their squares."""
    count = len(sample)
    first, second = sample[: count // 2], sample[count // 2 : 2 * (count // 2)]
    beyond = np.count_nonzero(np.abs(sample) > 4)
    expected_beyond = count * 2 * stats.norm.sf(4)
    root = math.sqrt(count)
    return bool(
        abs(sample.mean()) < BOUND / root
        and abs((sample**2).mean() - 1) < BOUND * math.sqrt(2) / root
        and abs((sample**3).mean()) < BOUND * math.sqrt(15) / root
        and abs((sample**4).mean() - 3) < BOUND * math.sqrt(96) / root
        and abs(beyond - expected_beyond) < BOUND * math.sqrt(expected_beyond) + 1
        and abs((sample[1:] * sample[:-1]).mean()) < BOUND / root
        and abs((first * second).mean()) < BOUND * math.sqrt(2) / root
        and abs(((first**2 - 1) * (second**2 - 1)).mean()) < BOUND * 2 * math.sqrt(2) / root
        and stats.kstest(sample, "norm").pvalue > 1e-5
    )


def _from_uniforms(make: Callable[[Callable[[], Sample]], Sample]) -> Sample:
    source = SeededRandomSource(1, "broken")
    return make(lambda: uniform(source, COUNT))


def _shared_radius(count: int) -> Sample:
    """The two halves of one Box-Muller pair, with the sine's radius reused where it must be independent."""
    source = SeededRandomSource(1, "broken")
    half = np.sqrt(-2 * np.log1p(-uniform(source, count // 2)))
    angle = 2 * np.pi * uniform(source, count // 2)
    return np.concatenate([half * np.cos(angle), half * np.cos(angle + 0.01)])


BROKEN_NORMALS: dict[str, Callable[[Sample], Sample]] = {
    "two thirds of sigma": lambda z: z * 2 / 3,
    "three halves of sigma": lambda z: z * 3 / 2,
    "one percent less": lambda z: z * 0.99,
    "one percent more": lambda z: z * 1.01,
    "four summands not divided": lambda z: z * 2,
    "shifted": lambda z: z + 0.01,
    "tails cut off at four": lambda z: np.clip(z, -4, 4),
    "folded": np.abs,
    "sum of twelve uniforms": lambda z: _from_uniforms(lambda u: sum((u() for _ in range(12)), -6.0)),
    "one uniform for radius and angle": lambda z: _from_uniforms(
        lambda u: (lambda v: np.sqrt(-2 * np.log1p(-v)) * np.cos(2 * np.pi * v))(u())
    ),
    "logarithm to base two": lambda z: _from_uniforms(
        lambda u: np.sqrt(-2 * np.log2(1 - u())) * np.cos(2 * np.pi * u())
    ),
    "half a turn": lambda z: _from_uniforms(lambda u: np.sqrt(-2 * np.log1p(-u())) * np.cos(np.pi / 2 * u())),
    "halves that repeat": lambda z: np.concatenate([z[: COUNT // 2]] * 2),
    "halves that share a radius": lambda z: _shared_radius(COUNT),
    "every value twice": lambda z: np.repeat(z[: COUNT // 2], 2),
    "Laplace of the same variance": lambda z: _from_uniforms(
        lambda u: (lambda v: -np.sign(v) * np.log1p(-2 * np.abs(v) + 1e-16) / math.sqrt(2))(u() - 0.5)
    ),
    "rounded to a tenth": lambda z: np.round(z, 1),
}


def test_normal_looks_normal() -> None:
    for seed in range(3):
        assert looks_normal(standard_normal(SeededRandomSource(seed, "normal"), COUNT))
    assert looks_normal(np.random.Generator(np.random.PCG64(1)).standard_normal(COUNT))


@pytest.mark.parametrize("variant", BROKEN_NORMALS)
def test_a_broken_normal_is_refused(variant: str) -> None:
    sample = standard_normal(SeededRandomSource(1, "normal"), COUNT)
    assert not looks_normal(BROKEN_NORMALS[variant](sample))


def test_sums_of_four_reach_values_that_one_sample_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The construction's purpose (Holohan and Braghin 2021): one Box-Muller value has only few neighbours."""
    assert randomness._GAUSSIANS_PER_SAMPLE == 4
    four = standard_normal(SeededRandomSource(1, "x"), 10)
    monkeypatch.setattr(randomness, "_GAUSSIANS_PER_SAMPLE", 1)
    assert not np.array_equal(four, standard_normal(SeededRandomSource(1, "x"), 10))
