"""Every message of the protocol in one place, and how any frame is read.

:func:`decode` is total: it returns a message or raises :class:`~tacit.errors.MalformedMessage`, and nothing
else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from privacy.secagg.coordinator_messages import (
    REASON_MAX_BYTES,
    Announce,
    DeliveredParcel,
    Grant,
    LockRequest,
    Outcome,
    RevealRequest,
    SharesRequest,
    TotalChunk,
)
from privacy.secagg.frames import CHUNK_BYTES, CTX_BYTES, MAX_FRAME_BYTES, VERSION
from privacy.secagg.keys import labelled_hash
from privacy.secagg.setup_messages import Encapsulated, Encapsulation, Established, KeyAdvert, Keys
from privacy.secagg.site_messages import Chunk, Lock, Offer, OfferedParcel, Reveal, RevealedRow, Shares
from privacy.secagg.wire import Reader
from tacit.errors import MalformedMessage

__all__ = [
    "CHUNK_BYTES",
    "REASON_MAX_BYTES",
    "Announce",
    "Chunk",
    "DeliveredParcel",
    "Encapsulated",
    "Encapsulation",
    "Established",
    "Grant",
    "KeyAdvert",
    "Keys",
    "Lock",
    "LockRequest",
    "Message",
    "Offer",
    "OfferedParcel",
    "Outcome",
    "Reveal",
    "RevealRequest",
    "RevealedRow",
    "Shares",
    "SharesRequest",
    "TotalChunk",
    "chunks_of",
    "decode",
    "lock_digest",
    "vector_hasher",
]

_OfSetup = KeyAdvert | Encapsulated | Encapsulation | Keys | Established
_OfSites = Offer | Chunk | Lock | Reveal | Shares
_OfCoordinators = Announce | Grant | LockRequest | RevealRequest | SharesRequest | Outcome | TotalChunk
Message = _OfSetup | _OfSites | _OfCoordinators

_MESSAGES: Mapping[int, type[Message]] = {
    kind.TYPE: kind
    for kind in (
        *(KeyAdvert, Encapsulated, Encapsulation, Keys, Established),
        *(Offer, Chunk, Lock, Reveal, Shares),
        *(Announce, Grant, LockRequest, RevealRequest, SharesRequest, Outcome, TotalChunk),
    )
}


def decode(frame: bytes) -> Message:
    """Read one frame.

    Raises:
        MalformedMessage: another version, an unknown type, fields missing, left over, or not in canonical
            form.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"a frame of {len(frame)} bytes was sent; at most {MAX_FRAME_BYTES} are allowed")
    data = Reader(frame)
    version, kind = data.u8(), data.u8()
    if version != VERSION:
        raise MalformedMessage(
            f"a frame of protocol version {version} was sent; this site speaks {VERSION}",
            hint="upgrade the older of the two packages",
        )
    if kind not in _MESSAGES:
        raise MalformedMessage(f"a frame of unknown type {kind} was sent")
    message = _MESSAGES[kind].read(data.fixed(CTX_BYTES), data)
    data.end()
    return message


def lock_digest(ctx: bytes, session: bytes, survivors: tuple[tuple[str, bytes], ...]) -> bytes:
    """Hash what a lock signs: the step, its setup, and who survived with which upload."""
    parts = [part for name, upload_hash in survivors for part in (name.encode(), upload_hash)]
    return labelled_hash("lock", ctx, session, *parts)


def chunks_of(kind: type[Chunk] | type[TotalChunk], ctx: bytes, vector: memoryview) -> list[bytes]:
    """Return the frames that carry ``vector``'s bytes."""
    return [
        kind(ctx, index, vector[at : at + CHUNK_BYTES]).encode()
        for index, at in enumerate(range(0, len(vector), CHUNK_BYTES))
    ]


def vector_hasher(ctx: bytes) -> hashlib._Hash:
    """Return the running hash of a masked vector's bytes, to be updated with them in order."""
    return hashlib.sha256(b"tacit/secagg/vector/v2\0" + ctx)
