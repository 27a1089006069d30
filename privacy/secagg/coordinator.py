"""The coordinator's side of one step, sans-IO: sites' frames, losses and deadlines in, effects out.

It relays keys, adds masked vectors, relays locks, and opens the sum of the survivors and nothing else. Memory
is one accumulator of the vector's length and a bounded number of uploads in flight, each freed as it is added.
A site that breaks the protocol is out (:class:`Fault`); the step goes on while enough sites are left, else it is
:class:`Burnt` with a reason that names them. An event the tables do not accept raises
:class:`~tacit.errors.IllegalEvent` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.effects import Burnt, CoordinatorEffect, Fault, PhaseChanged, SendTo, SiteAt, Summed
from privacy.secagg.encoding import check_range, check_sum
from privacy.secagg.keys import LOCK_CONTEXT, Roster, verify
from privacy.secagg.keystream import add_masks
from privacy.secagg.messages import (
    Announce,
    Chunk,
    DeliveredParcel,
    Grant,
    KeyAdvert,
    Lock,
    LockRequest,
    Message,
    Offer,
    Reveal,
    RevealRequest,
    decode,
    lock_digest,
)
from privacy.secagg.parcels import Session
from privacy.secagg.phases import (
    FINAL_PHASES,
    GONE_STAGES,
    NEXT_PHASE,
    PENDING_STAGES,
    CoordinatorPhase,
    SiteMessage,
    Stage,
    stage_after,
)
from privacy.secagg.setup import check_advert
from privacy.secagg.threshold import check_threshold, survivors_required
from privacy.secagg.unmasking import (
    CheckedReveal,
    LockedSum,
    check_reveal,
    common_member,
    disagreements,
    open_masks,
)
from privacy.secagg.uploads import UploadSum, check_offer
from tacit.errors import (
    BadShare,
    BadSignature,
    ConflictingLock,
    DescriptorMismatch,
    EncodingRange,
    IllegalEvent,
    MalformedMessage,
    ProtocolViolation,
    StepBurnt,
)

_EVENTS: Mapping[type[Message], SiteMessage] = {
    KeyAdvert: SiteMessage.KEY_ADVERT,
    Offer: SiteMessage.OFFER,
    Chunk: SiteMessage.CHUNK,
    Lock: SiteMessage.LOCK,
    Reveal: SiteMessage.REVEAL,
}


@dataclass(slots=True)
class _Site:
    """What the coordinator knows of one site in this step."""

    name: str
    stage: Stage = Stage.WAITING
    advert: bytes = b""
    offer: Offer | None = None
    is_added: bool = False
    lock: Lock | None = None
    gone_because: str = ""


@dataclass(slots=True)
class _Sum:
    """The accumulator, once the setup is closed."""

    session: Session
    uploads: UploadSum
    locked: LockedSum | None = None
    digest: bytes = b""
    reveals: dict[str, CheckedReveal] = field(default_factory=dict)


class CoordinatorMachine:
    """One step at the coordinator.

    Args:
        roster: every site of the cohort and its pinned identity.
        descriptor: the step.
        open_uploads_bytes: memory for vectors in flight. When not all sites fit at once, they take turns; one
            always fits.

    Raises:
        CohortTooSmall, EncodingRange: no site would take this step.
        BadSignature: a cohort member has no identity in the roster.
    """

    def __init__(self, roster: Roster, descriptor: StepDescriptor, *, open_uploads_bytes: int = 256 * 2**20) -> None:
        check_threshold(len(descriptor.cohort), descriptor.threshold, descriptor.collusion_bound)
        check_range(descriptor.scale, descriptor.value_bound, len(descriptor.cohort))
        for name in descriptor.cohort:
            if name not in roster:
                raise BadSignature(f"the cohort names {name}, which the roster does not know", peer=name)
        self.descriptor = descriptor
        self._ctx = descriptor.ctx()
        self._required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._slots = max(1, open_uploads_bytes // (4 * descriptor.length))
        self._roster = roster
        self._phase = CoordinatorPhase.SETUP
        self._sites = {name: _Site(name) for name in descriptor.cohort}
        self._sum: _Sum | None = None

    @property
    def phase(self) -> CoordinatorPhase:
        """Where the step is."""
        return self._phase

    @property
    def stages(self) -> Mapping[str, Stage]:
        """How far each site of the cohort has come."""
        return {name: site.stage for name, site in self._sites.items()}

    def receive(self, site: str, frame: bytes) -> list[CoordinatorEffect]:
        """Take one frame from ``site``, whose name the transport has authenticated.

        Raises:
            IllegalEvent: not in the cohort, out of the step, or a message not accepted now; nothing changed.
        """
        record = self._record(site)
        if self._phase in FINAL_PHASES or record.stage in GONE_STAGES:
            raise IllegalEvent(
                f"{site} is {record.stage} in a step that is {self._phase}; nothing is accepted from it",
                hint="close its stream",
            )
        try:
            message = decode(frame)
            if type(message) not in _EVENTS:
                raise MalformedMessage(f"{site} sent a message only coordinators send", peer=site)
        except MalformedMessage as error:
            return self._fault(record, error)
        after = stage_after(self._phase, site, record.stage, _EVENTS[type(message)])
        try:
            effects = self._take(record, message, frame, after)
        except ProtocolViolation as error:
            return self._fault(record, error)
        return effects + self._advance()

    def lost(self, site: str, reason: str = "its connection broke") -> list[CoordinatorEffect]:
        """A site is gone for good. Harmless when it has revealed, is out already, or the step has ended.

        Raises:
            IllegalEvent: not in the cohort.
        """
        record = self._record(site)
        if self._phase in FINAL_PHASES or record.stage in (*GONE_STAGES, Stage.REVEALED):
            return []
        return [*self._drop(record, Stage.LOST, reason), *self._advance()]

    def deadline(self, phase: CoordinatorPhase | None = None) -> list[CoordinatorEffect]:
        """Close the phase with the sites that have answered.

        Args:
            phase: the phase the deadline was set for; ignored if the step is in another one by now.

        Raises:
            IllegalEvent: the step has ended (and no ``phase`` was named).
        """
        if phase is not None and phase is not self._phase:
            return []
        if self._phase in FINAL_PHASES:
            raise IllegalEvent(f"a deadline passed in a step that is {self._phase}")
        effects: list[CoordinatorEffect] = []
        for record in self._pending():
            effects += self._drop(record, Stage.LOST, f"it did not finish phase {self._phase} in time")
        return effects + self._advance()

    def _record(self, site: str) -> _Site:
        if site not in self._sites:
            raise IllegalEvent(f"{site} is not in the cohort {list(self._sites)} of this step")
        return self._sites[site]

    def _pending(self) -> list[_Site]:
        return [record for record in self._sites.values() if record.stage in PENDING_STAGES[self._phase]]

    # What each message does. Everything is checked before anything changes.

    def _take(self, site: _Site, message: Message, frame: bytes, after: Stage) -> list[CoordinatorEffect]:
        if message.ctx != self._ctx and not isinstance(message, KeyAdvert):
            raise DescriptorMismatch(f"{site.name} sent a message of another step", peer=site.name)
        match message:
            case KeyAdvert():
                self._join(site, message, frame)
            case Offer():
                opened = self._opened()
                check_offer(self.descriptor, self._roster, opened.session, site.name, message)
                opened.uploads.expect(site.name, message.vector_hash)
                site.offer, site.stage = message, after
                return self._open_uploads()
            case Chunk():
                site.is_added = self._opened().uploads.take(site.name, message)
                if not site.is_added:
                    return []
                site.stage = Stage.UPLOADED
                return [SiteAt(site.name, site.stage), *self._open_uploads()]
            case Lock():
                self._lock(site, message)
            case Reveal():
                self._reveal(site, message)
            case _:
                raise AssertionError(message)
        site.stage = after
        return [SiteAt(site.name, after)]

    def _join(self, site: _Site, message: KeyAdvert, frame: bytes) -> None:
        if message.name != site.name:
            raise BadSignature(f"{site.name} sent a key in the name of {message.name}", peer=site.name)
        check_advert(self.descriptor, self._roster, message)
        site.advert = frame

    def _open_uploads(self) -> list[CoordinatorEffect]:
        """Let waiting sites send their vectors while there is room. If all fit, they were told at setup."""
        effects: list[CoordinatorEffect] = []
        uploads = self._opened().uploads
        for name in uploads.next_turns():
            self._sites[name].stage = Stage.UPLOADING
            effects.append(SiteAt(name, Stage.UPLOADING))
            if not uploads.all_fit:
                effects.append(SendTo(name, Grant(self._ctx).encode()))
        return effects

    def _lock(self, site: _Site, message: Lock) -> None:
        if message.digest != self._opened().digest:
            raise ConflictingLock(f"{site.name} signed another survivor set than the one it was sent", peer=site.name)
        verify(self._roster, site.name, LOCK_CONTEXT, message.digest, message.signature)
        site.lock = message

    def _reveal(self, site: _Site, message: Reveal) -> None:
        opened = self._opened()
        assert opened.locked is not None
        if message.digest != opened.digest:
            raise ConflictingLock(f"{site.name} revealed for another lock than the step's", peer=site.name)
        opened.reveals[site.name] = check_reveal(opened.locked, site.name, message)

    def _opened(self) -> _Sum:
        assert self._sum is not None
        return self._sum

    # How phases end.

    def _advance(self) -> list[CoordinatorEffect]:
        """Burn the step if it cannot succeed any more; close phases that wait for nobody."""
        effects: list[CoordinatorEffect] = []
        while self._phase not in FINAL_PHASES:
            shortage = self._shortage()
            if shortage:
                return effects + self._burn(shortage)
            if self._pending():
                return effects
            try:
                effects += self._close()
            except BadShare as error:
                effects += [Fault(error.peer, error)] if error.peer else []
                return effects + self._burn(error.message)
            except (EncodingRange, StepBurnt) as error:
                return effects + self._burn(error.message)
        return effects

    def _shortage(self) -> str:
        """Say why too few sites are left, or nothing."""
        added = {site.name for site in self._sites.values() if site.is_added}
        alive = {site.name for site in self._sites.values() if site.stage not in GONE_STAGES}
        if self._phase in (CoordinatorPhase.SETUP, CoordinatorPhase.UPLOAD):
            possible = alive | added
            if len(possible) < self._required:
                left = f"{len(possible)} of {len(self._sites)} sites are left{_listed(possible)}"
                return f"{left}; {self._required} must be (threshold and minimum cohort)"
        helpers = alive | set(self._opened().reveals if self._sum else ())
        if len(helpers) < self.descriptor.threshold:
            return (
                f"{len(helpers)} sites can still open the sum{_listed(helpers)}; "
                f"{self.descriptor.threshold} must (threshold)"
            )
        return ""

    def _close(self) -> list[CoordinatorEffect]:
        match self._phase:
            case CoordinatorPhase.SETUP:
                effects = self._close_setup()
            case CoordinatorPhase.UPLOAD:
                effects = self._close_upload()
            case CoordinatorPhase.LOCK:
                effects = self._close_lock()
            case _:
                effects = self._close_reveal()
        self._phase = NEXT_PHASE[self._phase]
        return [PhaseChanged(self._phase), *effects]

    def _close_setup(self) -> list[CoordinatorEffect]:
        adverts = {site.name: site.advert for site in self._sites.values() if site.stage is Stage.JOINED}
        session = Session.of(self.descriptor, adverts)
        self._sum = _Sum(session, UploadSum(self._ctx, self.descriptor.length, len(adverts), self._slots))
        frames = [Announce(self._ctx, self.descriptor.encode(), tuple(adverts.values())).encode()]
        if self._sum.uploads.all_fit:
            frames.append(Grant(self._ctx).encode())
        return [SendTo(name, frame) for name in adverts for frame in frames]

    def _close_upload(self) -> list[CoordinatorEffect]:
        opened = self._opened()
        offers = {s.name: s.offer for s in self._sites.values() if s.is_added and s.offer is not None}
        locked = LockedSum(opened.session, offers, tuple(offers))
        pairs = disagreements(locked)
        if pairs:
            blamed = common_member(pairs)
            raise BadShare(
                "sites committed to different masks for the same pair: "
                + ", ".join(f"{low} and {high}" for low, high in pairs)
                + (f"; {blamed} is in every such pair" if blamed else ""),
                peer=blamed,
            )
        survivors = tuple((name, offer.upload_hash()) for name, offer in offers.items())
        opened.locked = locked
        opened.digest = lock_digest(self._ctx, opened.session.hash, survivors)
        effects: list[CoordinatorEffect] = []
        for site in self._sites.values():
            if site.stage is Stage.UPLOADED:
                parcels = [
                    DeliveredParcel(dealer, parcel.row_digest, parcel.box)
                    for dealer in offers
                    if dealer != site.name
                    for parcel in [locked.parcel(dealer, site.name)]
                ]
                effects.append(SendTo(site.name, LockRequest(self._ctx, survivors, tuple(parcels)).encode()))
        return effects

    def _close_lock(self) -> list[CoordinatorEffect]:
        signatures = tuple((s.name, s.lock.signature) for s in self._sites.values() if s.lock is not None)
        request = RevealRequest(self._ctx, self._opened().digest, signatures).encode()
        return [SendTo(site.name, request) for site in self._sites.values() if site.stage is Stage.LOCKED]

    def _close_reveal(self) -> list[CoordinatorEffect]:
        opened = self._opened()
        assert opened.locked is not None
        plus, minus = open_masks(opened.locked, opened.reveals)
        total = opened.uploads.total
        add_masks(total, plus=plus, minus=minus)
        survivors = opened.locked.survivors
        check_sum(total, self.descriptor.scale, self.descriptor.value_bound, len(survivors))
        self._sum = None
        return [Summed(total, survivors)]

    # How sites and steps end early.

    def _fault(self, site: _Site, error: ProtocolViolation) -> list[CoordinatorEffect]:
        effects: list[CoordinatorEffect] = [Fault(site.name, error)]
        return effects + self._drop(site, Stage.FAILED, error.message) + self._advance()

    def _drop(self, site: _Site, stage: Stage, reason: str) -> list[CoordinatorEffect]:
        site.stage, site.gone_because = stage, reason
        effects: list[CoordinatorEffect] = [SiteAt(site.name, stage)]
        if self._phase is CoordinatorPhase.UPLOAD:
            self._opened().uploads.forget(site.name)
            effects += self._open_uploads()
        return effects

    def _burn(self, why: str) -> list[CoordinatorEffect]:
        gone = "; ".join(f"{s.name}: {s.gone_because}" for s in self._sites.values() if s.gone_because)
        complaints = "; ".join(
            f"{s.name} could not use the shares of {', '.join(s.lock.complaints)}"
            for s in self._sites.values()
            if s.lock is not None and s.lock.complaints
        )
        where = f"step {self.descriptor.step} of run {self.descriptor.run_id} was burnt in phase {self._phase}"
        reason = ". ".join(part for part in (f"{where}: {why}", gone, complaints) if part)
        self._phase, self._sum = CoordinatorPhase.BURNT, None
        return [PhaseChanged(self._phase), Burnt(reason)]


def _listed(names: set[str]) -> str:
    return f" ({', '.join(sorted(names))})" if names else ""
