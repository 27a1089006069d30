"""What a site uploads is uniform noise to whoever does not hold its seeds, whatever the vector under it.

The uploads are those of whole steps. Every statistic of a sample is two-sided, and together they raise a false alarm
with a probability of at most :data:`FALSE_ALARM` (Bonferroni), for random seeds; the seeds here are fixed. The same
statistics must reject masks that are broken in ways each of which somebody could write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from privacy.secagg.keystream import add_masks, keystream
from privacy.secagg.messages import Chunk, Reveal, decode

Words = npt.NDArray[np.uint32]

FALSE_ALARM = 1e-6
LENGTH = 1 << 18  # 1 MiB of upload: one chunk
SEED, OTHER_SEED = bytes(range(32)), bytes(range(32, 64))


def p_values(words: Words) -> Iterator[tuple[str, float]]:
    """Each statistic's name and its two-sided p-value under "the words are independent and uniform"."""
    data = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(data, axis=1, bitorder="little").astype(np.int64)
    for position in range(4):
        yield f"byte {position}", _chi_square(data[:, position], 256)
    for one, other in combinations(range(4), 2):
        pairs = data[:, one].astype(np.int64) * 256 + data[:, other]
        yield f"bytes {one} and {other} together", _chi_square(pairs, 65536)
    # Of n fair bits the sum has standard error sqrt(n) / 2; so have the agreements of n independent pairs.
    for plane in range(32):
        yield f"bit {plane}", _fair(bits[:, plane])
        yield f"bit {plane} and the next word's", _fair(bits[1:, plane] ^ bits[:-1, plane])


def _chi_square(cells: npt.NDArray[np.int64] | npt.NDArray[np.uint8], count: int) -> float:
    """Two-sided: a sample that repeats itself is too uneven, a counter too even."""
    observed = np.bincount(cells, minlength=count)
    expected = cells.size / count
    statistic = float(((observed - expected) ** 2).sum() / expected)
    above = float(stats.chi2.sf(statistic, count - 1))
    return 2 * min(above, 1 - above)


def _fair(bits: npt.NDArray[np.int64]) -> float:
    standard_errors = (bits.sum() - bits.size / 2) / (np.sqrt(bits.size) / 2)
    return float(2 * stats.norm.sf(abs(standard_errors)))


def suspicions(words: Words) -> list[str]:
    """The statistics that do not believe in uniform words; of uniform ones nearly always none."""
    found = list(p_values(words))
    return [name for name, p in found if p < FALSE_ALARM / len(found)]


@pytest.fixture(scope="module", params=["zeros", "largest", "ramp"])
def step(request, make_step):
    """A whole step whose vectors are as far from noise as vectors can be."""
    made = make_step(4, seed=11, length=LENGTH)
    bound = int(made.descriptor.scale * made.descriptor.value_bound)
    content = {"zeros": np.zeros(LENGTH), "largest": np.full(LENGTH, bound), "ramp": np.arange(LENGTH) % 7}
    for name, vector in made.vectors.items():
        made.vectors[name] = content[request.param].astype(vector.dtype)
    made.start().run()
    made.assert_exact(survivors=made.names)
    return made


def uploads(step) -> dict[str, Words]:
    """What each site sent, from the frames the coordinator got."""
    payloads: dict[str, bytes] = {}
    for name, frame in step.received:
        message = decode(frame)
        if isinstance(message, Chunk):
            payloads[name] = payloads.get(name, b"") + bytes(message.payload)
    assert set(payloads) == set(step.names)
    return {name: np.frombuffer(payload, dtype="<u4") for name, payload in payloads.items()}


def test_every_upload_is_uniform(step) -> None:
    for name, words in uploads(step).items():
        assert words.size == LENGTH
        assert suspicions(words) == [], name


def test_uploads_of_two_sites_are_independent(step) -> None:
    """Equal vectors under equal masks would differ by nothing."""
    first, *others = uploads(step).values()
    for other in others:
        assert suspicions(first - other) == []
        assert suspicions(first + other) == []


def test_pair_masks_alone_hide_a_vector_whose_self_mask_was_opened(step) -> None:
    """A survivor reveals b; what is left of its upload is masked by the seeds it shares with other survivors."""
    sent = uploads(step)
    revealed = {name: decode(frame) for name, frame in step.received if isinstance(decode(frame), Reveal)}
    assert set(revealed) == set(step.names)
    for name, reveal in revealed.items():
        left = sent[name].copy()
        add_masks(left, minus=[reveal.self_seed])
        assert suspicions(left) == [], name


def test_the_sum_of_the_uploads_without_self_masks_is_the_sum_of_the_vectors(step) -> None:
    """The control: pair masks cancel, so here the same statistics must see the vectors."""
    total = sum(uploads(step).values(), np.zeros(LENGTH, dtype=np.uint32))
    for _, frame in step.received:
        message = decode(frame)
        if isinstance(message, Reveal):
            add_masks(total, minus=[message.self_seed])
    np.testing.assert_array_equal(total, step.expected(step.names))
    assert suspicions(total)


# Power: what is not uniform is rejected, down to small faults.


def masked(mask: Words) -> Words:
    """A small vector under ``mask``."""
    vector = (np.arange(LENGTH) % 5).astype(np.uint32)
    return vector + mask


STREAM = keystream(SEED, LENGTH)

BROKEN: dict[str, Callable[[], Words]] = {
    "no mask": lambda: masked(np.zeros(LENGTH, dtype=np.uint32)),
    "31 bits": lambda: masked(STREAM & np.uint32(0x7FFFFFFF)),
    "the low 24 bits": lambda: masked(STREAM & np.uint32(0x00FFFFFF)),
    "the high 24 bits": lambda: masked(STREAM & np.uint32(0xFFFFFF00)),
    "a bit that is always set": lambda: masked(STREAM | np.uint32(1 << 13)),
    "a constant": lambda: masked(np.zeros(LENGTH, dtype=np.uint32)) ^ np.uint32(0xA5C3_5A3C),
    "one word for all": lambda: masked(np.full(LENGTH, STREAM[0])),
    "a keystream that repeats after a block": lambda: masked(np.resize(keystream(SEED, 1 << 16), LENGTH)),
    "a keystream that repeats once": lambda: masked(np.resize(keystream(SEED, LENGTH // 2), LENGTH)),
    "16-bit words spread over 32": lambda: masked((STREAM & np.uint32(0xFFFF)) * np.uint32(0x10001)),
    "each byte twice": lambda: masked((STREAM & np.uint32(0x00FF00FF)) * np.uint32(0x101)),
    "a mask that counts": lambda: masked(np.arange(LENGTH, dtype=np.uint32) * np.uint32(0x9E3779B9)),
    "the same word twice in a row": lambda: masked(np.repeat(STREAM[: LENGTH // 2], 2)),
    "normal noise": lambda: masked(np.random.default_rng(1).normal(0, 2**29, LENGTH).astype("i8").astype("u4")),
    "a product instead of a sum": lambda: masked(STREAM) * np.uint32(2),
    "one word in fifty left out": lambda: masked(np.where(np.arange(LENGTH) % 50 == 0, np.uint32(0), STREAM)),
    "bits that are set 1 percent too often": lambda: masked(
        STREAM | np.where(np.random.default_rng(2).random(LENGTH) < 0.02, np.uint32(0x80000000), np.uint32(0))
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_masks_are_rejected(fault: str) -> None:
    assert suspicions(BROKEN[fault]())


def test_the_same_mask_at_two_sites_is_rejected() -> None:
    one, other = masked(STREAM), masked(STREAM) + np.uint32(1)
    assert suspicions(one) == suspicions(other) == []
    assert suspicions(one - other)


def test_good_masks_pass_whatever_the_seed_and_the_sign() -> None:
    for seed in range(20):
        words = masked(np.zeros(LENGTH, dtype=np.uint32))
        add_masks(words, plus=[bytes([seed]) * 32], minus=[OTHER_SEED] if seed % 2 else [])
        assert suspicions(words) == []


def test_the_p_values_are_p_values() -> None:
    """One statistic in twenty is below 0.05, so the stated false alarm is the true one: 5 standard errors."""
    found = [p for seed in range(30) for _, p in p_values(keystream(bytes([200 + seed]) * 32, 1 << 15))]
    expected, error = 0.05 * len(found), np.sqrt(0.05 * 0.95 * len(found))
    assert abs(sum(p < 0.05 for p in found) - expected) < 5 * error
