"""The protocol's order of events as tables: what may happen when, and nothing about how.

After ``h11/_state.py``: the machines look up ``(state, event)`` before they look at anything else. An event
that is not in the table raises :class:`~tacit.errors.IllegalEvent` and changes nothing.

::

    site          new -> joining -> keyed -> idle
                  idle -> ready -> granted -> uploaded -> locked -> revealed (-> shared)    one step
                               \\-> offered -/
                  every phase of a step -> idle | receiving -> idle                         its outcome
    coordinator   setup -> keys -> upload -> lock -> reveal (-> shares) -> summed
                      \\------\\-------\\--------\\-------\\-----------\\---> burnt
                  summed | burnt -> upload                                                  the next step
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from tacit.errors import IllegalEvent


class SitePhase(StrEnum):
    """Where a site is in an epoch: in its key setup, between steps, or in a step."""

    NEW = "new"
    #: sent its keys
    JOINING = "joining"
    #: sent its ciphertexts
    KEYED = "keyed"
    #: shares a chain with every other site; waits for a step
    IDLE = "idle"
    #: verified the step; may train
    READY = "ready"
    #: ready, and the coordinator has room for the vector
    GRANTED = "granted"
    #: sent its offer, waits for room
    OFFERED = "offered"
    UPLOADED = "uploaded"
    #: signed one survivor set; never signs another
    LOCKED = "locked"
    #: revealed its seeds and forgot them; holds shares of others' until the outcome
    REVEALED = "revealed"
    #: sent its shares of vanished survivors' seeds, and forgot all
    SHARED = "shared"
    #: the step has ended; its sum is on its way
    RECEIVING = "receiving"
    #: a peer broke the protocol; all secrets are forgotten
    FAILED = "failed"


class SiteEvent(StrEnum):
    """What can happen to a site: calls by its owner, and messages of the coordinator."""

    START = "start"
    EXPECT = "expect"
    UPLOAD = "upload"
    KEYS = "keys"
    ESTABLISHED = "established"
    ANNOUNCE = "announce"
    GRANT = "grant"
    LOCK_REQUEST = "lock request"
    REVEAL_REQUEST = "reveal request"
    SHARES_REQUEST = "shares request"
    OUTCOME = "outcome"
    TOTAL_CHUNK = "total chunk"


#: In these phases a step is under way at a site, and its outcome may come: late, excluded or waiting, it must not hang.
IN_A_STEP = (
    SitePhase.READY,
    SitePhase.GRANTED,
    SitePhase.OFFERED,
    SitePhase.UPLOADED,
    SitePhase.LOCKED,
    SitePhase.REVEALED,
    SitePhase.SHARED,
)

#: An outcome that is followed by the sum leads to RECEIVING instead of IDLE.
SITE_TRANSITIONS: Mapping[tuple[SitePhase, SiteEvent], SitePhase] = {
    (SitePhase.NEW, SiteEvent.START): SitePhase.JOINING,
    (SitePhase.JOINING, SiteEvent.KEYS): SitePhase.KEYED,
    (SitePhase.KEYED, SiteEvent.ESTABLISHED): SitePhase.IDLE,
    (SitePhase.IDLE, SiteEvent.EXPECT): SitePhase.IDLE,
    (SitePhase.IDLE, SiteEvent.ANNOUNCE): SitePhase.READY,
    (SitePhase.READY, SiteEvent.GRANT): SitePhase.GRANTED,
    (SitePhase.READY, SiteEvent.UPLOAD): SitePhase.OFFERED,
    (SitePhase.OFFERED, SiteEvent.GRANT): SitePhase.UPLOADED,
    (SitePhase.GRANTED, SiteEvent.UPLOAD): SitePhase.UPLOADED,
    (SitePhase.UPLOADED, SiteEvent.LOCK_REQUEST): SitePhase.LOCKED,
    (SitePhase.LOCKED, SiteEvent.REVEAL_REQUEST): SitePhase.REVEALED,
    (SitePhase.REVEALED, SiteEvent.SHARES_REQUEST): SitePhase.SHARED,
    **{(phase, SiteEvent.OUTCOME): SitePhase.IDLE for phase in IN_A_STEP},
    (SitePhase.RECEIVING, SiteEvent.TOTAL_CHUNK): SitePhase.RECEIVING,
}


class CoordinatorPhase(StrEnum):
    """Where an epoch is: in its key setup, or in a step. After ``SUMMED`` and ``BURNT`` another step may begin."""

    SETUP = "setup"
    KEYS = "keys"
    UPLOAD = "upload"
    LOCK = "lock"
    REVEAL = "reveal"
    #: only when a survivor vanished after the lock
    SHARES = "shares"
    SUMMED = "summed"
    BURNT = "burnt"


class Stage(StrEnum):
    """How far the coordinator has seen one site come."""

    WAITING = "waiting"
    #: sent its keys
    ADVERTISED = "advertised"
    #: sent its ciphertexts; may take part in steps
    JOINED = "joined"
    OFFERED = "offered"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    LOCKED = "locked"
    REVEALED = "revealed"
    SHARED = "shared"
    #: did not answer in time: out of this step, welcome in the next
    LATE = "late"
    #: its connection broke, or it did not finish the setup in time: out of the epoch
    LOST = "lost"
    #: it broke the protocol: out of the epoch
    FAILED = "failed"


class SiteMessage(StrEnum):
    """A site's messages, as events at the coordinator."""

    KEY_ADVERT = "key advert"
    ENCAPSULATED = "encapsulated"
    OFFER = "offer"
    CHUNK = "chunk"
    LOCK = "lock"
    REVEAL = "reveal"
    SHARES = "shares"


#: A site's stage after its message. An offer waits for room as OFFERED, or goes straight on; chunks stay
#: UPLOADING until the last.
COORDINATOR_TRANSITIONS: Mapping[tuple[CoordinatorPhase, Stage, SiteMessage], Stage] = {
    (CoordinatorPhase.SETUP, Stage.WAITING, SiteMessage.KEY_ADVERT): Stage.ADVERTISED,
    (CoordinatorPhase.KEYS, Stage.ADVERTISED, SiteMessage.ENCAPSULATED): Stage.JOINED,
    (CoordinatorPhase.UPLOAD, Stage.JOINED, SiteMessage.OFFER): Stage.OFFERED,
    (CoordinatorPhase.UPLOAD, Stage.UPLOADING, SiteMessage.CHUNK): Stage.UPLOADING,
    (CoordinatorPhase.LOCK, Stage.UPLOADED, SiteMessage.LOCK): Stage.LOCKED,
    (CoordinatorPhase.REVEAL, Stage.LOCKED, SiteMessage.REVEAL): Stage.REVEALED,
    (CoordinatorPhase.SHARES, Stage.REVEALED, SiteMessage.SHARES): Stage.SHARED,
}

#: The stages of sites that a phase still waits for.
PENDING_STAGES: Mapping[CoordinatorPhase, tuple[Stage, ...]] = {
    CoordinatorPhase.SETUP: (Stage.WAITING,),
    CoordinatorPhase.KEYS: (Stage.ADVERTISED,),
    CoordinatorPhase.UPLOAD: (Stage.JOINED, Stage.OFFERED, Stage.UPLOADING),
    CoordinatorPhase.LOCK: (Stage.UPLOADED,),
    CoordinatorPhase.REVEAL: (Stage.LOCKED,),
    CoordinatorPhase.SHARES: (Stage.REVEALED,),
}
SETUP_PHASES = (CoordinatorPhase.SETUP, CoordinatorPhase.KEYS)
FINAL_PHASES = (CoordinatorPhase.SUMMED, CoordinatorPhase.BURNT)
#: The stages of sites that take no further part in the epoch.
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
