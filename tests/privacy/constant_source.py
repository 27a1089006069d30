"""A source of randomness whose draws are all alike, for the ends of what can be drawn."""

from __future__ import annotations

import numpy as np


class ConstantSource:
    """A source of one byte."""

    secret = False

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def bytes(self, size_bytes: int) -> bytes:
        return bytes([self._byte]) * size_bytes

    def fill(self, words: np.ndarray) -> None:
        words.reshape(-1).view(np.uint8)[:] = self._byte
