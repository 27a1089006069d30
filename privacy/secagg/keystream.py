"""Masks: a 256-bit seed stretched to a vector of the ring and added in place.

The generator is the AES-256 keystream in counter mode (NIST SP 800-38A, section 6.5) under the seed, from
counter block ``iv || 2`` with a zero ``iv``, read as little-endian unsigned integers of the ring's size. It is
drawn by encrypting zeros with OpenSSL's GCM cipher, whose vectorised kernel is more than twice as fast as its CTR
one; GCM's keystream starts at ``inc32(iv || 1) = iv || 2`` (NIST SP 800-38D, section 7.1), so both give the same
bytes. A seed masks one vector of one step and nothing else, which is why a constant ``iv`` is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privacy.secagg.ring import Ring, RingVector

SEED_BYTES = 32
#: 256 KiB: the block of the vector and the block of keystream stay in a core's cache together.
BLOCK_BYTES = 1 << 18
_IV = bytes(12)
_FIRST_COUNTER = (2).to_bytes(4, "big")
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Masks:
    """``sum(PRG(s) for s in plus) - sum(PRG(s) for s in minus)``, added to a vector piece by piece.

    Args:
        ring: of the vector.
        plus: 32-byte seeds.
        minus: 32-byte seeds.
    """

    def __init__(self, ring: Ring, *, plus: Iterable[bytes] = (), minus: Iterable[bytes] = ()) -> None:
        self._adding = [_encryptor(seed) for seed in plus]
        self._subtracting = [_encryptor(seed) for seed in minus]
        self._buffer = bytearray(BLOCK_BYTES)
        self._block_values = BLOCK_BYTES // ring.size_bytes
        self._stream = np.frombuffer(self._buffer, dtype=ring.dtype)
        self._item_bytes = ring.size_bytes

    def add_to(self, piece: RingVector) -> None:
        """Add the masks' next values to ``piece``, [k], in place. All pieces but the last are multiples of 16 bytes."""
        for start in range(0, piece.shape[0], self._block_values):
            block = piece[start : start + self._block_values]
            size = block.shape[0]
            zeros = _ZEROS[: self._item_bytes * size]
            for encryptor in self._adding:
                encryptor.update_into(zeros, self._buffer)
                block += self._stream[:size]
            for encryptor in self._subtracting:
                encryptor.update_into(zeros, self._buffer)
                block -= self._stream[:size]


def add_masks(vector: RingVector, *, plus: Iterable[bytes] = (), minus: Iterable[bytes] = ()) -> None:
    """Add ``sum(PRG(s) for s in plus) - sum(PRG(s) for s in minus)`` to ``vector`` mod 2^bits, in place.

    Args:
        vector: uint16, uint32 or uint64 (little-endian), shape [d], contiguous and writable; d < 2^32.
        plus: 32-byte seeds.
        minus: 32-byte seeds.
    """
    Masks(Ring(8 * vector.dtype.itemsize), plus=plus, minus=minus).add_to(vector)


def keystream(seed: bytes, length: int, bits: int = 32) -> RingVector:
    """Return ``PRG(seed)``: ring elements, shape [length]."""
    vector: RingVector = np.zeros(length, dtype=Ring(bits).dtype)
    add_masks(vector, plus=[seed])
    return vector


class _Encryptor(Protocol):
    def update(self, data: bytes) -> bytes: ...

    def update_into(self, data: memoryview, buf: bytearray) -> int: ...


def _gcm_encryptor(seed: bytes) -> _Encryptor:
    return Cipher(algorithms.AES256(seed), modes.GCM(_IV)).encryptor()


def _ctr_encryptor(seed: bytes) -> _Encryptor:
    return Cipher(algorithms.AES256(seed), modes.CTR(_IV + _FIRST_COUNTER)).encryptor()


def _choose_encryptor() -> Callable[[bytes], _Encryptor]:
    """GCM is used only where it exists and gives the very bytes of CTR."""
    probe = bytes(range(SEED_BYTES))
    try:
        is_same = _gcm_encryptor(probe).update(bytes(4096)) == _ctr_encryptor(probe).update(bytes(4096))
    except UnsupportedAlgorithm:
        is_same = False
    return _gcm_encryptor if is_same else _ctr_encryptor


_encryptor = _choose_encryptor()
