"""What a site does in one step: mask, lock one survivor set, reveal behind a quorum. It knows no order of events.

Everything here belongs to the step and is forgotten with it. Rules that a coordinator or a peer breaks raise the
matching :class:`~tacit.errors.ProtocolViolation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.keys import LOCK_CONTEXT, UPLOAD_CONTEXT, Roster, Signer, StepKey, commit_self, verify
from privacy.secagg.keystream import SEED_BYTES, Masks
from privacy.secagg.messages import (
    CHUNK_BYTES,
    Chunk,
    Lock,
    LockRequest,
    Offer,
    Outcome,
    Reveal,
    RevealRequest,
    Shares,
    SharesRequest,
    lock_digest,
    vector_hasher,
)
from privacy.secagg.parcels import Row, Session, deal, open_parcel, redact
from privacy.secagg.surplus import Contribution, SurplusLayer
from privacy.secagg.threshold import survivors_required
from tacit.errors import (
    BadShare,
    BadSignature,
    CohortTooSmall,
    ConflictingLock,
    DescriptorMismatch,
    MalformedMessage,
)


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What protects this site's vector: forgotten as soon as the step no longer needs it."""

    self_seed: bytes
    keys: Mapping[str, StepKey]
    pair_seeds: Mapping[str, bytes]
    surplus: tuple[SurplusLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class _Locked:
    """The one survivor set this site signed, and its shares of their seeds."""

    digest: bytes
    survivors: tuple[tuple[str, bytes], ...]
    rows: Mapping[str, Row]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.survivors)


@dataclass(frozen=True, slots=True)
class Upload:
    """A masked vector, ready to be sent."""

    offer: bytes
    chunks: list[Chunk]
    upload_hash: bytes


class SiteStep:
    """One site in one step.

    Args:
        name: this site.
        signer: its identity.
        roster: identities of the cohort.
        descriptor: the step.
        session: who takes part, under which setup.
        keys: what this site shares with each other participant in this step.
        random_bytes: cryptographically secure randomness.
    """

    def __init__(
        self,
        name: str,
        signer: Signer,
        roster: Roster,
        descriptor: StepDescriptor,
        session: Session,
        keys: Mapping[str, StepKey],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.name = name
        self.session = session
        self.upload_hash = b""
        self._descriptor = descriptor
        self._required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._signer = signer
        self._roster = roster
        self._random_bytes = random_bytes
        self._secrets: _Secrets | None = _Secrets(
            self_seed=random_bytes(SEED_BYTES),
            keys=keys,
            pair_seeds={peer: key.mask_seed(name, peer) for peer, key in keys.items()},
        )
        self._locked: _Locked | None = None

    @property
    def lock_digest(self) -> bytes:
        """The digest of the lock this site signed; empty before."""
        return b"" if self._locked is None else self._locked.digest

    def mask(self, contribution: Contribution) -> Upload:
        """R1: mask a vector of the ring, [d], in place, and leave the peers what opens the masks when this site is
        gone."""
        session, secrets = self.session, replace(self._kept(), surplus=contribution.surplus)
        self._secrets = secrets
        # Every site adds a pair's mask or subtracts it by the order of names, so the pair cancels in the sum.
        ring = self._descriptor.ring
        masks = Masks(
            ring,
            plus=[
                secrets.self_seed,
                *(seed for peer, seed in secrets.pair_seeds.items() if self.name < peer),
            ],
            minus=[seed for peer, seed in secrets.pair_seeds.items() if peer < self.name],
        )
        hasher = vector_hasher(session.ctx)
        chunks = []
        # one chunk at a time is masked and hashed while it is in the processor's cache
        vector = np.require(contribution.vector, requirements=("C", "W"))
        step = CHUNK_BYTES // ring.size_bytes
        for index, start in enumerate(range(0, self._descriptor.length, step)):
            piece = vector[start : start + step]
            masks.add_to(piece)
            data = piece.data.cast("B")
            hasher.update(data)
            chunks.append(Chunk(session.ctx, index, data))
        offer = Offer(
            ctx=session.ctx,
            session=session.hash,
            name=self.name,
            length=self._descriptor.length,
            vector_hash=hasher.digest(),
            self_commitment=commit_self(session.ctx, session.hash, self.name, secrets.self_seed),
            parcels=deal(session, self.name, secrets.self_seed, secrets.pair_seeds, secrets.keys, self._random_bytes),
            signature=b"",
        )
        signed = offer.signed_part()
        signature = self._signer.sign(UPLOAD_CONTEXT, signed)
        self.upload_hash = offer.upload_hash()
        return Upload(signed + signature, chunks, self.upload_hash)

    def lock(self, message: LockRequest) -> bytes:
        """R2: sign one survivor set, with my own upload in it, large enough to hide me; return the frame.

        Raises:
            DescriptorMismatch, ConflictingLock, CohortTooSmall, MalformedMessage: this set must not be signed.
        """
        session, secrets = self.session, self._kept()
        survivors = dict(message.survivors)
        strangers = [name for name in survivors if name not in session.participants]
        if strangers:
            raise DescriptorMismatch(
                f"{', '.join(strangers)} does not take part in this step and cannot survive it", peer=strangers[0]
            )
        if survivors.get(self.name) != self.upload_hash:
            raise ConflictingLock(
                f"the survivors leave {self.name} out, or name another upload than the one it sent",
                hint="an upload that came too late is not in the sum; otherwise the coordinator is lying",
            )
        if len(survivors) < self._required:
            raise CohortTooSmall(
                f"only {len(survivors)} survived ({', '.join(survivors)}); this step needs {self._required}"
            )
        rows: dict[str, Row] = {}
        for parcel in message.parcels:
            if parcel.dealer not in survivors or parcel.dealer == self.name:
                raise MalformedMessage(f"shares of {parcel.dealer} came, which is no other survivor")
            try:
                rows[parcel.dealer] = open_parcel(
                    session,
                    parcel.dealer,
                    self.name,
                    parcel.row_digest,
                    parcel.box,
                    secrets.keys[parcel.dealer],
                )
            except BadShare:
                # Not fatal: it costs the step only if that dealer vanishes. The complaint names it.
                continue
        digest = lock_digest(session.ctx, session.hash, message.survivors)
        complaints = tuple(name for name in survivors if name not in rows and name != self.name)
        signature = self._signer.sign(LOCK_CONTEXT, digest)
        self._locked = _Locked(digest, message.survivors, rows)
        return Lock(session.ctx, digest, complaints, signature).encode()

    def refuse_second_lock(self, message: LockRequest) -> None:
        """A site locks once a step, whatever else it is asked.

        Raises:
            ConflictingLock: another survivor set than the one it signed.
        """
        if self._locked is not None and message.survivors != self._locked.survivors:
            names = ", ".join(name for name, _ in message.survivors)
            raise ConflictingLock(
                f"a second survivor set ({names}) was asked for; {self.name} locked "
                f"{', '.join(self._locked.names)} and locks once a step"
            )

    def reveal(self, message: RevealRequest) -> bytes:
        """R3: only behind a quorum on the lock I signed; my own b, k of the dropped, and what of my noise is surplus
        over as many survivors as I locked. Return the frame.

        The seeds are forgotten; shares of others' are kept until :meth:`forget`.

        Raises:
            ConflictingLock, BadSignature, CohortTooSmall: nothing is revealed.
        """
        session, secrets, locked = self.session, self._kept(), self._signed()
        if message.digest != locked.digest:
            raise ConflictingLock(f"a reveal for another lock than the one {self.name} signed was asked for")
        for signatory, signature in message.signatures:
            if signatory not in locked.names:
                raise BadSignature(f"{signatory} signed a lock it is no survivor of", peer=signatory)
            verify(self._roster, signatory, LOCK_CONTEXT, locked.digest, signature)
        if len(message.signatures) < self._descriptor.threshold:
            raise CohortTooSmall(
                f"only {len(message.signatures)} sites signed the lock; {self._descriptor.threshold} must"
            )
        reveal = Reveal(
            ctx=session.ctx,
            digest=locked.digest,
            self_seed=secrets.self_seed,
            pair_seeds=tuple((name, secrets.pair_seeds[name]) for name in self._dropped()),
            surplus_seeds=tuple(layer.seed for layer in secrets.surplus if layer.survivors <= len(locked.names)),
        )
        self._secrets = None
        return reveal.encode()

    def share(self, message: SharesRequest) -> bytes:
        """R3, when survivors vanished: my shares of their b, and of their k of the dropped. Return the frame.

        What of a row may be opened follows from the lock alone, so it does not matter who is said to have vanished.

        Raises:
            ConflictingLock: for another lock.
            DescriptorMismatch: shares of a site that is no other survivor.
        """
        session, locked = self.session, self._signed()
        if message.digest != locked.digest:
            raise ConflictingLock(f"shares for another lock than the one {self.name} signed were asked for")
        wrong = [name for name in message.dealers if name not in locked.names or name == self.name]
        if wrong:
            raise DescriptorMismatch(f"shares of {', '.join(wrong)} were asked for, which is no other survivor")
        dropped = self._dropped()
        rows = tuple(
            redact(session, name, locked.rows[name], dropped) for name in message.dealers if name in locked.rows
        )
        self._locked = _Locked(locked.digest, locked.survivors, {})
        return Shares(session.ctx, locked.digest, rows).encode()

    def check_outcome(self, message: Outcome) -> None:
        """Hold what a coordinator says came of the step against what this site knows.

        Raises:
            ConflictingLock: survivors other than those this site locked, or this site among them without its lock.
            CohortTooSmall: fewer than may be summed.
            DescriptorMismatch: survivors that took no part.
        """
        if not message.survivors:
            return
        if any(name not in self.session.participants for name in message.survivors):
            raise DescriptorMismatch("the outcome names survivors that took no part in the step")
        if len(message.survivors) < self._required:
            raise CohortTooSmall(f"the outcome is a sum over {len(message.survivors)} sites; {self._required} must be")
        if self._locked is not None and message.survivors != self._locked.names:
            raise ConflictingLock(
                f"the outcome is a sum over {', '.join(message.survivors)}; {self.name} locked "
                f"{', '.join(self._locked.names)}"
            )
        if self._locked is None and self.name in message.survivors:
            raise ConflictingLock(f"the outcome is a sum with {self.name}, which locked none")

    def forget(self) -> None:
        """Drop every secret and every share. (Freed memory may keep copies; a site trusts its own machine.)"""
        self._secrets = None
        if self._locked is not None:
            self._locked = _Locked(self._locked.digest, self._locked.survivors, {})

    def _dropped(self) -> tuple[str, ...]:
        names = self._signed().names
        return tuple(name for name in self.session.participants if name not in names)

    def _kept(self) -> _Secrets:
        assert self._secrets is not None
        return self._secrets

    def _signed(self) -> _Locked:
        assert self._locked is not None
        return self._locked
