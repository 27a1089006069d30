"""What all frames have in common: ``version (1) | type (1) | ctx (32) | body``, and their largest size."""

from __future__ import annotations

from privacy.secagg.wire import Writer

VERSION = 3
CTX_BYTES = 32
#: Payload of every chunk of a vector but the last, which holds the rest.
CHUNK_BYTES = 1 << 20
#: No frame is longer; :data:`~privacy.secagg.threshold.MAX_COHORT` keeps every other message below a chunk.
MAX_FRAME_BYTES = CHUNK_BYTES + 64


def start_frame(kind: int, ctx: bytes) -> Writer:
    """Begin a frame of message type ``kind``; messages of a site have types below 16."""
    out = Writer()
    out.u8(VERSION)
    out.u8(kind)
    out.fixed(ctx, CTX_BYTES)
    return out
