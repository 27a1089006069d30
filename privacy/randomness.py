"""Where randomness comes from: one interface, an operating-system keyed source, and a seeded one for tests.

Sampling, noise and stochastic rounding all draw from a :class:`RandomSource`; nothing that protects privacy calls
``random``, ``numpy.random`` or ``torch``'s generators. The stream is AES-256 in counter mode (NIST SP 800-38A)
under a key from ``os.urandom``.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_UNIFORM_BITS = 53
_GAUSSIANS_PER_SAMPLE = 4


class RandomSource(Protocol):
    """A stream of cryptographically secure random bytes."""

    #: False only for :class:`SeededRandomSource`; anything that reports privacy must look at it.
    secret: bool

    def bytes(self, size_bytes: int) -> bytes:
        """Return the next ``size_bytes`` of the stream."""
        ...


class _CounterStream:
    """AES-256-CTR keystream under ``key`` (32 bytes), from counter zero."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, size_bytes: int) -> bytes:
        return self._encryptor.update(bytes(size_bytes))


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


def uniform(source: RandomSource, count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` float64 values, uniform on the 2^53 multiples of 2^-53 in [0, 1)."""
    words = np.frombuffer(source.bytes(8 * count), dtype="<u8")
    return (words >> np.uint64(64 - _UNIFORM_BITS)).astype(np.float64) * 2.0**-_UNIFORM_BITS


def standard_normal(source: RandomSource, count: int) -> npt.NDArray[np.float64]:
    """Return ``count`` float64 standard normal values.

    Each value is the sum of four Box-Muller samples divided by two, so that the set of reachable floating-point
    values does not give the noise away (Holohan and Braghin 2021, "Secure Random Sampling in Differential Privacy",
    section 4; the same construction as Opacus's ``secure_mode``).
    """
    total = np.zeros(count, dtype=np.float64)
    for _ in range(_GAUSSIANS_PER_SAMPLE):
        total += _box_muller(source, count)
    total /= math.sqrt(_GAUSSIANS_PER_SAMPLE)
    return total


def _box_muller(source: RandomSource, count: int) -> npt.NDArray[np.float64]:
    """Box and Muller 1958; ``1 - u`` keeps the logarithm's argument in (0, 1]."""
    pairs = (count + 1) // 2
    radius = np.sqrt(-2.0 * np.log1p(-uniform(source, pairs)))
    angle = 2.0 * np.pi * uniform(source, pairs)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
