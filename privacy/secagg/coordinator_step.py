"""What a coordinator does in one step: add masked vectors, relay locks, open the sum of the survivors.

It holds what sites sent in the step and checks it; who may send what when, and when a phase closes, is the
machine's concern (:mod:`privacy.secagg.coordinator`). Everything is checked before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.encoding import check_sum
from privacy.secagg.keys import LOCK_CONTEXT, Roster, verify
from privacy.secagg.keystream import add_masks
from privacy.secagg.messages import (
    Chunk,
    DeliveredParcel,
    Lock,
    LockRequest,
    Offer,
    Reveal,
    RevealRequest,
    Shares,
    SharesRequest,
    lock_digest,
)
from privacy.secagg.parcels import Session
from privacy.secagg.ring import RingVector
from privacy.secagg.surplus import SurplusNoise
from privacy.secagg.unmasking import (
    CheckedReveal,
    LockedSum,
    check_reveal,
    check_shares,
    common_member,
    disagreements,
    open_masks,
)
from privacy.secagg.uploads import UploadSum, check_offer
from tacit.errors import BadShare, ConflictingLock, MalformedMessage


class CoordinatorStep:
    """The uploads, locks and reveals of one step.

    Args:
        descriptor: the step.
        roster: identities of the cohort.
        session: who takes part, under which setup.
        slots: how many vectors may be on their way at once.
        surplus: layers of noise that sites show; None where they have none.
    """

    def __init__(
        self,
        descriptor: StepDescriptor,
        roster: Roster,
        session: Session,
        slots: int,
        surplus: SurplusNoise | None = None,
    ) -> None:
        self.session = session
        self.uploads = UploadSum(descriptor, len(session.participants), slots)
        self.added: set[str] = set()
        self.locks: dict[str, Lock] = {}
        self.reveals: dict[str, CheckedReveal] = {}
        self._descriptor = descriptor
        self._roster = roster
        self._surplus = surplus
        self._offers: dict[str, Offer] = {}
        self._locked: LockedSum | None = None
        self._digest = b""
        self._surplus_seeds: dict[str, tuple[bytes, ...]] = {}
        #: shares of vanished survivors' seeds: by dealer, by holder
        self._shares: dict[str, dict[str, Mapping[str | None, bytes]]] = {}

    def take_offer(self, site: str, message: Offer) -> None:
        """R1: accept an offer and queue its vector."""
        check_offer(self._descriptor, self._roster, self.session, site, message)
        self.uploads.expect(site, message.vector_hash)
        self._offers[site] = message

    def take_chunk(self, site: str, message: Chunk) -> bool:
        """R1: take the next piece of a vector; return whether the vector is whole and added."""
        is_whole = self.uploads.take(site, message)
        if is_whole:
            self.added.add(site)
        return is_whole

    def close_uploads(self) -> dict[str, LockRequest]:
        """R2: fix the survivors; return what each of them is asked to sign.

        Raises:
            BadShare: two sites committed to different masks for their pair; names one that is in every such pair.
        """
        session = self.session
        survivors = tuple(name for name in session.participants if name in self.added)
        locked = LockedSum(session, self._offers, survivors)
        pairs = disagreements(locked)
        if pairs:
            blamed = common_member(pairs)
            raise BadShare(
                "sites committed to different masks for the same pair: "
                + ", ".join(f"{low} and {high}" for low, high in pairs)
                + (f"; {blamed} is in every such pair" if blamed else ""),
                peer=blamed,
            )
        hashes = tuple((name, self._offers[name].upload_hash()) for name in survivors)
        self._locked = locked
        self._digest = lock_digest(session.ctx, session.hash, hashes)
        requests = {}
        for name in survivors:
            parcels = tuple(
                DeliveredParcel(dealer, parcel.row_digest, parcel.box)
                for dealer in survivors
                if dealer != name
                for parcel in [locked.parcel(dealer, name)]
            )
            requests[name] = LockRequest(session.ctx, hashes, parcels)
        return requests

    def take_lock(self, site: str, message: Lock) -> None:
        """R2: accept a site's signature on the survivors."""
        if message.digest != self._digest:
            raise ConflictingLock(f"{site} signed another survivor set than the one it was sent", peer=site)
        verify(self._roster, site, LOCK_CONTEXT, message.digest, message.signature)
        self.locks[site] = message

    def reveal_request(self) -> RevealRequest:
        """R3: a quorum of signatures. As many as a site needs and no more: each costs every site a verification."""
        quorum = sorted(self.locks)[: self._descriptor.threshold]
        signatures = tuple((name, self.locks[name].signature) for name in quorum)
        return RevealRequest(self.session.ctx, self._digest, signatures)

    def take_reveal(self, site: str, message: Reveal) -> None:
        """R3: accept a site's own seeds."""
        if message.digest != self._digest:
            raise ConflictingLock(f"{site} revealed for another lock than the step's", peer=site)
        seeds = check_reveal(self._sum(), site, message)
        shown = self._layers_shown()
        if len(message.surplus_seeds) != shown:
            raise MalformedMessage(
                f"{site} showed {len(message.surplus_seeds)} layers of its noise; expected {shown}", peer=site
            )
        self.reveals[site] = seeds
        self._surplus_seeds[site] = message.surplus_seeds

    def vanished(self) -> tuple[str, ...]:
        """Survivors whose seeds have to be rebuilt: they have not revealed them (yet)."""
        return () if self._locked is None else tuple(n for n in self._locked.survivors if n not in self.reveals)

    def shares_request(self) -> SharesRequest:
        """R3: ask for the shares of the vanished."""
        self._shares = {dealer: {} for dealer in self.vanished()}
        return SharesRequest(self.session.ctx, self._digest, self.vanished())

    def take_shares(self, site: str, message: Shares) -> None:
        """R3: accept a site's shares of the vanished sites' seeds."""
        if message.digest != self._digest:
            raise ConflictingLock(f"{site} sent shares for another lock than the step's", peer=site)
        found = check_shares(self._sum(), site, message, self._shares)
        for dealer, shares in found.items():
            self._shares[dealer][site] = shares

    def has_enough_shares(self) -> bool:
        """Whether every vanished site's seeds can be rebuilt."""
        return all(len(held) >= self._descriptor.threshold for held in self._shares.values())

    def open(self) -> RingVector:
        """Subtract the masks and the noise that was shown to be surplus; return the sum of the survivors' vectors, ring
        elements [d].

        Raises:
            BadShare: a vanished site dealt shares of other seeds than it committed to; names it.
            StepBurnt: too few shares of a vanished site's seeds; names it.
            EncodingRange: the masks did not cancel, or a site sent values beyond the bound.
        """
        locked = self._sum()
        plus, minus = open_masks(locked, self.reveals, self._shares)
        total = self.uploads.total
        add_masks(total, plus=plus, minus=minus)
        descriptor = self._descriptor
        check_sum(total, descriptor.scale, descriptor.value_bound, len(locked.survivors), descriptor.ring_bits)
        if self._surplus is not None:
            self._surplus.take_off(total, [pair for seeds in self._surplus_seeds.values() for pair in enumerate(seeds)])
        return total

    def survivors(self) -> tuple[str, ...]:
        """The sites whose vectors are in the sum, once the uploads are closed."""
        return self._sum().survivors

    def complaints(self) -> list[str]:
        """Who could not use whose shares, in words."""
        return [
            f"{name} could not use the shares of {', '.join(lock.complaints)}"
            for name, lock in self.locks.items()
            if lock.complaints
        ]

    def _layers_shown(self) -> int:
        if self._surplus is None:
            return 0
        return sum(needed <= len(self._sum().survivors) for needed in self._surplus.survivors)

    def _sum(self) -> LockedSum:
        assert self._locked is not None
        return self._locked
