"""One site's place in an epoch: what is on its way to it, across the connections it comes and goes with."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from client.delivery import Inbox, Numbered, Outbox

#: What a site may leave unread beyond two of the step's vectors, before it counts as gone.
_UNREAD_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Protocol:
    """One protocol frame for a site."""

    data: bytes


@dataclass(frozen=True)
class Closed:
    """The session has ended; the last item for every site."""

    summed: bool
    reason: str


Outbound = Protocol | Closed


@dataclass(frozen=True)
class Outgoing:
    """What a connection sends next: an item with its number, or a bare acknowledgement (number 0)."""

    number: int
    acknowledged: int
    item: Outbound | None


#: a connection's queue; None ends the connection because another one took its place
Stream = queue.SimpleQueue[Outgoing | None]


class Seat:
    """A site's end of the session at the coordinator. Not thread-safe: its epoch holds the lock.

    Args:
        vector_bytes: size of the vectors of a step.
    """

    def __init__(self, vector_bytes: int) -> None:
        #: whether the site has ever been here
        self.is_taken = False
        #: whether it was given up because it does not take what it is sent
        self.is_full = False
        self._limit_bytes = 2 * vector_bytes + _UNREAD_MAX_BYTES
        self._outbox: Outbox[Outbound] = Outbox()
        self._inbox = Inbox()
        self._stream: Stream | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a connection is there."""
        return self._stream is not None

    def connect(self, acknowledged: int) -> Stream:
        """Take a connection, the first or another one; everything that may not have arrived is sent (again).

        Args:
            acknowledged: the last item that the site has.

        Raises:
            ProtocolViolation: it acknowledges what was never sent.
        """
        self._outbox.acknowledged(acknowledged)
        if self._stream is not None:
            self._stream.put(None)
        self.is_taken = True
        self._stream = queue.SimpleQueue()
        # at once, so that the site knows that it has a seat to come back to
        self._stream.put(Outgoing(0, self._inbox.last, None))
        for numbered in self._outbox.unacknowledged():
            self._stream.put(self._outgoing(numbered))
        return self._stream

    def disconnect(self, stream: Stream) -> bool:
        """A connection has ended: so does whoever serves its queue. Return whether it was the current one."""
        stream.put(None)
        if stream is not self._stream:
            return False
        self._stream = None
        return True

    def put(self, item: Outbound) -> None:
        """Send an item, now or when the site is back. A site that leaves too much unread is disconnected for good
        (:attr:`is_full`): it cannot hold more than its own buffer."""
        size_bytes = len(item.data) if isinstance(item, Protocol) else 0
        if self._outbox.size_bytes + size_bytes > self._limit_bytes:
            self.is_full = True
            if self._stream is not None:
                self._stream.put(None)
            self._stream, self._outbox = None, Outbox()
        if self.is_full:
            return
        numbered = self._outbox.add(item, size_bytes)
        if self._stream is not None:
            self._stream.put(self._outgoing(numbered))

    def accept(self, number: int, acknowledged: int) -> bool:
        """Take note of a frame's numbers; return whether the frame is new.

        Raises:
            ProtocolViolation: a frame is missing, or it acknowledges what was never sent.
        """
        self._outbox.acknowledged(acknowledged)
        if number == 0 or not self._inbox.accept(number):
            return False
        if self._inbox.owes_acknowledgement() and self._stream is not None:
            self._stream.put(Outgoing(0, self._inbox.last, None))
        return True

    def _outgoing(self, numbered: Numbered[Outbound]) -> Outgoing:
        return Outgoing(numbered.number, self._inbox.last, numbered.item)
