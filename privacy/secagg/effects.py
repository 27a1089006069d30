"""What a machine wants done: the only way it touches the world. Its driver carries these out in order."""

from __future__ import annotations

from dataclasses import dataclass

from privacy.secagg.journal import StepRecord
from privacy.secagg.phases import CoordinatorPhase, Stage
from privacy.secagg.ring import RingVector
from privacy.secagg.site_messages import Chunk
from tacit.errors import ProtocolViolation


@dataclass(frozen=True, slots=True)
class Keep:
    """Site: write this record to stable storage before anything that follows is done."""

    record: StepRecord


@dataclass(frozen=True, slots=True)
class Send:
    """Site: send this frame to the coordinator. A piece of a vector is put into a frame when it is asked for, so that a
    vector is not in memory twice."""

    content: bytes | Chunk

    @property
    def frame(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


@dataclass(frozen=True, slots=True)
class Ready:
    """Site: keys, roster and the step's descriptor are verified. Train now; :meth:`SiteMachine.upload` may be called.

    ``participants`` are the sites that take the step, sorted.
    """

    step: int
    participants: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """Site: the step is over, and its secrets are forgotten.

    Attributes:
        step: which.
        survivors: the sites whose vectors are in the sum, sorted; empty when the step was burnt.
        reason: why it was burnt; empty when it was not.
        total: ring elements [d], the sum, when the epoch has steps left that build on it; not verified: sites that
            are told different sums cannot take the next step together.
    """

    step: int
    survivors: tuple[str, ...]
    reason: str = ""
    total: RingVector | None = None


SiteEffect = Keep | Send | Ready | Ended


@dataclass(frozen=True, slots=True)
class SendTo:
    """Coordinator: send this frame to that site."""

    site: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """Coordinator: the step entered a phase; a new deadline may begin."""

    phase: CoordinatorPhase


@dataclass(frozen=True, slots=True)
class SiteAt:
    """Coordinator: a site reached a stage, for people to follow."""

    site: str
    phase: Stage


@dataclass(frozen=True, slots=True)
class Fault:
    """Coordinator: a site broke the protocol and is out of the step. Its stream should be closed."""

    site: str
    error: ProtocolViolation


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """Coordinator: the step ended. ``total``, ring elements [d], is the sum of the survivors' vectors."""

    total: RingVector
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Burnt:
    """Coordinator: the step ended without a sum, and why, naming the sites. Its noise is charged."""

    reason: str


CoordinatorEffect = SendTo | PhaseChanged | SiteAt | Fault | Summed | Burnt
