"""Masked vectors on their way into the sum: bounded memory, and nothing added before it is verified whole.

A site's vector cannot be taken out of a sum again, so it is buffered until its last byte and its signed hash
agree, then added and freed. ``slots`` bounds how many are buffered at once; other sites wait their turn, so
the coordinator holds one accumulator and ``slots`` vectors whatever the size of the cohort.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import UPLOAD_CONTEXT, Roster, verify
from privacy.secagg.messages import CHUNK_BYTES, Chunk, Offer, vector_hasher
from privacy.secagg.parcels import Session
from privacy.secagg.ring import RingVector
from tacit.errors import BadSignature, DescriptorMismatch, MalformedMessage


@dataclass(slots=True)
class _Upload:
    """One vector on its way in; its buffer is made with its first chunk."""

    vector_hash: bytes
    hasher: hashlib._Hash
    buffer: bytearray = field(default_factory=bytearray)
    size_bytes: int = 0
    next_index: int = 0


class UploadSum:
    """The accumulator and the vectors on their way into it.

    Args:
        descriptor: the step.
        sites: how many will upload.
        slots: how many may be on their way at once.
    """

    def __init__(self, descriptor: StepDescriptor, sites: int, slots: int) -> None:
        #: ring elements, shape [d]: the sum of the complete uploads
        self.total: RingVector = np.zeros(descriptor.length, dtype=descriptor.ring.dtype)
        #: True when every site may send at once, and nobody has to be granted a turn
        self.all_fit = sites <= slots
        self._ctx = descriptor.ctx()
        self._size_bytes = descriptor.vector_bytes
        self._slots = slots
        self._waiting: dict[str, _Upload] = {}
        self._open: dict[str, _Upload] = {}

    def expect(self, site: str, vector_hash: bytes) -> None:
        """Queue a site whose vector must have ``vector_hash``."""
        self._waiting[site] = _Upload(vector_hash, vector_hasher(self._ctx))

    def next_turns(self) -> list[str]:
        """Open uploads in the order of offers while there is room; return their sites."""
        turns = list(self._waiting)[: max(0, self._slots - len(self._open))]
        for site in turns:
            self._open[site] = self._waiting.pop(site)
        return turns

    def take(self, site: str, chunk: Chunk) -> bool:
        """Take the next piece of an open upload; on the last, verify the whole, add it, and return True.

        Raises:
            MalformedMessage: a piece out of order, or of another size than its place has.
            BadSignature: the whole does not have the signed hash. Nothing was added.
        """
        upload = self._open[site]
        expected = min(CHUNK_BYTES, self._size_bytes - upload.size_bytes)
        if chunk.index != upload.next_index or len(chunk.payload) != expected:
            raise MalformedMessage(
                f"{site} sent chunk {chunk.index} of {len(chunk.payload)} bytes; "
                f"expected chunk {upload.next_index} of {expected}",
                peer=site,
            )
        if not upload.buffer:
            upload.buffer = bytearray(self._size_bytes)
        upload.buffer[upload.size_bytes : upload.size_bytes + expected] = chunk.payload
        upload.hasher.update(chunk.payload)
        upload.size_bytes += expected
        upload.next_index += 1
        if upload.size_bytes < self._size_bytes:
            return False
        if upload.hasher.digest() != upload.vector_hash:
            raise BadSignature(f"the vector {site} sent is not the one whose hash it signed", peer=site)
        self.total += np.frombuffer(upload.buffer, dtype=self.total.dtype)
        self.forget(site)
        return True

    def forget(self, site: str) -> None:
        """Free what a site has on its way, if anything."""
        self._waiting.pop(site, None)
        self._open.pop(site, None)


def check_offer(descriptor: StepDescriptor, roster: Roster, session: Session, site: str, offer: Offer) -> None:
    """Accept an offer only if ``site`` signed it for this setup and it has the form of this step.

    Raises:
        BadSignature: the roster's identity did not sign it.
        DescriptorMismatch: it belongs to another site or setup.
        MalformedMessage: another length, or shares for other sites or of another size. Every error names the
            site.
    """
    verify(roster, site, UPLOAD_CONTEXT, offer.signed_part(), offer.signature)
    if offer.name != site or offer.session != session.hash:
        raise DescriptorMismatch(f"{site}'s upload belongs to another site or setup", peer=site)
    if offer.length != descriptor.length:
        raise MalformedMessage(
            f"{site} offers {offer.length} coordinates; this step sums {descriptor.length}", peer=site
        )
    if tuple(parcel.peer for parcel in offer.parcels) != session.peers_of(site):
        raise MalformedMessage(f"{site} dealt shares for other sites than those that take part", peer=site)
    if any(len(parcel.box) != session.box_bytes() for parcel in offer.parcels):
        raise MalformedMessage(f"{site} sent a box of shares of the wrong size", peer=site)
