"""One epsilon for each adversary (design, section 2), with the assumptions it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from privacy.accounting.pld import epsilon_of
from privacy.accounting.spends import UnknownNoise, against_colluding_sites, merge
from privacy.events import DpEvent, NoiseShares
from tacit.errors import InputError, LedgerError

COORDINATOR = "coordinator"
COLLUDING_SITES = "coordinator+c sites"
SITE = "site"
PUBLIC = "public"

_OWN_NOISE = (
    "Every step's sum of clipped gradients is noised at the site before anything leaves it, so the bound needs "
    "neither secure aggregation nor another site's honesty; the same epsilon holds for any number of colluding sites."
)
_SHARED = (
    "In mode {mode} a sum's noise is shared: this bound needs secure aggregation, under which only sums are opened, "
)
_SHARED_NOISE = {
    COORDINATOR: _SHARED + "and no colluding site, so that the shares of all sites in a sum count.",
    COLLUDING_SITES: (
        _SHARED + "and the shares of at least {honest} honest sites in each sum: the fewest that a sum opens over, "
        "{smallest}, less c. If more than c = {collusion_bound} sites collude with the coordinator, nothing is claimed "
        "for those sums."
    ),
    SITE: _SHARED + "and the shares of the other sites in each sum.",
    PUBLIC: "In mode {mode} a sum's noise is shared: all shares of a sum count if no site tells its own.",
}
_UNKNOWN: dict[str, UnknownNoise] = {
    COORDINATOR: lambda event: event.noise_multiplier_against(0),
    COLLUDING_SITES: against_colluding_sites,
    SITE: lambda event: event.noise_multiplier_against(1),
    PUBLIC: lambda event: event.noise_multiplier_against(0),
}
_NO_CLAIM = "The noise was drawn from a test seed: whoever knows the seed can subtract it. No privacy is claimed."

_SEES = {
    COORDINATOR: "Sees the whole transcript and may deviate from the protocol in any way.",
    COLLUDING_SITES: "Up to c = {collusion_bound} sites pool everything they know with the coordinator.",
    SITE: "A curious partner sees the global adapter of every round and its own contribution.",
    PUBLIC: "Receives the released adapter, which is computed from the noised updates alone.",
}


@dataclass(frozen=True)
class AdversaryBound:
    """What one adversary can learn about one unit, a record of the site or the whole site: (``epsilon``, ``delta``).

    The events' unit and adjacency. ``epsilon`` is None when nothing is claimed.
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

    In ``local`` mode every adversary gets the same bound: the site's own noise alone. In modes ``joint`` and ``site``
    each gets the noise shares it does not know (docs/privacy.md). Events of different modes compose if their unit is
    the same.

    Args:
        events: everything the site spent on one dataset.
        delta: the agreement's delta.
        collusion_bound: c, the number of sites that may collude with the coordinator.
        noise_secret: False when any noise came from a test seed; then no epsilon is claimed at all.

    Raises:
        LedgerError: an event whose mode has no adversary analysis here, one made for fewer colluding sites, or
            events of different units.
        InputError: ``delta`` is not in (0, 1), or ``collusion_bound`` is not positive.
    """
    if collusion_bound < 1:
        raise InputError(f"collusion bound is {collusion_bound!r}; expected at least 1: one curious partner")
    everything = tuple(events)
    shared: list[NoiseShares] = [event for event in everything if isinstance(event, NoiseShares)]
    if any(event.collusion_bound < collusion_bound for event in shared):
        raise LedgerError(
            f"an event of noise in shares holds against fewer than the {collusion_bound} colluding sites asked about",
            hint="noise shares are made for the agreement's collusion bound; ask about that",
        )
    spends = {name: merge(everything, noise) for name, noise in _UNKNOWN.items()}
    return AdversaryBounds(
        tuple(
            AdversaryBound(
                name,
                epsilon_of(spends[name], delta) if noise_secret else None,
                delta,
                f"{sees.format(collusion_bound=collusion_bound)} {_reason(name, everything, shared, noise_secret)}",
            )
            for name, sees in _SEES.items()
        )
    )


def _reason(name: str, events: tuple[DpEvent, ...], shared: list[NoiseShares], noise_secret: bool) -> str:
    if not noise_secret:
        return _NO_CLAIM
    reasons = [] if len(shared) == len(events) and shared else [_OWN_NOISE]
    for mode in dict.fromkeys(event.mode for event in shared):
        weakest = min((event for event in shared if event.mode is mode), key=lambda event: event.honest_survivors)
        reasons.append(
            _SHARED_NOISE[name].format(
                mode=mode,
                smallest=weakest.smallest_sum,
                honest=weakest.honest_survivors,
                collusion_bound=weakest.collusion_bound,
            )
        )
    return " ".join(reasons)
