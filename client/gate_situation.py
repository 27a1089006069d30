"""What a rule of the gate may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from privacy.agreement import VerifiedAgreement
from privacy.events import PrivacyUnit
from privacy.order import Order
from privacy.policy import SitePolicy
from privacy.terms import Agreement


@dataclass(frozen=True)
class Situation:
    """Everything a rule may look at besides the order."""

    verified: VerifiedAgreement
    policy: SitePolicy
    site: str
    data_unit: PrivacyUnit
    now: datetime

    @property
    def agreement(self) -> Agreement:
        return self.verified.agreement


Rule = Callable[[Order, Situation], None]
