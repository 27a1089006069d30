import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.randomness import SeededRandomSource, uniform
from privacy.secagg.encoding import check_range, check_sum, decode, encode, largest_magnitude
from privacy.secagg.ring import Ring
from tacit.errors import EncodingRange


def source(label="rounding"):
    return SeededRandomSource(7, label)


def naive_encode(values, scale, value_bound, randomness, bits=32):
    """One coordinate at a time, in rationals: a draw of 32 bits is a fraction that is added, and the places cut off.

    Narrow rings keep 32 binary places of the value itself, cut towards zero; in 64 bits the value is kept whole."""
    words = np.frombuffer(randomness.bytes(4 * len(values)), dtype="<u4").tolist()
    limit = min(value_bound * scale, float(largest_magnitude(scale, value_bound)))
    result = []
    for value, word in zip(values, words, strict=True):
        scaled = Fraction(min(max(float(value) * scale, -limit), limit))
        if bits < 64:
            rounded = (int(scaled * 2**32) + word) >> 32
        else:
            rounded = math.floor(scaled) + int(Fraction(word, 2**32) < scaled - math.floor(scaled))
        result.append(rounded % 2**bits)
    return np.array(result, dtype=f"<u{bits // 8}")


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40),
    st.sampled_from([(16, 1.0), (16, 1000.0), (32, 1.0), (32, 1000.0), (32, 65536.0), (64, 1000.0), (64, 2.0**40)]),
    st.sampled_from([np.float32, np.float64]),
)
def test_matches_the_naive_encoder(values, ring, dtype):
    bits, scale = ring
    vector = np.array(values, dtype=dtype)
    encoded = encode(vector, scale, 2.7, source(), summands=4, bits=bits)
    assert encoded.dtype == np.dtype(f"<u{bits // 8}")
    np.testing.assert_array_equal(encoded, naive_encode(vector, scale, 2.7, source(), bits))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_blocks_do_not_change_the_result(bits):
    vector = np.linspace(-1, 1, 70_001)
    np.testing.assert_array_equal(
        encode(vector, 1000.0, 2.0, source(), summands=3, bits=bits), naive_encode(vector, 1000.0, 2.0, source(), bits)
    )


#: bits and the scale of a grid on which 6 sites' values to 3 fit
RINGS = [(16, 1024.0), (32, 4096.0), (64, 2.0**40)]


@given(st.sampled_from(RINGS), st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_sum_of_encodings_decodes_to_the_sum_within_the_rounding(ring, n, d, seed):
    bits, scale = ring
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-3, 3, (n, d))
    total = np.zeros(d, dtype=Ring(bits).dtype)
    for i, vector in enumerate(vectors):
        total += encode(vector, scale, 3.0, source(f"{i}"), summands=n, bits=bits)
    result = decode(total, scale, n, value_bound=3.0, bits=bits)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, vectors.sum(axis=0), atol=n / scale)


@given(st.sampled_from(RINGS), st.integers(1, 6), st.integers(1, 20), st.data())
def test_what_lies_on_the_grid_is_summed_exactly(ring, n, d, data):
    """Multiples of 1/scale are encoded without rounding, so the sum is exact in every ring."""
    bits, scale = ring
    reach = int(3 * scale)
    grid = np.array(data.draw(st.lists(st.integers(-reach, reach), min_size=n * d, max_size=n * d))).reshape(n, d)
    total = np.zeros(d, dtype=Ring(bits).dtype)
    for row in grid:
        total += encode(row / scale, scale, 3.0, source(), summands=n, bits=bits)
    assert Ring(bits).signed(total).tolist() == grid.sum(axis=0).tolist()
    np.testing.assert_array_equal(decode(total, scale, n, value_bound=3.0, bits=bits) * scale, grid.sum(axis=0))


def test_values_beyond_the_bound_are_clipped_and_exact_values_are_exact():
    encoded = encode(np.array([9.0, -9.0, 1.5, 0.0]), 2.0, 4.0, source(), summands=3)
    np.testing.assert_array_equal(encoded.view(np.int32), [8, -8, 3, 0])
    for bits in (16, 32, 64):
        largest = np.array([1e300, -1e300, 4.0, np.nextafter(4.0, 5)])
        clipped = encode(largest, 2.0, 4.0, source(), summands=3, bits=bits)
        assert Ring(bits).signed(clipped).tolist() == [8, -8, 8, 8]
    # To the bound itself, not to the ring value above it.
    halves = encode(np.full(1000, 9.0), 1.0, 0.5, source(), summands=3)
    assert 400 < halves.sum() < 600


# Unbiasedness, with power: the test accepts stochastic rounding and rejects near misses of it.

FRACTIONS = (0.03, 0.25, 0.5, 0.8)
DRAWS = 400_000


def looks_unbiased(rounded_at) -> bool:
    """Mean of many roundings within 4.5 standard errors of the value, at several fractions."""
    for fraction in FRACTIONS:
        for value in (fraction, -fraction):
            mean = rounded_at(value).view(np.int32).mean()
            if abs(mean - value) > 4.5 * np.sqrt(fraction * (1 - fraction) / DRAWS):
                return False
    return True


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_rounding_is_unbiased(bits):
    def rounded_at(value):
        encoded = encode(np.full(DRAWS, value), 1.0, 4.0, source(str(value)), summands=3, bits=bits)
        return Ring(bits).signed(encoded).astype(np.int32).view(np.uint32)

    assert looks_unbiased(rounded_at)


@pytest.mark.parametrize(
    "broken",
    [
        lambda values, draws: np.rint(values),
        lambda values, draws: np.floor(values),
        lambda values, draws: np.trunc(values) + (draws < np.abs(values - np.trunc(values))),
        lambda values, draws: np.floor(values) + (draws < 1.02 * (values - np.floor(values))),
        lambda values, draws: np.floor(values) + (np.floor(draws * 32) / 32 < values - np.floor(values)),
    ],
    ids=["nearest", "floor", "towards zero", "two percent off", "five random bits"],
)
def test_the_unbiasedness_test_rejects_broken_rounding(broken):
    def rounded_at(value):
        return broken(np.full(DRAWS, value), uniform(source(str(value)), DRAWS)).astype(np.int64).astype(np.uint32)

    assert not looks_unbiased(rounded_at)


# Range: proved before, never wrapped.


@pytest.mark.parametrize(
    ("bits", "scale", "bound", "n"),
    [
        (32, 2.0**16, 8192.0, 3),
        (32, 1.0, 2.0**31 - 1, 1),
        (32, 3.7, 1e8, 5),
        (16, 2.0**8, 32.0, 3),
        (16, 1.0, 2.0**15 - 1, 1),
        (64, 2.0**32, 2.0**20, 1000),
        (64, 1.0, 2.0**53 - 1, 1024),
    ],
)
def test_the_largest_safe_parameters_sum_without_wrapping(bits, scale, bound, n):
    check_range(scale, bound, n, bits)
    ring = Ring(bits)
    vectors = [encode(np.array([bound, -bound]), scale, bound, source(f"{i}"), summands=n, bits=bits) for i in range(n)]
    total = np.zeros(2, dtype=ring.dtype)
    for vector in vectors:
        total += vector
    exact = [sum(int(ring.signed(vector)[i]) for vector in vectors) for i in range(2)]
    assert ring.signed(total).tolist() == exact
    assert exact[0] > 0 > exact[1]


@pytest.mark.parametrize(
    ("bits", "scale", "bound", "n"),
    [
        (32, 2.0**16, 8192.0, 4),
        (32, 1.0, 2.0**31, 1),
        (32, 0.1, 2.0**31, 11),
        (16, 2.0**8, 32.0, 4),
        (16, 1.0, 2.0**15, 1),
        (16, 2.0**16, 1.0, 1),
        (64, 1.0, 2.0**63, 1),
        (64, 1.0, 2.0**52, 2048),
    ],
)
def test_what_could_wrap_is_refused_before_anything_is_drawn(bits, scale, bound, n):
    untouched = source()
    with pytest.raises(EncodingRange, match="holds sums below"):
        encode(np.array([0.0]), scale, bound, untouched, summands=n, bits=bits)
    assert untouched.bytes(16) == source().bytes(16)


@given(st.sampled_from([16, 32, 64]), st.integers(1, 130), st.floats(2**-20, 2**40), st.floats(2**-20, 2**40))
def test_the_proof_is_the_exact_inequality(bits, n, scale, bound):
    """By rationals: a sum is accepted exactly when it stays below half the ring, and one summand below 2^53."""
    one = math.ceil(Fraction(scale) * Fraction(bound))
    try:
        check_range(scale, bound, n, bits)
        is_accepted = True
    except EncodingRange:
        is_accepted = False
    assert is_accepted == (n * one < 2 ** (bits - 1) and one < 2**53)


def test_a_grid_beyond_float64_is_refused_though_the_ring_would_hold_it():
    """2^53 and 2^53 + 1 are one float: rounding there would not be the one that was proved."""
    assert float(2**53) == float(2**53 + 1)
    check_range(1.0, 2.0**53 - 1, 3, 64)
    untouched = source()
    with pytest.raises(EncodingRange, match="exact to 2\\^53"):
        encode(np.array([0.0]), 1.0, 2.0**53, untouched, summands=3, bits=64)
    assert untouched.bytes(16) == source().bytes(16)
    with pytest.raises(EncodingRange, match="exact to 2\\^53"):
        check_range(2.0**50, 8.0, 3, 64)


def test_other_rings_are_refused():
    for bits in (8, 31, 33, 128):
        with pytest.raises(EncodingRange, match="rings of 16, 32 and 64"):
            check_range(1.0, 1.0, 1, bits)
        with pytest.raises(EncodingRange, match="rings of 16, 32 and 64"):
            encode(np.zeros(1), 1.0, 1.0, source(), summands=1, bits=bits)
        with pytest.raises(EncodingRange, match="rings of 16, 32 and 64"):
            decode(np.zeros(1, np.uint32), 1.0, 1, bits=bits)


def test_the_bound_is_exact_where_floating_point_is_not():
    """0.1 * 2^31 * 10 is below 2^31 in floating point rounding, and above it exactly."""
    assert largest_magnitude(0.1, 10.0) == 2  # 0.1 is a little more than a tenth
    with pytest.raises(EncodingRange):
        check_range(0.1, 2.0**31, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(EncodingRange, match="NaN or infinity"):
        encode(np.array([0.0, bad]), 1.0, 1.0, source(), summands=3)


@pytest.mark.parametrize("values", [np.zeros(3, np.int64), np.zeros((2, 2)), np.zeros(3, np.float16)])
def test_other_types_and_shapes_are_refused(values):
    with pytest.raises(EncodingRange, match="expected float32"):
        encode(values, 1.0, 1.0, source(), summands=3)


@pytest.mark.parametrize(
    ("scale", "bound", "n"), [(0.0, 1.0, 1), (1.0, -1.0, 1), (np.inf, 1.0, 1), (1.0, np.nan, 1), (1.0, 1.0, 0)]
)
def test_parameters_without_meaning_are_refused(scale, bound, n):
    with pytest.raises(EncodingRange):
        check_range(scale, bound, n)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_sum_out_of_reach_is_refused(bits):
    """Power: a sum at the edge passes, one unit beyond does not, on either side."""
    ring = Ring(bits)
    at_edge = ring.of(np.array([30, -30]))
    check_sum(at_edge, 2.0, 5.0, 3, bits)
    for beyond in (31, -31):
        with pytest.raises(EncodingRange, match="did not cancel"):
            check_sum(ring.of(np.array([0, beyond])), 2.0, 5.0, 3, bits)
    with pytest.raises(EncodingRange):
        decode(ring.of(np.array([31])), 2.0, 3, value_bound=5.0, bits=bits)
    assert decode(at_edge, 2.0, 3, value_bound=5.0, bits=bits).tolist() == [15.0, -15.0]


@pytest.mark.parametrize(
    ("total", "count"),
    [
        (np.zeros(2, np.int64), 1),
        (np.zeros(2, np.uint64), 1),
        (np.zeros(2, np.uint16), 1),
        (np.zeros((1, 1), np.uint32), 1),
    ],
)
def test_decode_refuses_what_is_no_sum(total, count):
    with pytest.raises(EncodingRange):
        decode(total, 1.0, count)
    with pytest.raises(EncodingRange):
        decode(np.zeros(1, np.uint32), 1.0, 0)
