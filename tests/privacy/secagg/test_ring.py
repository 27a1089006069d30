"""The rings, and whole steps in each of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.randomness import SeededRandomSource
from privacy.secagg import Ring, SiteMachine, Stage, check_range, decode, encode
from privacy.secagg.messages import Announce, Chunk
from privacy.secagg.messages import decode as read
from privacy.secagg.surplus import Contribution
from tacit.errors import DescriptorMismatch, EncodingRange

#: bits, and a scale whose grid holds 9 sites' values to 16
SCALES = {16: 128.0, 32: 65536.0, 64: 2.0**44}


@pytest.mark.parametrize("bits", SCALES)
def test_a_ring_is_its_type_its_size_and_its_reach(bits):
    ring = Ring(bits)
    assert ring.dtype == np.dtype(f"<u{bits // 8}")
    assert ring.size_bytes * 8 == bits
    assert ring.half == 2 ** (bits - 1)
    assert ring.of(np.array([-1, 1])).tolist() == [2**bits - 1, 1]
    assert ring.of(np.array([5])).tobytes() == b"\5" + bytes(bits // 8 - 1), "little-endian as it travels"


@pytest.mark.parametrize("bits", [0, 8, 31, 48, 128])
def test_there_are_no_other_rings(bits):
    with pytest.raises(EncodingRange, match="rings of 16, 32 and 64"):
        Ring(bits)


@given(st.sampled_from(sorted(SCALES)), st.data())
def test_two_complement_goes_round_and_adds_mod_the_ring(bits, data):
    ring = Ring(bits)
    integers = st.lists(st.integers(-ring.half, ring.half - 1), min_size=3, max_size=3)
    one, other = (np.array(data.draw(integers)) for _ in range(2))
    assert ring.signed(ring.of(one)).tolist() == one.tolist()
    added = (ring.of(one) + ring.of(other)).tolist()
    assert added == [(int(x) + int(y)) % 2**bits for x, y in zip(one, other, strict=True)]


@pytest.mark.parametrize("bits", SCALES)
def test_vectors_of_another_type_shape_or_length_are_refused(bits):
    ring = Ring(bits)
    ring.check(np.zeros(3, ring.dtype))
    ring.check(np.zeros(3, ring.dtype), 3)
    for bad in (np.zeros(4, ring.dtype), np.zeros((3, 1), ring.dtype), np.zeros(3, f"<i{bits // 8}"), np.zeros(3)):
        with pytest.raises(EncodingRange, match=rf"expected uint{bits}\[3\]"):
            ring.check(bad, 3)
    other = 64 if bits == 16 else 16
    with pytest.raises(EncodingRange, match=f"got uint{other}"):
        ring.check(np.zeros(3, f"<u{other // 8}"))


# Whole steps.


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(SCALES)), st.integers(3, 6), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_whole_step_gives_the_exact_sum_in_every_ring(make_step, bits, n, d, is_one_lost, seed):
    step = make_step(n, seed=seed, ring_bits=bits, scale=SCALES[bits], length=d, steps=2).start()
    if is_one_lost and n > step.descriptor.threshold:
        step.run(until=lambda: step.coordinator.stages["beta"] is Stage.LOCKED)
        step.lose("beta")
    step.run().assert_exact(survivors=step.names)
    assert step.result.total.dtype == Ring(bits).dtype
    for name in set(step.names) - step.gone:
        np.testing.assert_array_equal(step.ended[name].total, step.result.total)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SCALES)), st.integers(3, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_updates_come_out_as_their_sum_within_the_rounding(make_step, bits, n, d, seed):
    step = make_step(n, seed=seed, ring_bits=bits, scale=SCALES[bits], length=d, auto_upload=False).start().run()
    scale, bound = step.descriptor.scale, step.descriptor.value_bound
    updates = np.random.default_rng(seed).uniform(-bound, bound, (n, d))
    for name, update in zip(step.names, updates, strict=True):
        source = SeededRandomSource(seed, name)
        step.vectors[name] = encode(update, scale, bound, source, summands=n, bits=bits)
        step.upload(name)
    step.run().assert_exact(survivors=step.names)
    total = decode(step.result.total, scale, n, value_bound=bound, bits=bits)
    np.testing.assert_allclose(total, updates.sum(axis=0), rtol=0, atol=n / scale + 1e-9)


@pytest.mark.parametrize(("bits", "scale"), [(16, 1024.0), (32, 2.0**27), (64, 2.0**50)])
def test_the_edge_of_the_range_is_summed_without_wrapping_and_beyond_it_no_step_begins(make_step, bits, scale):
    """Three sites at the bound itself, all of one sign: the largest sum there is."""
    bound = {16: 10.0, 32: 5.0, 64: 7.0}[bits]
    check_range(scale, bound, 3, bits)
    step = make_step(3, ring_bits=bits, scale=scale, value_bound=bound, length=2)
    edge = Ring(bits).of(np.array([int(scale * bound), -int(scale * bound)]))
    step.vectors = dict.fromkeys(step.names, edge)
    step.start().run().assert_exact(survivors=step.names)
    assert Ring(bits).signed(step.result.total).tolist() == [3 * int(scale * bound), -3 * int(scale * bound)]
    with pytest.raises(EncodingRange):
        make_step(3, ring_bits=bits, scale=scale, value_bound=bound + 1)


def test_neither_site_nor_coordinator_begins_on_a_grid_beyond_float64(make_step, make_descriptor):
    step = make_step(3)
    beyond = make_descriptor(3, ring_bits=64, scale=2.0**50, value_bound=8.0)
    with pytest.raises(EncodingRange, match=r"exact to 2\^53"):
        SiteMachine("alpha", step.identities["alpha"], step.roster, beyond)
    with pytest.raises(EncodingRange, match=r"exact to 2\^53"):
        make_step(3, ring_bits=64, scale=2.0**50, value_bound=8.0)


@pytest.mark.parametrize("bits", SCALES)
def test_a_vector_of_another_ring_is_not_uploaded(make_step, bits):
    step = make_step(3, ring_bits=bits, scale=SCALES[bits], auto_upload=False).start().run()
    for other in {16, 32, 64} - {bits}:
        with pytest.raises(EncodingRange, match=f"got uint{other}"):
            step.sites["alpha"].upload(Contribution(np.zeros(5, Ring(other).dtype)))


def test_a_smaller_ring_halves_what_is_sent(make_step):
    sizes = {}
    for bits, scale in SCALES.items():
        step = make_step(3, ring_bits=bits, scale=scale, length=1000).start()
        step.run()
        chunks = [read(frame) for name, frame in step.received if name == "alpha"]
        sizes[bits] = sum(len(chunk.payload) for chunk in chunks if isinstance(chunk, Chunk))
    assert sizes == {16: 2000, 32: 4000, 64: 8000}


def test_the_ring_is_announced(paused, replace, refuses):
    step, announce = paused(Announce)
    other = replace(step.descriptor, ring_bits=64)
    refuses(step, "alpha", replace(announce, descriptor=other.encode()), DescriptorMismatch, "ring_bits")
