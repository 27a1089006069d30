"""Delivery across broken connections: each end numbers what it sends and keeps it until the other end has it.

Pure: the state machines of an epoch need every frame once and in order, and a connection may break in between. When a
site comes back, both ends send again what was not acknowledged, and pass over what they have already.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from tacit.errors import ProtocolViolation

Item = TypeVar("Item")

#: an end that has nothing else to say acknowledges after this many frames, so that the other may forget them
ACK_EVERY = 8


@dataclass(frozen=True)
class Numbered(Generic[Item]):
    """Something sent, and its place in the order of all that is sent: 1, 2, ..."""

    number: int
    item: Item
    size_bytes: int


class Outbox(Generic[Item]):
    """What was sent and is not acknowledged yet."""

    def __init__(self) -> None:
        self._kept: deque[Numbered[Item]] = deque()
        self._last = 0
        #: of everything that is kept
        self.size_bytes = 0

    def add(self, item: Item, size_bytes: int = 0) -> Numbered[Item]:
        """Number an item that is about to be sent, and keep it."""
        self._last += 1
        numbered = Numbered(self._last, item, size_bytes)
        self._kept.append(numbered)
        self.size_bytes += size_bytes
        return numbered

    def acknowledged(self, number: int) -> None:
        """Forget everything up to ``number``.

        Raises:
            ProtocolViolation: more than was sent.
        """
        if number > self._last:
            raise ProtocolViolation(f"frame {number} was acknowledged; only {self._last} were sent")
        while self._kept and self._kept[0].number <= number:
            self.size_bytes -= self._kept.popleft().size_bytes

    def unacknowledged(self) -> list[Numbered[Item]]:
        """Return what has to be sent again on a new connection, in order."""
        return list(self._kept)


class Inbox:
    """How far the other end's frames have arrived."""

    def __init__(self) -> None:
        #: number of the last frame that arrived
        self.last = 0

    def accept(self, number: int) -> bool:
        """Return whether the frame is new; one that was sent again is not.

        Raises:
            ProtocolViolation: a frame before it is missing.
        """
        if number > self.last + 1:
            raise ProtocolViolation(f"frame {number} came after frame {self.last}: one is missing")
        if number <= self.last:
            return False
        self.last = number
        return True

    def owes_acknowledgement(self) -> bool:
        """Whether to acknowledge now even if there is nothing else to send."""
        return self.last % ACK_EVERY == 0
