"""A site's side of one step, sans-IO: frames and calls in, effects out.

The site trusts its own descriptor, its roster and its own randomness; everything else is checked here. A
rule broken by the coordinator or a peer raises the matching :class:`~tacit.errors.ProtocolViolation`, the
machine fails for good and forgets its secrets. An event the phase does not accept raises
:class:`~tacit.errors.IllegalEvent` and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.effects import Completed, Ready, Send, SiteEffect
from privacy.secagg.encoding import check_range
from privacy.secagg.keys import (
    KEY_BYTES,
    LOCK_CONTEXT,
    UPLOAD_CONTEXT,
    EphemeralKey,
    PairRoot,
    Roster,
    Signer,
    commit_self,
    verify,
)
from privacy.secagg.keystream import SEED_BYTES, add_masks
from privacy.secagg.messages import (
    Announce,
    Grant,
    Lock,
    LockRequest,
    Message,
    Offer,
    Reveal,
    RevealRequest,
    chunks_of,
    decode,
    lock_digest,
    vector_hasher,
)
from privacy.secagg.parcels import Row, Session, deal, open_parcel, redact
from privacy.secagg.phases import SiteEvent, SitePhase, site_phase_after
from privacy.secagg.setup import agree, check_setup, make_advert
from privacy.secagg.threshold import check_threshold, survivors_required
from tacit.errors import (
    BadShare,
    BadSignature,
    CohortTooSmall,
    ConflictingLock,
    DescriptorMismatch,
    EncodingRange,
    IllegalEvent,
    MalformedMessage,
    ProtocolViolation,
)

_EVENTS: Mapping[type[Message], SiteEvent] = {
    Announce: SiteEvent.ANNOUNCE,
    Grant: SiteEvent.GRANT,
    LockRequest: SiteEvent.LOCK_REQUEST,
    RevealRequest: SiteEvent.REVEAL_REQUEST,
}


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What protects this site's vector: forgotten as soon as the step no longer needs it."""

    self_seed: bytes
    roots: Mapping[str, PairRoot]
    pair_seeds: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Locked:
    """The one survivor set this site signed."""

    digest: bytes
    survivors: tuple[tuple[str, bytes], ...]
    rows: Mapping[str, Row]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.survivors)


class SiteMachine:
    """One site in one step.

    Args:
        name: this site.
        signer: its identity.
        roster: every site of the cohort and its pinned identity.
        descriptor: the step this site was ordered to take, built by itself from its own order.
        random_bytes: cryptographically secure randomness; replaced in tests only.

    Raises:
        CohortTooSmall: the descriptor's threshold protects nobody (:func:`check_threshold`).
        EncodingRange: the descriptor's encoding could wrap.
        BadSignature: a cohort member has no identity in the roster.
        DescriptorMismatch: this site is not in the cohort.
    """

    def __init__(
        self,
        name: str,
        signer: Signer,
        roster: Roster,
        descriptor: StepDescriptor,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_threshold(len(descriptor.cohort), descriptor.threshold, descriptor.collusion_bound)
        check_range(descriptor.scale, descriptor.value_bound, len(descriptor.cohort))
        if name not in descriptor.cohort:
            raise DescriptorMismatch(f"{name} is not in the cohort {list(descriptor.cohort)} of the step")
        unknown = [member for member in descriptor.cohort if member not in roster]
        if unknown:
            raise BadSignature(
                f"the cohort names {', '.join(unknown)}, which the roster does not know", peer=unknown[0]
            )
        self.name = name
        self.descriptor = descriptor
        self._ctx = descriptor.ctx()
        self._required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._signer = signer
        self._roster = roster
        self._random_bytes = random_bytes
        self._phase = SitePhase.NEW
        self._key: EphemeralKey | None = None
        self._advert = b""
        self._session: Session | None = None
        self._secrets: _Secrets | None = None
        self._upload_hash = b""
        self._chunks: list[bytes] = []
        self._locked: _Locked | None = None

    @property
    def phase(self) -> SitePhase:
        """Where this site is in the step."""
        return self._phase

    def start(self) -> list[SiteEffect]:
        """Draw this session's key and send its signed advert.

        Raises:
            IllegalEvent: the machine was started before.
        """
        after = site_phase_after(self._phase, SiteEvent.START)
        self._key = EphemeralKey(self._random_bytes(KEY_BYTES))
        self._advert = make_advert(self.descriptor, self.name, self._key.public_bytes, self._signer)
        self._phase = after
        return [Send(self._advert)]

    def receive(self, frame: bytes) -> list[SiteEffect]:
        """Take one frame of the coordinator.

        Raises:
            IllegalEvent: a well-formed message this phase does not accept; nothing changed.
            ProtocolViolation: a rule was broken, by kind; the machine has failed and forgotten its secrets.
        """
        if self._phase is SitePhase.FAILED:
            raise IllegalEvent(f"{self.name} has failed this step and takes no more messages")
        try:
            return self._receive(frame)
        except ProtocolViolation:
            self._forget()
            self._phase = SitePhase.FAILED
            raise

    def upload(self, encoded: npt.NDArray[np.uint32]) -> list[SiteEffect]:
        """Mask the encoded vector and send it: at once if the coordinator granted room, else its offer first.

        Args:
            encoded: uint32, shape [d], from :func:`privacy.secagg.encoding.encode`. Not modified, not kept.

        Raises:
            IllegalEvent: not ready, or uploaded before.
            EncodingRange: another type or length than the descriptor's.
        """
        after = site_phase_after(self._phase, SiteEvent.UPLOAD)
        expected = (self.descriptor.length,)
        if encoded.dtype != np.uint32 or encoded.shape != expected:
            raise EncodingRange(
                f"got {encoded.dtype}{list(encoded.shape)}; this step sums uint32[{self.descriptor.length}]"
            )
        session, secrets = self._open_session()
        # Every site adds a pair's mask or subtracts it by the order of names, so the pair cancels in the sum.
        masked = np.array(encoded, dtype="<u4", order="C", copy=True)
        add_masks(
            masked,
            plus=[
                secrets.self_seed,
                *(seed for peer, seed in secrets.pair_seeds.items() if self.name < peer),
            ],
            minus=[seed for peer, seed in secrets.pair_seeds.items() if peer < self.name],
        )
        vector = masked.data.cast("B")
        hasher = vector_hasher(self._ctx)
        hasher.update(vector)
        offer = Offer(
            ctx=self._ctx,
            session=session.hash,
            name=self.name,
            length=self.descriptor.length,
            vector_hash=hasher.digest(),
            self_commitment=commit_self(self._ctx, session.hash, self.name, secrets.self_seed),
            parcels=deal(session, self.name, secrets.self_seed, secrets.pair_seeds, secrets.roots, self._random_bytes),
            signature=b"",
        )
        signed = offer.signed_part()
        signature = self._signer.sign(UPLOAD_CONTEXT, signed)
        chunks = chunks_of(self._ctx, vector)
        self._upload_hash = offer.upload_hash()
        self._phase = after
        if after is SitePhase.UPLOADED:
            return [Send(signed + signature), *map(Send, chunks)]
        self._chunks = chunks
        return [Send(signed + signature)]

    def _receive(self, frame: bytes) -> list[SiteEffect]:
        message = decode(frame)
        if message.ctx != self._ctx:
            if isinstance(message, Announce):
                self.descriptor.check_announced(message.descriptor)
            raise DescriptorMismatch("a message of another step was sent into this one")
        if isinstance(message, LockRequest) and self._locked is not None:
            self._refuse_second_lock(message)
        if type(message) not in _EVENTS:
            raise MalformedMessage(f"a site was sent a message only sites send: {type(message).__name__}")
        after = site_phase_after(self._phase, _EVENTS[type(message)])
        match message:
            case Announce():
                effects = self._announced(message)
            case LockRequest():
                effects = self._lock(message)
            case RevealRequest():
                effects = self._reveal(message)
            case _:
                effects = [Send(chunk) for chunk in self._chunks]
                self._chunks = []
        self._phase = after
        return effects

    def _announced(self, message: Announce) -> list[SiteEffect]:
        """R0: my descriptor, byte for byte; every key signed by its owner for this very session."""
        assert self._key is not None
        self.descriptor.check_announced(message.descriptor)
        adverts = check_setup(self.descriptor, self._roster, message.adverts, self.name, self._advert)
        if len(adverts) < self._required:
            raise CohortTooSmall(
                f"only {len(adverts)} sites joined ({', '.join(adverts)}); this step needs {self._required}",
                hint="start the missing sites, then run the round again",
            )
        roots = agree(self._key, self._ctx, self.name, adverts)
        self._session = Session.of(self.descriptor, adverts)
        self._secrets = _Secrets(
            self_seed=self._random_bytes(SEED_BYTES),
            roots=roots,
            pair_seeds={peer: root.mask_seed(self._ctx, self.name, peer) for peer, root in roots.items()},
        )
        self._key = None
        return [Ready(tuple(adverts))]

    def _lock(self, message: LockRequest) -> list[SiteEffect]:
        """R2: sign one survivor set, with my own upload in it, large enough to hide me."""
        session, secrets = self._open_session()
        survivors = dict(message.survivors)
        strangers = [name for name in survivors if name not in session.joined]
        if strangers:
            raise DescriptorMismatch(
                f"{', '.join(strangers)} did not join this step and cannot survive it", peer=strangers[0]
            )
        if survivors.get(self.name) != self._upload_hash:
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
                    secrets.roots[parcel.dealer],
                )
            except BadShare:
                # Not fatal: it costs the step only if that dealer vanishes. The complaint names it.
                continue
        digest = lock_digest(self._ctx, session.hash, message.survivors)
        complaints = tuple(name for name in survivors if name not in rows and name != self.name)
        signature = self._signer.sign(LOCK_CONTEXT, digest)
        self._locked = _Locked(digest, message.survivors, rows)
        return [Send(Lock(self._ctx, digest, complaints, signature).encode())]

    def _refuse_second_lock(self, message: LockRequest) -> None:
        assert self._locked is not None
        if message.survivors != self._locked.survivors:
            names = ", ".join(name for name, _ in message.survivors)
            raise ConflictingLock(
                f"a second survivor set ({names}) was asked for; {self.name} locked "
                f"{', '.join(self._locked.names)} and locks once a step"
            )

    def _reveal(self, message: RevealRequest) -> list[SiteEffect]:
        """R3: only behind a quorum on the lock I signed; b of the living, k of the dropped, never both."""
        session, secrets = self._open_session()
        locked = self._locked
        assert locked is not None
        if message.digest != locked.digest:
            raise ConflictingLock(f"a reveal for another lock than the one {self.name} signed was asked for")
        for signatory, signature in message.signatures:
            if signatory not in locked.names:
                raise BadSignature(f"{signatory} signed a lock it is no survivor of", peer=signatory)
            verify(self._roster, signatory, LOCK_CONTEXT, locked.digest, signature)
        if len(message.signatures) < self.descriptor.threshold:
            raise CohortTooSmall(
                f"only {len(message.signatures)} sites signed the lock; {self.descriptor.threshold} must"
            )
        dropped = tuple(name for name in session.joined if name not in locked.names)
        reveal = Reveal(
            ctx=self._ctx,
            digest=locked.digest,
            self_seed=secrets.self_seed,
            pair_seeds=tuple((name, secrets.pair_seeds[name]) for name in dropped),
            rows=tuple(redact(session, dealer, row, dropped) for dealer, row in sorted(locked.rows.items())),
        )
        effects: list[SiteEffect] = [Send(reveal.encode()), Completed(locked.names)]
        self._forget()
        return effects

    def _open_session(self) -> tuple[Session, _Secrets]:
        assert self._session is not None
        assert self._secrets is not None
        return self._session, self._secrets

    def _forget(self) -> None:
        """Drop every secret and every share. (Freed memory may keep copies; a site trusts its own machine.)"""
        self._key = None
        self._secrets = None
        self._chunks = []
        if self._locked is not None:
            self._locked = _Locked(self._locked.digest, self._locked.survivors, {})
