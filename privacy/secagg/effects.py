"""What a machine wants done: the only way it touches the world. Its driver carries these out in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.secagg.phases import CoordinatorPhase, Stage
from tacit.errors import ProtocolViolation


@dataclass(frozen=True, slots=True)
class Send:
    """Site: send this frame to the coordinator."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """Site: setup, roster and descriptor are verified. Train now; :meth:`SiteMachine.upload` may be called.

    ``joined`` are the sites that take the step, sorted.
    """

    joined: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """Site: everything this site owes the step is sent, and its secrets are forgotten.

    ``survivors`` are the sites whose vectors are in the sum, sorted.
    """

    survivors: tuple[str, ...]


SiteEffect = Send | Ready | Completed


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
    """Coordinator: the step ended. ``total``, uint32 [d], is the ring sum of the survivors' vectors."""

    total: npt.NDArray[np.uint32]
    survivors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Burnt:
    """Coordinator: the step ended without a sum, and why, naming the sites. Its noise is charged."""

    reason: str


CoordinatorEffect = SendTo | PhaseChanged | SiteAt | Fault | Summed | Burnt
