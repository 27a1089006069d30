"""One epsilon for each adversary (design, section 2), with the assumptions it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from privacy.accounting.pld import epsilon
from privacy.events import DpEvent, PrivacyMode
from tacit.errors import InputError

COORDINATOR = "coordinator"
COLLUDING_SITES = "coordinator+c sites"
SITE = "site"
PUBLIC = "public"

_OWN_NOISE = (
    "Every step's sum of clipped gradients is noised at the site before anything leaves it, so the bound needs "
    "neither secure aggregation nor another site's honesty; the same epsilon holds for any number of colluding sites."
)
_SHARED_NOISE = (
    "In mode joint a step's noise is shared: this bound needs secure aggregation, under which only sums are opened, "
    "and the shares of at least t - c honest sites in each sum; more honest sites only lower it. If more than c = "
    "{collusion_bound} sites collude with the coordinator, nothing is claimed for those steps."
)
_NO_CLAIM = "The noise was drawn from a test seed: whoever knows the seed can subtract it. No privacy is claimed."

_SEES = {
    COORDINATOR: "Sees the whole transcript and may deviate from the protocol in any way.",
    COLLUDING_SITES: ("Up to c = {collusion_bound} sites pool everything they know with the coordinator."),
    SITE: "A curious partner sees the global adapter of every round and its own contribution.",
    PUBLIC: "Receives the released adapter, which is computed from the noised updates alone.",
}


@dataclass(frozen=True)
class AdversaryBound:
    """What one adversary can learn about one record of the site: (``epsilon``, ``delta``), add/remove adjacency.

    ``epsilon`` is None when nothing is claimed.
    """

    adversary: str
    epsilon: float | None
    delta: float
    assumptions: str


@dataclass(frozen=True)
class AdversaryBounds(Mapping[str, AdversaryBound]):
    """A site's bounds by adversary, in the design's order."""

    bounds: tuple[AdversaryBound, ...]

    def __getitem__(self, adversary: str) -> AdversaryBound:
        for bound in self.bounds:
            if bound.adversary == adversary:
                return bound
        raise KeyError(adversary)

    def __iter__(self) -> Iterator[str]:
        return (bound.adversary for bound in self.bounds)

    def __len__(self) -> int:
        return len(self.bounds)


def adversary_bounds(
    events: Iterable[DpEvent], delta: float, *, collusion_bound: int, noise_secret: bool
) -> AdversaryBounds:
    """Return what each adversary learns from ``events`` of one site.

    In mode ``local`` every adversary gets the same bound: the site's own noise alone. In mode ``joint`` the bound is
    the whole noise of a sum, which every adversary meets as long as at most c sites collude (docs/privacy.md).

    Args:
        events: everything the site spent on one dataset.
        delta: the agreement's delta.
        collusion_bound: c, the number of sites that may collude with the coordinator.
        noise_secret: False when any noise came from a test seed; then no epsilon is claimed at all.

    Raises:
        LedgerError: an event whose mode has no adversary analysis here.
        InputError: ``delta`` is not in (0, 1), or ``collusion_bound`` is not positive.
    """
    if collusion_bound < 1:
        raise InputError(f"collusion bound is {collusion_bound!r}; expected at least 1: one curious partner")
    spent = tuple(events)
    value = epsilon(spent, delta)
    claimed = value if noise_secret else None
    modes = {event.mode for event in spent}
    reasons = [_OWN_NOISE] if modes != {PrivacyMode.JOINT} else []
    reasons += [_SHARED_NOISE] if PrivacyMode.JOINT in modes else []
    reason = " ".join(reasons).format(collusion_bound=collusion_bound) if noise_secret else _NO_CLAIM
    return AdversaryBounds(
        tuple(
            AdversaryBound(name, claimed, delta, f"{sees.format(collusion_bound=collusion_bound)} {reason}")
            for name, sees in _SEES.items()
        )
    )
