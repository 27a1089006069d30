"""A site's side of an epoch, sans-IO: frames and calls in, effects out.

The site trusts its own descriptors, its roster and its own randomness; everything else is checked here. A
rule broken by the coordinator or a peer raises the matching :class:`~tacit.errors.ProtocolViolation`, the
machine fails for good and forgets its secrets. An event the phase does not accept raises
:class:`~tacit.errors.IllegalEvent` and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.effects import Ended, Keep, Ready, Send, SiteEffect
from privacy.secagg.encoding import check_range
from privacy.secagg.frames import CHUNK_BYTES
from privacy.secagg.journal import Sent, StepRecord, check_new_step
from privacy.secagg.keys import KEM_SEED_BYTES, KEY_BYTES, HybridKey, PairChain, Roster, Signer
from privacy.secagg.messages import (
    Announce,
    Chunk,
    Established,
    Grant,
    Keys,
    LockRequest,
    Message,
    Outcome,
    RevealRequest,
    SharesRequest,
    TotalChunk,
    decode,
)
from privacy.secagg.parcels import Session
from privacy.secagg.phases import SiteEvent, SitePhase, site_phase_after
from privacy.secagg.setup import Setup, make_advert
from privacy.secagg.site_step import SiteStep
from privacy.secagg.surplus import Contribution
from privacy.secagg.threshold import check_threshold, survivors_required
from tacit.errors import (
    BadSignature,
    CohortTooSmall,
    DescriptorMismatch,
    IllegalEvent,
    MalformedMessage,
    ProtocolViolation,
)

_EVENTS: Mapping[type[Message], SiteEvent] = {
    Keys: SiteEvent.KEYS,
    Established: SiteEvent.ESTABLISHED,
    Announce: SiteEvent.ANNOUNCE,
    Grant: SiteEvent.GRANT,
    LockRequest: SiteEvent.LOCK_REQUEST,
    RevealRequest: SiteEvent.REVEAL_REQUEST,
    SharesRequest: SiteEvent.SHARES_REQUEST,
    Outcome: SiteEvent.OUTCOME,
    TotalChunk: SiteEvent.TOTAL_CHUNK,
}
_OF_THE_EPOCH = (Keys, Established)


class SiteMachine:
    """One site in one epoch: a key setup and the steps on it.

    Args:
        name: this site.
        signer: its identity.
        roster: every site of the cohort and its pinned identity.
        descriptor: the first step this site was ordered to take, built by itself from its own order.
        random_bytes: cryptographically secure randomness; replaced in tests only.
        last_step: the last step of this run that this site sent anything in, from what :class:`Keep` left behind.

    Raises:
        CohortTooSmall: the descriptor's threshold protects nobody (:func:`check_threshold`).
        EncodingRange: the descriptor's encoding could wrap.
        BadSignature: a cohort member has no identity in the roster.
        DescriptorMismatch: this site is not in the cohort.
        RepeatedStep: this site took this step, or a later one, before.
    """

    def __init__(
        self,
        name: str,
        signer: Signer,
        roster: Roster,
        descriptor: StepDescriptor,
        random_bytes: Callable[[int], bytes] = os.urandom,
        *,
        last_step: int = 0,
    ) -> None:
        check_threshold(len(descriptor.cohort), descriptor.threshold, descriptor.collusion_bound)
        check_range(descriptor.scale, descriptor.value_bound, len(descriptor.cohort), descriptor.ring_bits)
        check_new_step(name, descriptor.run_id, descriptor.step, last_step)
        if name not in descriptor.cohort:
            raise DescriptorMismatch(f"{name} is not in the cohort {list(descriptor.cohort)} of the step")
        unknown = [member for member in descriptor.cohort if member not in roster]
        if unknown:
            raise BadSignature(
                f"the cohort names {', '.join(unknown)}, which the roster does not know", peer=unknown[0]
            )
        self.name = name
        self._descriptor = descriptor
        self._epoch_ctx = descriptor.epoch_ctx()
        self._ctx = descriptor.ctx()
        self._required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._signer = signer
        self._roster = roster
        self._random_bytes = random_bytes
        self._phase = SitePhase.NEW
        #: the descriptor of an ended step is not expected again
        self._is_expecting = True
        self._key: HybridKey | None = None
        self._advert = b""
        self._setup: Setup | None = None
        self._setup_hash = b""
        self._chains: dict[str, PairChain] = {}
        self._step: SiteStep | None = None
        self._chunks: list[Chunk] = []
        self._survivors: tuple[str, ...] = ()
        self._total = bytearray()

    @property
    def phase(self) -> SitePhase:
        """Where this site is in the epoch."""
        return self._phase

    @property
    def descriptor(self) -> StepDescriptor:
        """The step this site is in, expects, or took last."""
        return self._descriptor

    def start(self) -> list[SiteEffect]:
        """Draw this epoch's keys and send their signed advert.

        Raises:
            IllegalEvent: the machine was started before.
        """
        after = site_phase_after(self._phase, SiteEvent.START)
        self._key = HybridKey(self._random_bytes(KEY_BYTES + KEM_SEED_BYTES))
        self._advert = make_advert(self._descriptor, self.name, self._key, self._signer)
        self._phase = after
        return [Send(self._advert)]

    def expect(self, descriptor: StepDescriptor) -> None:
        """Say which step this site is to take next, after one has ended.

        Raises:
            IllegalEvent: the setup or a step is under way.
            DescriptorMismatch: a step of another epoch.
            RepeatedStep: not a later step.
        """
        after = site_phase_after(self._phase, SiteEvent.EXPECT)
        if descriptor.epoch_ctx() != self._epoch_ctx:
            raise DescriptorMismatch("the next step belongs to another epoch than the one that was set up")
        check_new_step(self.name, descriptor.run_id, descriptor.step, self._descriptor.step)
        self._descriptor, self._ctx = descriptor, descriptor.ctx()
        self._is_expecting = True
        self._phase = after

    def receive(self, frame: bytes) -> list[SiteEffect]:
        """Take one frame of the coordinator.

        Raises:
            IllegalEvent: a well-formed message this phase does not accept; nothing changed.
            ProtocolViolation: a rule was broken, by kind; the machine has failed and forgotten its secrets.
        """
        if self._phase is SitePhase.FAILED:
            raise IllegalEvent(f"{self.name} has failed this epoch and takes no more messages")
        try:
            return self._receive(frame)
        except ProtocolViolation:
            self._forget()
            self._phase = SitePhase.FAILED
            raise

    def upload(self, contribution: Contribution) -> list[SiteEffect]:
        """Mask the encoded vector and send it: at once if the coordinator granted room, else its offer first.

        Args:
            contribution: its vector is masked in place, and kept until it is sent.

        Raises:
            IllegalEvent: not ready, or uploaded before.
            EncodingRange: another type or length than the descriptor's.
        """
        after = site_phase_after(self._phase, SiteEvent.UPLOAD)
        self._descriptor.ring.check(contribution.vector, self._descriptor.length)
        upload = self._taken().mask(contribution)
        self._phase = after
        effects: list[SiteEffect] = [self._keep(Sent.UPLOADED, upload.upload_hash), Send(upload.offer)]
        if after is SitePhase.UPLOADED:
            return effects + [Send(chunk) for chunk in upload.chunks]
        self._chunks = upload.chunks
        return effects

    def _receive(self, frame: bytes) -> list[SiteEffect]:
        message = decode(frame)
        if type(message) not in _EVENTS:
            raise MalformedMessage(f"a site was sent a message only sites send: {type(message).__name__}")
        if isinstance(message, Announce) and self._phase is SitePhase.IDLE and not self._is_expecting:
            raise IllegalEvent(f"{self.name} was announced a step before it expects one")
        self._check_ctx(message)
        if isinstance(message, LockRequest) and self._step is not None:
            self._step.refuse_second_lock(message)
        after = site_phase_after(self._phase, _EVENTS[type(message)])
        effects: list[SiteEffect] = []
        match message:
            case Keys():
                effects = self._take_keys(message)
            case Established():
                self._establish(message)
            case Announce():
                effects = self._announced(message)
            case Grant():
                effects = [Send(chunk) for chunk in self._chunks]
                self._chunks = []
            case LockRequest():
                sent = self._taken().lock(message)
                effects = [self._keep(Sent.LOCKED, self._taken().lock_digest), Send(sent)]
            case RevealRequest():
                sent = self._taken().reveal(message)
                effects = [self._keep(Sent.REVEALED, self._taken().lock_digest), Send(sent)]
            case SharesRequest():
                effects = [Send(self._taken().share(message))]
            case Outcome():
                after, effects = self._end(message)
            case TotalChunk():
                after, effects = self._take_total(message)
            case _:
                raise AssertionError(message)
        self._phase = after
        return effects

    def _check_ctx(self, message: Message) -> None:
        expected = self._epoch_ctx if isinstance(message, _OF_THE_EPOCH) else self._ctx
        if message.ctx == expected:
            return
        if isinstance(message, Announce):
            self._descriptor.check_announced(message.descriptor)
        if isinstance(message, Keys):
            self._descriptor.check_announced_epoch(message.epoch)
        raise DescriptorMismatch("a message of another step or epoch was sent into this one")

    # The key setup.

    def _take_keys(self, message: Keys) -> list[SiteEffect]:
        """My epoch, byte for byte; every key signed by its owner for this very setup."""
        self._descriptor.check_announced_epoch(message.epoch)
        setup = Setup(self._descriptor, self._roster, message.adverts, self.name, self._advert)
        self._check_enough(len(setup.adverts), "sent their keys", setup.adverts)
        self._setup = setup
        return [Send(setup.encapsulated(self._signer))]

    def _establish(self, message: Established) -> None:
        assert self._setup is not None
        assert self._key is not None
        self._check_enough(len(message.joined), "joined", message.joined)
        self._chains = self._setup.chains(self._key, message)
        self._setup_hash = self._setup.hash
        self._key = self._setup = None

    # A step.

    def _announced(self, message: Announce) -> list[SiteEffect]:
        """R0: my descriptor, byte for byte, and participants that I share a chain with."""
        self._descriptor.check_announced(message.descriptor)
        participants = message.participants
        strangers = [name for name in participants if name not in self._chains and name != self.name]
        if strangers or self.name not in participants:
            raise DescriptorMismatch(
                f"the step was announced with {', '.join(participants)}; {self.name} shares keys with "
                f"{', '.join(self._chains)}",
                peer=strangers[0] if strangers else None,
            )
        self._check_enough(len(participants), "take part", participants)
        session = Session.of(self._descriptor, self._setup_hash, participants)
        step = self._descriptor.step
        # every chain moves on, also those of sites that are not in this step: its keys must not be had again
        keys = {name: chain.step_key(step, session.ctx, session.hash) for name, chain in self._chains.items()}
        self._step = SiteStep(
            self.name,
            self._signer,
            self._roster,
            self._descriptor,
            session,
            {name: key for name, key in keys.items() if name in participants},
            self._random_bytes,
        )
        self._is_expecting = False
        return [Ready(step, participants)]

    def _end(self, message: Outcome) -> tuple[SitePhase, list[SiteEffect]]:
        self._taken().check_outcome(message)
        self._taken().forget()
        self._step = None
        self._chunks = []
        if message.survivors and self._descriptor.step < self._descriptor.last_step:
            self._survivors, self._total = message.survivors, bytearray()
            return SitePhase.RECEIVING, []
        return SitePhase.IDLE, [Ended(self._descriptor.step, message.survivors, message.reason)]

    def _take_total(self, message: TotalChunk) -> tuple[SitePhase, list[SiteEffect]]:
        left = self._descriptor.vector_bytes - len(self._total)
        index, expected = len(self._total) // CHUNK_BYTES, min(CHUNK_BYTES, left)
        if message.index != index or len(message.payload) != expected:
            raise MalformedMessage(
                f"piece {message.index} of the sum came with {len(message.payload)} bytes; expected piece {index} of "
                f"{expected}"
            )
        self._total += message.payload
        if left > expected:
            return SitePhase.RECEIVING, []
        total = np.frombuffer(bytes(self._total), dtype=self._descriptor.ring.dtype)
        self._total = bytearray()
        return SitePhase.IDLE, [Ended(self._descriptor.step, self._survivors, "", total)]

    def _check_enough(self, count: int, what: str, names: Mapping[str, object] | tuple[str, ...]) -> None:
        if count < self._required:
            raise CohortTooSmall(
                f"only {count} sites {what} ({', '.join(names)}); this step needs {self._required}",
                hint="start the missing sites, then run the round again",
            )

    def _keep(self, sent: Sent, digest: bytes) -> Keep:
        descriptor = self._descriptor
        return Keep(StepRecord(descriptor.run_id, descriptor.epoch, descriptor.step, sent, digest.hex()))

    def _taken(self) -> SiteStep:
        assert self._step is not None
        return self._step

    def _forget(self) -> None:
        self._key = self._setup = None
        self._chains.clear()
        self._chunks = []
        if self._step is not None:
            self._step.forget()
