"""The coordinator's side of an epoch, sans-IO: sites' frames, losses and deadlines in, effects out.

It relays keys, then runs one step after another: adds masked vectors, relays locks, and opens the sum of the
survivors and nothing else. Memory is one accumulator of the vector's length and a bounded number of uploads in flight,
each freed as it is added. A site that breaks the protocol is out (:class:`Fault`), one that is late is out of the step;
the step goes on while enough sites are left, else it is :class:`Burnt` with a reason that names them. An event the
tables do not accept raises :class:`~tacit.errors.IllegalEvent` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from privacy.secagg.coordinator_setup import CoordinatorSetup
from privacy.secagg.coordinator_step import CoordinatorStep
from privacy.secagg.descriptor import StepDescriptor
from privacy.secagg.effects import Burnt, CoordinatorEffect, Fault, PhaseChanged, SendTo, SiteAt, Summed
from privacy.secagg.encoding import check_range
from privacy.secagg.keys import Roster
from privacy.secagg.messages import (
    REASON_MAX_BYTES,
    Announce,
    Chunk,
    Encapsulated,
    Grant,
    KeyAdvert,
    Lock,
    Message,
    Offer,
    Outcome,
    Reveal,
    Shares,
    TotalChunk,
    chunks_of,
    decode,
)
from privacy.secagg.parcels import Session
from privacy.secagg.phases import (
    FINAL_PHASES,
    GONE_STAGES,
    PENDING_STAGES,
    SETUP_PHASES,
    CoordinatorPhase,
    SiteMessage,
    Stage,
    stage_after,
)
from privacy.secagg.ring import RingVector
from privacy.secagg.surplus import SurplusNoise
from privacy.secagg.threshold import check_threshold, survivors_required
from tacit.errors import (
    BadShare,
    BadSignature,
    DescriptorMismatch,
    EncodingRange,
    IllegalEvent,
    MalformedMessage,
    ProtocolViolation,
    StepBurnt,
)

_EVENTS: Mapping[type[Message], SiteMessage] = {
    KeyAdvert: SiteMessage.KEY_ADVERT,
    Encapsulated: SiteMessage.ENCAPSULATED,
    Offer: SiteMessage.OFFER,
    Chunk: SiteMessage.CHUNK,
    Lock: SiteMessage.LOCK,
    Reveal: SiteMessage.REVEAL,
    Shares: SiteMessage.SHARES,
}
_OF_THE_EPOCH = (KeyAdvert, Encapsulated)


@dataclass(slots=True)
class _Site:
    """What the coordinator knows of one site in this epoch."""

    name: str
    stage: Stage = Stage.WAITING
    gone_because: str = ""


class CoordinatorMachine:
    """One epoch at the coordinator: a key setup and the steps on it.

    The first step begins by itself when the setup is closed; :meth:`begin` begins the others.

    Args:
        roster: every site of the cohort and its pinned identity.
        descriptor: the first step.
        open_uploads_bytes: memory for vectors in flight. When not all sites fit at once, they take turns; one
            always fits.
        surplus: the layers of noise that sites show when many survive; None where they have none.

    Raises:
        CohortTooSmall, EncodingRange: no site would take this step.
        BadSignature: a cohort member has no identity in the roster.
    """

    def __init__(
        self,
        roster: Roster,
        descriptor: StepDescriptor,
        *,
        open_uploads_bytes: int = 128 * 2**20,
        surplus: SurplusNoise | None = None,
    ) -> None:
        check_threshold(len(descriptor.cohort), descriptor.threshold, descriptor.collusion_bound)
        check_range(descriptor.scale, descriptor.value_bound, len(descriptor.cohort), descriptor.ring_bits)
        for name in descriptor.cohort:
            if name not in roster:
                raise BadSignature(f"the cohort names {name}, which the roster does not know", peer=name)
        self._descriptor = descriptor
        self._epoch_ctx = descriptor.epoch_ctx()
        self._ctx = descriptor.ctx()
        self._required = survivors_required(descriptor.threshold, descriptor.min_cohort)
        self._slots = max(1, open_uploads_bytes // descriptor.vector_bytes)
        self._roster = roster
        self._surplus = surplus
        self._phase = CoordinatorPhase.SETUP
        self._sites = {name: _Site(name) for name in descriptor.cohort}
        self._setup = CoordinatorSetup(descriptor, roster)
        #: the setup's hash once it is closed; empty while it is not, and for good when it failed
        self._setup_hash = b""
        self._step: CoordinatorStep | None = None
        self._earlier: set[bytes] = set()
        self._has_liar = False

    @property
    def phase(self) -> CoordinatorPhase:
        """Where the epoch is."""
        return self._phase

    @property
    def descriptor(self) -> StepDescriptor:
        """The step that is under way, or ended last."""
        return self._descriptor

    @property
    def stages(self) -> Mapping[str, Stage]:
        """How far each site of the cohort has come."""
        return {name: site.stage for name, site in self._sites.items()}

    def begin(self, descriptor: StepDescriptor) -> list[CoordinatorEffect]:
        """Begin the next step with the sites that are left.

        Raises:
            IllegalEvent: not :meth:`can_begin`, or this is no later step of the epoch.
        """
        if not self.can_begin():
            raise IllegalEvent(
                f"a step cannot begin in an epoch that is {self._phase} with {len(self._left())} of "
                f"{self._required} sites left",
                hint="begin a new epoch with those that are connected",
            )
        if descriptor.epoch_ctx() != self._epoch_ctx or descriptor.step <= self._descriptor.step:
            raise IllegalEvent(f"step {descriptor.step} is no later step of this epoch")
        self._earlier.add(self._ctx)
        self._descriptor, self._ctx = descriptor, descriptor.ctx()
        for site in self._left():
            site.stage, site.gone_because = Stage.JOINED, ""
        return [*self._announce(), *self._advance()]

    def can_begin(self) -> bool:
        """Whether the setup is done and sound, no step is under way, and enough sites are left for another one."""
        is_between_steps = self._phase in FINAL_PHASES and bool(self._setup_hash)
        return is_between_steps and not self._has_liar and len(self._left()) >= self._required

    def receive(self, site: str, frame: bytes) -> list[CoordinatorEffect]:
        """Take one frame from ``site``, whose name the transport has authenticated.

        What comes late, for a step that is over or from a site that is out of this one, is passed over.

        Raises:
            IllegalEvent: not in the cohort, out of the epoch, or a message not accepted now; nothing changed.
        """
        record = self._record(site)
        if record.stage in GONE_STAGES:
            raise IllegalEvent(
                f"{site} is {record.stage} in an epoch that is {self._phase}; nothing is accepted from it",
                hint="close its stream",
            )
        try:
            message = decode(frame)
            if type(message) not in _EVENTS:
                raise MalformedMessage(f"{site} sent a {type(message).__name__}, which no site sends now", peer=site)
        except MalformedMessage as error:
            return self._fault(record, error)
        if self._is_late(record, message):
            return []
        after = stage_after(self._phase, site, record.stage, _EVENTS[type(message)])
        try:
            effects = self._take(record, message, frame, after)
        except ProtocolViolation as error:
            return self._fault(record, error)
        return effects + self._advance()

    def lost(self, site: str, reason: str = "its connection broke") -> list[CoordinatorEffect]:
        """A site is gone for good. Harmless when it is out already.

        Raises:
            IllegalEvent: not in the cohort.
        """
        record = self._record(site)
        if record.stage in GONE_STAGES:
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
        stage = Stage.LOST if self._phase in SETUP_PHASES else Stage.LATE
        for record in self._pending():
            effects += self._drop(record, stage, f"it did not finish phase {self._phase} in time")
        return effects + self._advance()

    def abort(self, reason: str) -> list[CoordinatorEffect]:
        """Burn the step that is under way. Harmless when none is."""
        return [] if self._phase in FINAL_PHASES else self._burn(reason)

    def _record(self, site: str) -> _Site:
        if site not in self._sites:
            raise IllegalEvent(f"{site} is not in the cohort {list(self._sites)} of this step")
        return self._sites[site]

    def _left(self) -> list[_Site]:
        return [record for record in self._sites.values() if record.stage not in GONE_STAGES]

    def _pending(self) -> list[_Site]:
        return [record for record in self._sites.values() if record.stage in PENDING_STAGES[self._phase]]

    def _is_late(self, site: _Site, message: Message) -> bool:
        if isinstance(message, _OF_THE_EPOCH):
            return False
        over = site.stage is Stage.LATE or (self._phase in FINAL_PHASES and bool(self._setup_hash))
        return message.ctx in self._earlier or (over and message.ctx == self._ctx)

    # What each message does. Everything is checked before anything changes.

    def _take(self, site: _Site, message: Message, frame: bytes, after: Stage) -> list[CoordinatorEffect]:
        if message.ctx != (self._epoch_ctx if isinstance(message, _OF_THE_EPOCH) else self._ctx):
            raise DescriptorMismatch(f"{site.name} sent a message of another step or epoch", peer=site.name)
        match message:
            case KeyAdvert():
                self._setup.take_advert(site.name, message, frame)
            case Encapsulated():
                self._setup.take_encapsulated(site.name, message)
            case Offer():
                self._opened().take_offer(site.name, message)
                site.stage = after
                return self._open_uploads()
            case Chunk():
                if not self._opened().take_chunk(site.name, message):
                    return []
                site.stage = Stage.UPLOADED
                return [SiteAt(site.name, site.stage), *self._open_uploads()]
            case Lock():
                self._opened().take_lock(site.name, message)
            case Reveal():
                self._opened().take_reveal(site.name, message)
            case Shares():
                self._opened().take_shares(site.name, message)
            case _:
                raise AssertionError(message)
        site.stage = after
        return [SiteAt(site.name, after)]

    def _open_uploads(self) -> list[CoordinatorEffect]:
        """Let waiting sites send their vectors while there is room. If all fit, they were told at the start."""
        effects: list[CoordinatorEffect] = []
        uploads = self._opened().uploads
        for name in uploads.next_turns():
            self._sites[name].stage = Stage.UPLOADING
            effects.append(SiteAt(name, Stage.UPLOADING))
            if not uploads.all_fit:
                effects.append(SendTo(name, Grant(self._ctx).encode()))
        return effects

    def _opened(self) -> CoordinatorStep:
        assert self._step is not None
        return self._step

    # How phases end.

    def _advance(self) -> list[CoordinatorEffect]:
        """Burn the step if it cannot succeed any more; close phases that wait for nobody."""
        effects: list[CoordinatorEffect] = []
        while self._phase not in FINAL_PHASES:
            shortage = self._shortage()
            if shortage:
                return effects + self._burn(shortage)
            has_enough = self._phase is CoordinatorPhase.SHARES and self._opened().has_enough_shares()
            if self._pending() and not has_enough:
                return effects
            try:
                effects += self._close()
            except BadShare as error:
                effects += self._blame(error)
                return effects + self._burn(error.message)
            except (EncodingRange, StepBurnt) as error:
                return effects + self._burn(error.message)
        return effects

    def _shortage(self) -> str:
        """Say why too few sites are left, or nothing."""
        present = {site.name for site in self._left() if site.stage is not Stage.LATE}
        if self._phase in (*SETUP_PHASES, CoordinatorPhase.UPLOAD):
            possible = present | (self._opened().added if self._step else set())
            if len(possible) < self._required:
                left = f"{len(possible)} of {len(self._sites)} sites are left{_listed(possible)}"
                return f"{left}; {self._required} must be (threshold and minimum cohort)"
            if self._phase in SETUP_PHASES:
                return ""
        helpers = self._helpers(present)
        if len(helpers) < self._descriptor.threshold:
            return (
                f"{len(helpers)} sites can still open the sum{_listed(helpers)}; "
                f"{self._descriptor.threshold} must (threshold)"
            )
        return ""

    def _helpers(self, present: set[str]) -> set[str]:
        """The sites that the sum can still be opened with. One that has revealed and gone helps with its own seeds,
        which is all there is to do unless somebody else has vanished."""
        opened = self._opened()
        if self._phase in (CoordinatorPhase.UPLOAD, CoordinatorPhase.LOCK):
            return present
        has_vanished = any(name not in present for name in opened.vanished())
        return present if has_vanished else present | set(opened.reveals)

    def _close(self) -> list[CoordinatorEffect]:
        match self._phase:
            case CoordinatorPhase.SETUP:
                return self._close_setup()
            case CoordinatorPhase.KEYS:
                return self._close_keys()
            case CoordinatorPhase.UPLOAD:
                requests = self._opened().close_uploads()
                self._phase = CoordinatorPhase.LOCK
                stages = {name: self._sites[name].stage for name in requests}
                waiting = [name for name, stage in stages.items() if stage is Stage.UPLOADED]
                return [PhaseChanged(self._phase), *(SendTo(name, requests[name].encode()) for name in waiting)]
            case CoordinatorPhase.LOCK:
                return self._ask(CoordinatorPhase.REVEAL, Stage.LOCKED, self._opened().reveal_request().encode())
            case CoordinatorPhase.REVEAL if self._opened().vanished():
                return self._ask(CoordinatorPhase.SHARES, Stage.REVEALED, self._opened().shares_request().encode())
            case _:
                return self._close_step()

    def _ask(self, phase: CoordinatorPhase, of: Stage, request: bytes) -> list[CoordinatorEffect]:
        self._phase = phase
        waiting = [site.name for site in self._sites.values() if site.stage is of]
        return [PhaseChanged(phase), *(SendTo(name, request) for name in waiting)]

    def _close_setup(self) -> list[CoordinatorEffect]:
        keys = self._setup.close_adverts([site.name for site in self._left()])
        self._setup_hash = self._setup.hash
        return self._ask(CoordinatorPhase.KEYS, Stage.ADVERTISED, keys.encode())

    def _close_keys(self) -> list[CoordinatorEffect]:
        established = self._setup.close_keys(tuple(site.name for site in self._left()))
        return [*(SendTo(name, message.encode()) for name, message in established.items()), *self._announce()]

    def _announce(self) -> list[CoordinatorEffect]:
        participants = tuple(site.name for site in self._left())
        session = Session.of(self._descriptor, self._setup_hash, participants)
        self._step = CoordinatorStep(self._descriptor, self._roster, session, self._slots, self._surplus)
        self._phase = CoordinatorPhase.UPLOAD
        frames = [Announce(self._ctx, self._descriptor.encode(), participants).encode()]
        if self._step.uploads.all_fit:
            frames.append(Grant(self._ctx).encode())
        return [PhaseChanged(self._phase), *(SendTo(name, frame) for name in participants for frame in frames)]

    def _close_step(self) -> list[CoordinatorEffect]:
        total, survivors = self._opened().open(), self._opened().survivors()
        self._phase, self._step = CoordinatorPhase.SUMMED, None
        told = self._tell(Outcome(self._ctx, survivors, ""), total)
        return [PhaseChanged(self._phase), *told, Summed(total, survivors)]

    def _tell(self, outcome: Outcome, total: RingVector | None) -> list[CoordinatorEffect]:
        """Tell every site that is left what came of the step, and the sum if there is a step to build on it."""
        frames = [outcome.encode()]
        if total is not None and self._descriptor.step < self._descriptor.last_step:
            frames += chunks_of(TotalChunk, self._ctx, total.data.cast("B"))
        return [SendTo(site.name, frame) for site in self._left() for frame in frames]

    # How sites and steps end early.

    def _fault(self, site: _Site, error: ProtocolViolation) -> list[CoordinatorEffect]:
        effects: list[CoordinatorEffect] = [Fault(site.name, error)]
        return effects + self._drop(site, Stage.FAILED, error.message) + self._advance()

    def _blame(self, error: BadShare) -> list[CoordinatorEffect]:
        """Put out the site, if one can be named, whose shares or commitments cost the step."""
        if error.peer is None:
            # one of two lies, and with the same setup it could burn every step of the epoch without being named
            self._has_liar = True
            return []
        self._sites[error.peer].stage = Stage.FAILED
        return [Fault(error.peer, error), SiteAt(error.peer, Stage.FAILED)]

    def _drop(self, site: _Site, stage: Stage, reason: str) -> list[CoordinatorEffect]:
        site.stage, site.gone_because = stage, reason
        effects: list[CoordinatorEffect] = [SiteAt(site.name, stage)]
        if self._phase is CoordinatorPhase.UPLOAD:
            self._opened().uploads.forget(site.name)
            effects += self._open_uploads()
        return effects

    def _burn(self, why: str) -> list[CoordinatorEffect]:
        gone = "; ".join(f"{s.name}: {s.gone_because}" for s in self._sites.values() if s.gone_because)
        complaints = "; ".join(self._step.complaints()) if self._step else ""
        where = f"step {self._descriptor.step} of run {self._descriptor.run_id} was burnt in phase {self._phase}"
        reason = ". ".join(part for part in (f"{where}: {why}", gone, complaints) if part)
        was_announced = self._step is not None
        if not was_announced:
            self._setup_hash = b""
        self._phase, self._step = CoordinatorPhase.BURNT, None
        told = self._tell(Outcome(self._ctx, (), _shortened(reason)), None) if was_announced else []
        return [PhaseChanged(self._phase), *told, Burnt(reason)]


def _listed(names: Collection[str]) -> str:
    return f" ({', '.join(sorted(names))})" if names else ""


def _shortened(reason: str) -> str:
    return reason.encode()[:REASON_MAX_BYTES].decode(errors="ignore")
