import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.randomness import SeededRandomSource, uniform
from privacy.secagg.encoding import check_range, check_sum, decode, encode, largest_magnitude
from tacit.errors import EncodingRange


def source(label="rounding"):
    return SeededRandomSource(7, label)


def naive_encode(values, scale, value_bound, randomness):
    """One coordinate at a time, in plain integers."""
    draws = uniform(randomness, len(values))
    result = []
    for value, draw in zip(values, draws, strict=True):
        scaled = min(max(float(value), -value_bound), value_bound) * scale
        below = int(np.floor(scaled))
        result.append((below + (draw < scaled - below)) % 2**32)
    return np.array(result, dtype=np.uint32)


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40),
    st.sampled_from([1.0, 1000.0, 65536.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_matches_the_naive_encoder(values, scale, dtype):
    vector = np.array(values, dtype=dtype)
    np.testing.assert_array_equal(
        encode(vector, scale, 2.7, source(), summands=4), naive_encode(vector, scale, 2.7, source())
    )


def test_blocks_do_not_change_the_result():
    vector = np.linspace(-1, 1, 70_001)
    np.testing.assert_array_equal(
        encode(vector, 1000.0, 2.0, source(), summands=3), naive_encode(vector, 1000.0, 2.0, source())
    )


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_sum_of_encodings_decodes_to_the_sum_within_the_rounding(n, d, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-3, 3, (n, d))
    total = np.zeros(d, dtype=np.uint32)
    for i, vector in enumerate(vectors):
        total += encode(vector, 4096.0, 3.0, source(f"{i}"), summands=n)
    result = decode(total, 4096.0, n, value_bound=3.0)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, vectors.sum(axis=0), atol=n / 4096.0)


def test_values_beyond_the_bound_are_clipped_and_exact_values_are_exact():
    encoded = encode(np.array([9.0, -9.0, 1.5, 0.0]), 2.0, 4.0, source(), summands=3)
    np.testing.assert_array_equal(encoded.view(np.int32), [8, -8, 3, 0])
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


def test_rounding_is_unbiased():
    assert looks_unbiased(lambda value: encode(np.full(DRAWS, value), 1.0, 4.0, source(str(value)), summands=3))


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


@pytest.mark.parametrize(("scale", "bound", "n"), [(2.0**16, 8192.0, 3), (1.0, 2.0**31 - 1, 1), (3.7, 1e8, 5)])
def test_the_largest_safe_parameters_sum_without_wrapping(scale, bound, n):
    check_range(scale, bound, n)
    vectors = [encode(np.array([bound, -bound]), scale, bound, source(f"{i}"), summands=n) for i in range(n)]
    total = np.zeros(2, dtype=np.uint32)
    for vector in vectors:
        total += vector
    exact = [sum(int(vector.view(np.int32)[i]) for vector in vectors) for i in range(2)]
    assert total.view(np.int32).tolist() == exact
    assert exact[0] > 0 > exact[1]


@pytest.mark.parametrize(("scale", "bound", "n"), [(2.0**16, 8192.0, 4), (1.0, 2.0**31, 1), (0.1, 2.0**31, 11)])
def test_what_could_wrap_is_refused_before_anything_is_drawn(scale, bound, n):
    untouched = source()
    with pytest.raises(EncodingRange, match="holds sums below"):
        encode(np.array([0.0]), scale, bound, untouched, summands=n)
    assert untouched.bytes(16) == source().bytes(16)


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


def test_a_sum_out_of_reach_is_refused():
    """Power: a sum at the edge passes, one unit beyond does not, on either side."""
    at_edge = np.array([30, -30], dtype=np.int32).view(np.uint32)
    check_sum(at_edge, 2.0, 5.0, 3)
    for beyond in (31, -31):
        with pytest.raises(EncodingRange, match="did not cancel"):
            check_sum(np.array([0, beyond], dtype=np.int32).view(np.uint32), 2.0, 5.0, 3)
    with pytest.raises(EncodingRange):
        decode(np.array([31], dtype=np.uint32), 2.0, 3, value_bound=5.0)


@pytest.mark.parametrize(("total", "count"), [(np.zeros(2, np.int64), 1), (np.zeros((1, 1), np.uint32), 1)])
def test_decode_refuses_what_is_no_sum(total, count):
    with pytest.raises(EncodingRange):
        decode(total, 1.0, count)
    with pytest.raises(EncodingRange):
        decode(np.zeros(1, np.uint32), 1.0, 0)
