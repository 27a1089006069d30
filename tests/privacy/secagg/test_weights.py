"""Weighted sums: the weighted mean of the survivors, within the bound that the range proof is about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.order import WeightSpec
from privacy.randomness import SeededRandomSource
from privacy.secagg.encoding import decode, encode
from privacy.secagg.weights import weigh, weighted_mean
from tacit.errors import EncodingRange

SPEC = WeightSpec(cap=100, bin=10)


@settings(max_examples=60, derandomize=True)
@given(
    st.lists(st.integers(1, 500), min_size=2, max_size=6),
    st.sampled_from([(16, 2.0**8), (32, 2.0**20), (64, 2.0**40)]),
    st.integers(0, 2**32),
)
def test_the_decoded_sum_gives_the_weighted_mean(weights: list[int], ring: tuple[int, float], seed: int) -> None:
    bits, scale = ring
    rng = np.random.default_rng(seed)
    bound = 4.0
    deltas = rng.uniform(-6, 6, (len(weights), 7))
    source = SeededRandomSource(seed, "weights")
    summands = len(weights)
    encoded = [
        encode(weigh(delta, weight, SPEC, bound), scale, bound, source, summands=summands, bits=bits)
        for delta, weight in zip(deltas, weights, strict=True)
    ]
    total = np.sum(encoded, axis=0, dtype=encoded[0].dtype)
    found = weighted_mean(decode(total, scale, summands, value_bound=bound, bits=bits), bound)
    # the naive way: clip, weight, divide
    shares = np.array([max(10, min(100, weight // 10 * 10)) for weight in weights], dtype=float)
    expected = (shares[:, None] * np.clip(deltas, -bound, bound)).sum(0) / shares.sum()
    # each coordinate is off by one unit a site, and the weight as well; the smallest share is a tenth
    assert np.abs(found - expected).max() <= 3 * summands / scale / (0.1 * summands) + 1e-12


def test_no_weight_takes_a_vector_beyond_its_bound() -> None:
    for weight in (1, 10, 55, 100, 10**6):
        weighted = weigh(np.array([9.0, -9.0, 0.5]), weight, SPEC, 4.0)
        assert np.abs(weighted).max() <= 4.0
        assert weighted[-1] / 4.0 == SPEC.binned(weight) / 100


def test_weights_that_add_up_to_nothing_are_refused() -> None:
    with pytest.raises(EncodingRange, match="add up to 0"):
        weighted_mean(np.array([1.0, 0.0]), 4.0)
