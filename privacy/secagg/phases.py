"""The protocol's order of events as tables: what may happen when, and nothing about how.

After ``h11/_state.py``: the machines look up ``(state, event)`` before they look at anything else. An event
that is not in the table raises :class:`~tacit.errors.IllegalEvent` and changes nothing.

::

    site          new -> joining -> ready -> granted -> uploaded -> locked -> revealed
                                         \\-> offered -/
    coordinator   setup -> upload -> lock -> reveal -> summed
                      \\-------\\-------\\--------\\----> burnt
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from tacit.errors import IllegalEvent


class SitePhase(StrEnum):
    """Where a site is in a step."""

    NEW = "new"
    #: sent its key
    JOINING = "joining"
    #: verified setup and descriptor; may train
    READY = "ready"
    #: ready, and the coordinator has room for the vector
    GRANTED = "granted"
    #: sent its offer, waits for room
    OFFERED = "offered"
    UPLOADED = "uploaded"
    #: signed one survivor set; never signs another
    LOCKED = "locked"
    #: revealed its seeds and shares, and forgot all secrets
    REVEALED = "revealed"
    #: a peer broke the protocol; all secrets are forgotten
    FAILED = "failed"


class SiteEvent(StrEnum):
    """What can happen to a site: two calls by its owner, four messages of the coordinator."""

    START = "start"
    ANNOUNCE = "announce"
    GRANT = "grant"
    UPLOAD = "upload"
    LOCK_REQUEST = "lock request"
    REVEAL_REQUEST = "reveal request"


SITE_TRANSITIONS: Mapping[tuple[SitePhase, SiteEvent], SitePhase] = {
    (SitePhase.NEW, SiteEvent.START): SitePhase.JOINING,
    (SitePhase.JOINING, SiteEvent.ANNOUNCE): SitePhase.READY,
    (SitePhase.READY, SiteEvent.GRANT): SitePhase.GRANTED,
    (SitePhase.READY, SiteEvent.UPLOAD): SitePhase.OFFERED,
    (SitePhase.OFFERED, SiteEvent.GRANT): SitePhase.UPLOADED,
    (SitePhase.GRANTED, SiteEvent.UPLOAD): SitePhase.UPLOADED,
    (SitePhase.UPLOADED, SiteEvent.LOCK_REQUEST): SitePhase.LOCKED,
    (SitePhase.LOCKED, SiteEvent.REVEAL_REQUEST): SitePhase.REVEALED,
}


class CoordinatorPhase(StrEnum):
    """Where a step is. ``SUMMED`` and ``BURNT`` are final."""

    SETUP = "setup"
    UPLOAD = "upload"
    LOCK = "lock"
    REVEAL = "reveal"
    SUMMED = "summed"
    BURNT = "burnt"


class Stage(StrEnum):
    """How far the coordinator has seen one site come."""

    WAITING = "waiting"
    JOINED = "joined"
    OFFERED = "offered"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    LOCKED = "locked"
    REVEALED = "revealed"
    #: its connection broke, or it did not answer in time
    LOST = "lost"
    #: it broke the protocol
    FAILED = "failed"


class SiteMessage(StrEnum):
    """A site's messages, as events at the coordinator."""

    KEY_ADVERT = "key advert"
    OFFER = "offer"
    CHUNK = "chunk"
    LOCK = "lock"
    REVEAL = "reveal"


#: A site's stage after its message. An offer waits for room as OFFERED, or goes straight on; chunks stay
# UPLOADING
#: until the last.
COORDINATOR_TRANSITIONS: Mapping[tuple[CoordinatorPhase, Stage, SiteMessage], Stage] = {
    (CoordinatorPhase.SETUP, Stage.WAITING, SiteMessage.KEY_ADVERT): Stage.JOINED,
    (CoordinatorPhase.UPLOAD, Stage.JOINED, SiteMessage.OFFER): Stage.OFFERED,
    (CoordinatorPhase.UPLOAD, Stage.UPLOADING, SiteMessage.CHUNK): Stage.UPLOADING,
    (CoordinatorPhase.LOCK, Stage.UPLOADED, SiteMessage.LOCK): Stage.LOCKED,
    (CoordinatorPhase.REVEAL, Stage.LOCKED, SiteMessage.REVEAL): Stage.REVEALED,
}

#: The phase after one that ended with enough sites.
NEXT_PHASE: Mapping[CoordinatorPhase, CoordinatorPhase] = {
    CoordinatorPhase.SETUP: CoordinatorPhase.UPLOAD,
    CoordinatorPhase.UPLOAD: CoordinatorPhase.LOCK,
    CoordinatorPhase.LOCK: CoordinatorPhase.REVEAL,
    CoordinatorPhase.REVEAL: CoordinatorPhase.SUMMED,
}

#: The stages of sites that a phase still waits for.
PENDING_STAGES: Mapping[CoordinatorPhase, tuple[Stage, ...]] = {
    CoordinatorPhase.SETUP: (Stage.WAITING,),
    CoordinatorPhase.UPLOAD: (Stage.JOINED, Stage.OFFERED, Stage.UPLOADING),
    CoordinatorPhase.LOCK: (Stage.UPLOADED,),
    CoordinatorPhase.REVEAL: (Stage.LOCKED,),
}
FINAL_PHASES = (CoordinatorPhase.SUMMED, CoordinatorPhase.BURNT)
#: The stages of sites that take no further part.
GONE_STAGES = (Stage.LOST, Stage.FAILED)


def site_phase_after(phase: SitePhase, event: SiteEvent) -> SitePhase:
    """Look up the site's next phase.

    Raises:
        IllegalEvent: this phase does not accept the event.
    """
    if (phase, event) not in SITE_TRANSITIONS:
        accepted = ", ".join(e for p, e in SITE_TRANSITIONS if p == phase) or "nothing"
        raise IllegalEvent(f"a site that is {phase} was given the event '{event}'; it accepts {accepted}")
    return SITE_TRANSITIONS[phase, event]


def stage_after(phase: CoordinatorPhase, site: str, stage: Stage, message: SiteMessage) -> Stage:
    """Look up a site's next stage.

    Raises:
        IllegalEvent: in this phase the coordinator does not accept the message from a site at this stage.
    """
    if (phase, stage, message) not in COORDINATOR_TRANSITIONS:
        accepted = ", ".join(m for p, s, m in COORDINATOR_TRANSITIONS if (p, s) == (phase, stage)) or "nothing"
        raise IllegalEvent(f"{site} is {stage} in phase {phase} and sent '{message}'; accepted from it: {accepted}")
    return COORDINATOR_TRANSITIONS[phase, stage, message]
