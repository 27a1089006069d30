"""The ring of integers mod 2^bits in which vectors are masked and added: its types and its reach."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tacit.errors import EncodingRange

RingBits = Literal[16, 32, 64]
#: a vector of ring elements: uint16, uint32 or uint64, shape [d]
RingVector = npt.NDArray[np.unsignedinteger[Any]]

_UNSIGNED = {16: "<u2", 32: "<u4", 64: "<u8"}
_SIGNED = {16: np.int16, 32: np.int32, 64: np.int64}


@dataclass(frozen=True, slots=True)
class Ring:
    """Integers mod ``2^bits``. 32 bits are the default; 16 halve what a site sends and how long masking takes, for
    sums that fit; 64 are for fine grids and large cohorts.

    Raises:
        EncodingRange: another number of bits than 16, 32 or 64.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in get_args(RingBits):
            raise EncodingRange(f"a ring of {self.bits} bits was asked for; there are rings of 16, 32 and 64")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Little-endian unsigned integers: in memory and on the wire."""
        return np.dtype(_UNSIGNED[self.bits])

    @property
    def size_bytes(self) -> int:
        """Of one element."""
        return self.bits // 8

    @property
    def half(self) -> int:
        """Sums must stay below this in magnitude to be read back in two's complement."""
        return 1 << (self.bits - 1)

    def signed(self, vector: RingVector) -> npt.NDArray[np.signedinteger[Any]]:
        """View ring elements, shape [d], as two's complement of the same size."""
        return vector.view(_SIGNED[self.bits])

    def of(self, values: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> RingVector:
        """Return integers (int64, or float64 that hold integers) within the ring's half, [d], as ring elements [d]."""
        # through the signed type of the same size: from float64 straight to an unsigned one is undefined below zero
        return values.astype(_SIGNED[self.bits]).view(self.dtype)

    def check(self, vector: RingVector, length: int | None = None) -> None:
        """Accept a vector of this ring (and of ``length`` elements).

        Raises:
            EncodingRange: another type, shape or length.
        """
        if vector.ndim != 1 or vector.dtype != self.dtype or (length is not None and vector.shape[0] != length):
            expected = "d" if length is None else length
            raise EncodingRange(
                f"got {vector.dtype}{list(vector.shape)}; expected uint{self.bits}[{expected}]",
            )


assert sys.byteorder == "little", "vectors are used as they travel, in little-endian order"
