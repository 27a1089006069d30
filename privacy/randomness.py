"""Where randomness comes from: one interface, an operating-system keyed source, and a seeded one for tests.

Sampling, noise and stochastic rounding all draw from a :class:`RandomSource`; nothing that protects privacy calls
``random``, ``numpy.random`` or ``torch``'s generators. The stream is AES-256 in counter mode (NIST SP 800-38A)
under a key from ``os.urandom``.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_Floats = npt.NDArray[np.float64]
_UNIFORM_BITS = 53
_GAUSSIANS_PER_SAMPLE = 4
#: Pairs of samples made at once: what they need stays in a core's cache.
_BLOCK = 1 << 13
_ZEROS = memoryview(bytes(1 << 18))


class RandomSource(Protocol):
    """A stream of cryptographically secure random bytes."""

    #: False only for :class:`SeededRandomSource`; anything that reports privacy must look at it.
    secret: bool

    def bytes(self, size_bytes: int) -> bytes:
        """Return the next ``size_bytes`` of the stream."""
        ...

    def fill(self, words: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Write the next bytes of the stream over ``words``, contiguous and of any shape: little-endian integers."""
        ...


class _CounterStream:
    """AES-256-CTR keystream under ``key`` (32 bytes), from counter zero."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, size_bytes: int) -> bytes:
        words = np.empty(size_bytes, dtype=np.uint8)
        self.fill(words)
        return words.tobytes()

    def fill(self, words: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        if not words.size:
            return
        # ``update`` would take four times as long: it makes a new buffer each time
        out = words.data.cast("B")
        for start in range(0, len(out), len(_ZEROS)):
            piece = out[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(piece)], piece)


class OsRandomSource(_CounterStream):
    """A stream keyed once by the operating system; what production uses."""

    secret = True

    def __init__(self) -> None:
        super().__init__(os.urandom(32))


class SeedStream(_CounterStream):
    """What a seed of 32 bytes from another source stands for: whoever is shown the seed can draw it again."""

    secret = True

    def __init__(self, seed: bytes) -> None:
        super().__init__(hashlib.sha256(b"tacit/seed-stream/v1\0" + seed).digest())


class SeededRandomSource(_CounterStream):
    """A reproducible stream for tests. Whoever knows ``seed`` can subtract the noise: it protects nothing.

    Args:
        seed: any integer.
        label: separates streams of one seed (``"noise/alpha/round-1"``).
    """

    secret = False

    def __init__(self, seed: int, label: str) -> None:
        super().__init__(hashlib.sha256(f"tacit/test-seed/v1\0{seed}\0{label}".encode()).digest())


def uniform(source: RandomSource, count: int) -> _Floats:
    """Return ``count`` float64 values, uniform on the 2^53 multiples of 2^-53 in [0, 1)."""
    words = np.empty(count, dtype="<u8")
    source.fill(words)
    return _unit(words)


def standard_normal(source: RandomSource, count: int) -> _Floats:
    """Return ``count`` float64 standard normal values.

    Each value is the sum of four Box-Muller samples divided by two, so that the set of reachable floating-point
    values does not give the noise away (Holohan and Braghin 2021, "Secure Random Sampling in Differential Privacy",
    section 4; the same construction as Opacus's ``secure_mode``).
    """
    pairs = (count + 1) // 2
    total = np.zeros(2 * pairs, dtype=np.float64)
    words = np.empty((2, pairs), dtype="<u8")
    for _ in range(_GAUSSIANS_PER_SAMPLE):
        source.fill(words)
        for start in range(0, pairs, _BLOCK):
            end = min(start + _BLOCK, pairs)
            first, second = _box_muller(_unit(words[0, start:end]), _unit(words[1, start:end]))
            total[start:end] += first
            total[pairs + start : pairs + end] += second
    total /= math.sqrt(_GAUSSIANS_PER_SAMPLE)
    return total[:count]


def _unit(words: npt.NDArray[np.uint64]) -> _Floats:
    """The upper 53 bits of each word as a fraction."""
    return (words >> np.uint64(64 - _UNIFORM_BITS)).astype(np.float64) * 2.0**-_UNIFORM_BITS


def _box_muller(one: _Floats, other: _Floats) -> tuple[_Floats, _Floats]:
    """Two independent samples from each pair of uniform ones (Box and Muller 1958); ``1 - u`` keeps the logarithm's
    argument in (0, 1]."""
    radius = np.sqrt(-2.0 * np.log1p(-one))
    angle = 2.0 * np.pi * other
    return radius * np.cos(angle), radius * np.sin(angle)
