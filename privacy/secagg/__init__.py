"""Secure aggregation, sans-IO: a coordinator learns the sum of its sites' vectors and of nothing smaller.

Two state machines, :class:`SiteMachine` and :class:`CoordinatorMachine`, take frames and events and return effects;
they open no socket and read no clock. ``docs/secure-aggregation.md`` is the protocol.
"""

from privacy.secagg.coordinator import CoordinatorMachine
from privacy.secagg.descriptor import StepDescriptor, descriptor_for, next_history
from privacy.secagg.effects import (
    Burnt,
    CoordinatorEffect,
    Ended,
    Fault,
    Keep,
    PhaseChanged,
    Ready,
    Send,
    SendTo,
    SiteAt,
    SiteEffect,
    Summed,
)
from privacy.secagg.encoding import check_range, decode, encode
from privacy.secagg.journal import Sent, StepRecord, last_steps
from privacy.secagg.keys import Roster, Signer, Verifier
from privacy.secagg.phases import CoordinatorPhase, SitePhase, Stage
from privacy.secagg.ring import Ring
from privacy.secagg.site import SiteMachine
from privacy.secagg.surplus import Contribution, SurplusLayer, SurplusNoise
from privacy.secagg.threshold import check_threshold, default_collusion_bound, default_threshold

__all__ = [
    "Burnt",
    "Contribution",
    "CoordinatorEffect",
    "CoordinatorMachine",
    "CoordinatorPhase",
    "Ended",
    "Fault",
    "Keep",
    "PhaseChanged",
    "Ready",
    "Ring",
    "Roster",
    "Send",
    "SendTo",
    "Sent",
    "Signer",
    "SiteAt",
    "SiteEffect",
    "SiteMachine",
    "SitePhase",
    "Stage",
    "StepDescriptor",
    "StepRecord",
    "Summed",
    "SurplusLayer",
    "SurplusNoise",
    "Verifier",
    "check_range",
    "check_threshold",
    "decode",
    "default_collusion_bound",
    "default_threshold",
    "descriptor_for",
    "encode",
    "last_steps",
    "next_history",
]
