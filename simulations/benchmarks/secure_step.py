"""One secure step of ours in memory, and the CPU seconds of every call into its machines.

All that the benchmarks know of :mod:`privacy.secagg` is in this file. The loop carries frames between the public
machines, does not look into them, and ignores effects it has no use for, so a change of the protocol changes
:func:`describe` at most.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.identity import Identity
from certs.names import PeerName
from privacy.randomness import OsRandomSource
from privacy.secagg import (
    Burnt,
    Contribution,
    CoordinatorMachine,
    Fault,
    PhaseChanged,
    Ready,
    Send,
    SendTo,
    SiteMachine,
    StepDescriptor,
    Summed,
    decode,
    default_collusion_bound,
    default_threshold,
    encode,
)
from privacy.secagg.keystream import SEED_BYTES, add_masks

#: The resolution and the range of Flower's defaults (2^22 values over [-8, 8]), so that both encode the same numbers.
VALUE_BOUND = 8.0
SCALE = 2.0**22 / (2 * VALUE_BOUND)

ENCODE, SETUP, UPLOAD, UNMASK, DECODE = "encode", "setup", "upload", "unmask", "decode"

PhaseSeconds = dict[str, float]


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step cost, by phase: encode, setup, upload (masks and shares), lock, reveal; unmask, decode."""

    sites_s: dict[str, PhaseSeconds]
    """CPU seconds of each site that uploaded."""
    coordinator_s: PhaseSeconds
    sent_bytes: int
    """Everything one site sent from setup to reveal; the largest of all sites."""
    total: npt.NDArray[np.uint32]
    """uint32, shape [d]: the ring sum of the survivors."""
    survivors: tuple[str, ...]

    @property
    def site_s(self) -> float:
        """CPU seconds of a site, all phases: the median over the sites, which all do the same work."""
        return statistics.median(sum(phases.values()) for phases in self.sites_s.values())

    @property
    def open_s(self) -> float:
        """CPU seconds of the coordinator from the last reveal to the sum as real numbers."""
        return self.coordinator_s[UNMASK] + self.coordinator_s[DECODE]

    def site_phase_s(self, phase: str) -> float:
        """CPU seconds a site spent in ``phase``: the median over the sites."""
        return statistics.median(phases.get(phase, 0.0) for phases in self.sites_s.values())


def site_names(sites: int) -> tuple[str, ...]:
    """Return names for ``sites`` sites, sorted."""
    return tuple(f"site-{index:03d}" for index in range(sites))


def describe(cohort: Sequence[str], length: int) -> StepDescriptor:
    """A step of ``cohort`` over ``length`` coordinates, with the protocol's own defaults."""
    return StepDescriptor(
        run_id="00112233445566ff",
        epoch=1,
        round=1,
        first_step=1,
        steps=1,
        step=1,
        history="sha256:" + "cd" * 32,
        cohort=tuple(cohort),
        threshold=default_threshold(len(cohort)),
        min_cohort=2,
        collusion_bound=default_collusion_bound(len(cohort)),
        ring_bits=32,
        scale=SCALE,
        value_bound=VALUE_BOUND,
        length=length,
        order_digest="sha256:" + "ab" * 32,
    )


def encoded(values: npt.NDArray[np.float32], sites: int) -> npt.NDArray[np.uint32]:
    """Return ``values``, float32 [d], in fixed point as a site of a cohort of ``sites`` would encode them."""
    return encode(values, SCALE, VALUE_BOUND, OsRandomSource(), summands=sites)


def draw_seeds(count: int) -> list[bytes]:
    """Return ``count`` seeds of masks."""
    source = OsRandomSource()
    return [source.bytes(SEED_BYTES) for _ in range(count)]


def mask(vector: npt.NDArray[np.uint32], seeds: Sequence[bytes]) -> None:
    """Add the masks of ``seeds`` to ``vector``, uint32 [d], in place, as uploading and opening do."""
    half = len(seeds) // 2
    add_masks(vector, plus=seeds[:half], minus=seeds[half:])


def run_step(values: npt.NDArray[np.float32], sites: int, dropped: int = 0) -> StepCost:
    """Take one step in memory: ``dropped`` of the ``sites`` vanish between their setup and their upload.

    Every site uploads the same ``values``, float32 [d]: what it costs does not depend on them, and the sum is easy to
    check. Vectors travel one after the other, so memory stays that of a coordinator and one site.

    Raises:
        RuntimeError: the step was burnt.
    """
    return _Loop(values, sites, dropped).run()


@dataclass(slots=True)
class _Clock:
    """Adds up CPU seconds of this process under the name of a phase."""

    seconds: PhaseSeconds = field(default_factory=lambda: defaultdict(float))

    def measure(self, call: Callable[[], Any], phase: Callable[[Any], str]) -> Any:
        started = time.process_time()
        result = call()
        self.seconds[phase(result)] += time.process_time() - started
        return result


class _Loop:
    """Carries frames between a coordinator and its sites until nothing is left to carry."""

    def __init__(self, values: npt.NDArray[np.float32], sites: int, dropped: int) -> None:
        names = site_names(sites)
        self._gone = set(names[sites - dropped :])
        self._staying = names[: sites - dropped]
        identities = {
            name: Identity(PeerName("bench", "site", name), b"", Ed25519PrivateKey.generate()) for name in names
        }
        roster = {name: identity.public for name, identity in identities.items()}
        descriptor = describe(names, len(values))
        self._coordinator = CoordinatorMachine(roster, descriptor)
        self._sites = {name: SiteMachine(name, one, roster, descriptor) for name, one in identities.items()}
        self._values = values
        self._phase = SETUP
        self._clock = _Clock()
        self._clocks = {name: _Clock() for name in names}
        self._ready: set[str] = set()
        self._sent_bytes: dict[str, int] = dict.fromkeys(names, 0)
        #: frames for sites, with the phase in which the coordinator sent them
        self._down: deque[tuple[str, bytes, str]] = deque()
        self._summed: Summed | None = None

    def run(self) -> StepCost:
        for name, site in self._sites.items():
            self._from_site(name, self._at_site(name, site.start, SETUP))
            self._drain()
        # sites vanish when every mask is agreed on and none is taken back: the dearest moment for the coordinator
        for name in sorted(self._gone):
            self._from_coordinator(lambda name=name: self._coordinator.lost(name))
        self._drain()
        vector = self._encode()
        for name in self._staying:
            upload = self._sites[name].upload
            own = Contribution(vector.copy())
            self._from_site(name, self._at_site(name, lambda upload=upload, own=own: upload(own), UPLOAD))
            self._drain()
        return self._cost()

    def _encode(self) -> npt.NDArray[np.uint32]:
        """Encode once and charge it to every site: all of them do just that."""
        clock = _Clock()
        vector = clock.measure(lambda: encoded(self._values, len(self._sites)), lambda _: ENCODE)
        for name in self._staying:
            self._clocks[name].seconds[ENCODE] = clock.seconds[ENCODE]
        return vector

    def _cost(self) -> StepCost:
        summed = self._summed
        if summed is None:
            raise RuntimeError("no frame is left to carry and the step has not ended")
        self._clock.measure(lambda: decode(summed.total, SCALE, len(summed.survivors)), lambda _: DECODE)
        return StepCost(
            sites_s={name: dict(self._clocks[name].seconds) for name in self._staying},
            coordinator_s=dict(self._clock.seconds),
            sent_bytes=max(self._sent_bytes.values()),
            total=summed.total,
            survivors=summed.survivors,
        )

    def _drain(self) -> None:
        while self._down:
            name, frame, phase = self._down.popleft()
            if name not in self._gone or name not in self._ready:
                receive = self._sites[name].receive
                during = phase if name in self._ready else SETUP
                self._from_site(name, self._at_site(name, lambda r=receive, f=frame: r(f), during))

    def _at_site(self, name: str, call: Callable[[], Any], phase: str) -> Any:
        return self._clocks[name].measure(call, lambda _: phase)

    def _from_site(self, name: str, effects: Sequence[Any]) -> None:
        for frame in self._frames(name, effects):
            self._sent_bytes[name] += len(frame)
            self._from_coordinator(lambda frame=frame: self._coordinator.receive(name, frame))

    def _frames(self, name: str, effects: Sequence[Any]) -> Iterator[bytes]:
        for effect in effects:
            if isinstance(effect, Send):
                # a piece of a vector is put into its frame only now
                yield self._at_site(name, lambda effect=effect: effect.frame, UPLOAD if name in self._ready else SETUP)
            elif isinstance(effect, Ready):
                self._ready.add(name)

    def _from_coordinator(self, call: Callable[[], Any]) -> None:
        before = self._phase

        def charged_to(effects: Sequence[Any]) -> str:
            # the call that takes the last reveal is the one that opens the sum
            return UNMASK if any(isinstance(effect, Summed) for effect in effects) else before

        for effect in self._clock.measure(call, charged_to):
            match effect:
                case SendTo(site=site, frame=frame):
                    self._down.append((site, frame, self._phase))
                case PhaseChanged(phase=phase):
                    self._phase = str(phase)
                case Summed():
                    self._summed = effect
                case Burnt(reason=reason):
                    raise RuntimeError(f"the step of the benchmark was burnt: {reason}")
                case Fault(site=site, error=error):
                    raise RuntimeError(f"{site} broke the protocol in the benchmark: {error}")
