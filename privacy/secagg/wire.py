"""The primitives of the wire format: big-endian integers, fixed fields, names and blobs behind their length.

Reading is total: any bytes either give values or raise :class:`~tacit.errors.MalformedMessage`. It is
canonical: what is read writes back to the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from privacy.secagg.threshold import MAX_COHORT
from tacit.errors import MalformedMessage

_NAME = re.compile(rb"[a-z0-9][a-z0-9-]{0,62}")


class Writer:
    """Collects fields; :meth:`bytes` joins them once."""

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []

    def u8(self, value: int) -> None:
        self._parts.append(value.to_bytes(1, "big"))

    def u32(self, value: int) -> None:
        self._parts.append(value.to_bytes(4, "big"))

    def fixed(self, value: bytes, size_bytes: int) -> None:
        """A field whose size the format fixes. A caller that gives another size has a bug."""
        if len(value) != size_bytes:
            raise ValueError(f"got a field of {len(value)} bytes; this format has {size_bytes}")
        self._parts.append(value)

    def name(self, value: str) -> None:
        """A site name: one byte of length, then ASCII."""
        data = value.encode("ascii")
        self.u8(len(data))
        self._parts.append(data)

    def blob(self, value: bytes | memoryview) -> None:
        """Bytes behind a 4-byte length."""
        self.u32(len(value))
        self._parts.append(value)

    def names(self, values: Sequence[str]) -> None:
        """A list of names."""
        self.u8(len(values))
        for value in values:
            self.name(value)

    def blobs(self, values: Sequence[bytes]) -> None:
        """A list of blobs."""
        self.u8(len(values))
        for value in values:
            self.blob(value)

    def bytes(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Takes fields off the front of ``data``; raises MalformedMessage when they are not there."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def fixed(self, size_bytes: int) -> bytes:
        end = self._at + size_bytes
        if end > len(self._data):
            raise MalformedMessage(
                f"the message ends after {len(self._data)} bytes; a field needs {end}",
                hint="the frame was cut short, or the peer speaks another protocol version",
            )
        value = bytes(self._data[self._at : end])
        self._at = end
        return value

    def u8(self) -> int:
        return self.fixed(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.fixed(4), "big")

    def count(self) -> int:
        """How many entries of a list follow: at most one for each site of the largest cohort."""
        value = self.u8()
        if value > MAX_COHORT:
            raise MalformedMessage(f"a list of {value} entries was sent; at most {MAX_COHORT} are allowed")
        return value

    def name(self) -> str:
        value = self.fixed(self.u8())
        if not _NAME.fullmatch(value):
            raise MalformedMessage(f"{value[:70]!r} is not a site name ([a-z0-9][a-z0-9-]*, at most 63)")
        return value.decode("ascii")

    def blob(self) -> bytes:
        return self.fixed(self.u32())

    def names(self) -> tuple[str, ...]:
        return tuple(self.name() for _ in range(self.count()))

    def blobs(self) -> tuple[bytes, ...]:
        return tuple(self.blob() for _ in range(self.count()))

    def end(self) -> None:
        """Nothing may follow the last field."""
        if self._at != len(self._data):
            raise MalformedMessage(f"{len(self._data) - self._at} bytes follow the end of the message")


def check_ascending(names: Sequence[str]) -> None:
    """Lists keyed by site are sorted and without repeats, so that one value has one encoding.

    Raises:
        MalformedMessage: they are not.
    """
    if any(first >= second for first, second in pairwise(names)):
        raise MalformedMessage(f"names {list(names)} are not sorted, or one is repeated")
