"""A step in memory: real identities, real machines, and links that the test delivers from as it likes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.identity import Identity
from certs.names import PeerName
from privacy.randomness import SeededRandomSource
from privacy.secagg import (
    Burnt,
    CoordinatorMachine,
    Ended,
    Fault,
    Keep,
    Ready,
    Send,
    SendTo,
    SiteMachine,
    SitePhase,
    StepDescriptor,
    Summed,
    default_collusion_bound,
    default_threshold,
    messages,
    next_history,
    site,
    site_step,
    uploads,
)
from privacy.secagg.messages import Message, decode
from privacy.secagg.phases import GONE_STAGES
from privacy.secagg.surplus import Contribution, SurplusLayer, SurplusNoise
from tacit.errors import IllegalEvent, ProtocolViolation

NAMES = ("alpha", "beta", "delta", "epsilon", "gamma", "iota", "kappa", "theta", "zeta")


@lru_cache
def identity(name: str) -> Identity:
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"test identity {name}".encode()).digest())
    return Identity(PeerName("tests", "site", name), b"", key)


def describe(n: int, **changes: Any) -> StepDescriptor:
    fields: dict[str, Any] = {
        "run_id": "00112233445566ff",
        "epoch": 3,
        "round": 3,
        "first_step": 4,
        "steps": 1,
        "step": 4,
        "history": "sha256:" + "cd" * 32,
        "cohort": NAMES[:n],
        "threshold": default_threshold(n),
        "min_cohort": 2,
        "collusion_bound": default_collusion_bound(n),
        "ring_bits": 32,
        "scale": 65536.0,
        "value_bound": 16.0,
        "length": 5,
        "order_digest": "sha256:" + "ab" * 32,
    }
    return StepDescriptor(**(fields | changes))


#: Equal by value, and nothing in them can change.
Immutable = StepDescriptor | Message


def freeze(thing: Any) -> Any:
    """A machine's whole state as a comparable value."""
    if isinstance(thing, int | float | str | bytes | Immutable | None):
        return thing
    if isinstance(thing, np.ndarray | bytearray | memoryview):
        return bytes(thing)
    if hasattr(thing, "hexdigest"):
        return thing.digest()
    if isinstance(thing, dict):
        return tuple((freeze(k), freeze(v)) for k, v in thing.items())
    if isinstance(thing, list | tuple | deque | set):
        return tuple(map(freeze, thing))
    if type(thing).__module__.startswith("privacy.secagg"):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        fields = getattr(thing, "__dict__", {}) | {name: getattr(thing, name) for name in slots}
        return type(thing).__name__, freeze(fields)
    return id(thing)


class Step:
    """One step of ``n`` sites. Frames wait in ``up`` and ``down`` until a test delivers them.

    ``tamper_up(site, frame) -> frame or None`` sees each frame on its way to the coordinator.
    """

    def __init__(
        self,
        n: int = 4,
        *,
        seed: int = 0,
        auto_upload: bool = True,
        open_uploads_bytes: int | None = None,
        surplus: SurplusNoise | None = None,
        **changes: Any,
    ):
        self.descriptor = describe(n, **changes)
        self.names = self.descriptor.cohort
        self.identities = {name: identity(name) for name in self.names}
        self.roster = {name: one.public for name, one in self.identities.items()}
        limits: dict[str, Any] = {} if open_uploads_bytes is None else {"open_uploads_bytes": open_uploads_bytes}
        limits["surplus"] = surplus
        self.coordinator = CoordinatorMachine(self.roster, self.descriptor, **limits)
        self.sites = {
            name: SiteMachine(name, one, self.roster, self.descriptor, SeededRandomSource(seed, f"{name}/{n}").bytes)
            for name, one in self.identities.items()
        }
        self._rng = np.random.default_rng(seed)
        self.vectors = self._draw()
        #: layers of noise in the sites' vectors
        self.surplus: dict[str, tuple[SurplusLayer, ...]] = {}
        self.up: dict[str, deque[bytes]] = {name: deque() for name in self.names}
        self.down: dict[str, deque[bytes]] = {name: deque() for name in self.names}
        self.auto_upload = auto_upload
        self.tamper_up: Any = None
        self.sent: list[tuple[str, bytes]] = []
        self.received: list[tuple[str, bytes]] = []
        self.effects: list[Any] = []
        self.gone: set[str] = set()
        self.site_errors: dict[str, ProtocolViolation] = {}
        self.kept: dict[str, list[Any]] = {name: [] for name in self.names}
        self.ended: dict[str, Ended] = {}

    def _draw(self) -> dict[str, np.ndarray]:
        bound = int(self.descriptor.scale * self.descriptor.value_bound)
        shape, ring = self.descriptor.length, self.descriptor.ring
        return {n: ring.of(self._rng.integers(-bound, bound, shape, np.int64, endpoint=True)) for n in self.names}

    # What happened.

    @property
    def result(self) -> Summed | Burnt | None:
        ends = [effect for effect in self.effects if isinstance(effect, Summed | Burnt)]
        assert len(ends) <= 1, "a step ends once"
        return ends[0] if ends else None

    @property
    def faults(self) -> dict[str, ProtocolViolation]:
        return {effect.site: effect.error for effect in self.effects if isinstance(effect, Fault)}

    def expected(self, survivors) -> np.ndarray:
        zeros = np.zeros(self.descriptor.length, self.descriptor.ring.dtype)
        return sum((self.vectors[name] for name in survivors), zeros)

    def assert_exact(self, *, survivors=None) -> None:
        assert isinstance(self.result, Summed), self.result
        if survivors is not None:
            assert self.result.survivors == tuple(sorted(survivors))
        np.testing.assert_array_equal(self.result.total, self.expected(self.result.survivors))

    def assert_burnt(self, *words: str) -> None:
        assert isinstance(self.result, Burnt), self.result
        for word in words:
            assert word in self.result.reason

    # What to do.

    def start(self) -> Step:
        for name, machine in self.sites.items():
            self._site_effects(name, machine.start())
        return self

    def begin_next(self) -> Step:
        """Go on with the epoch's next step: each site, and the coordinator, from what it knows of the last one."""
        for name, stage in self.coordinator.stages.items():
            if name not in self.gone and stage not in GONE_STAGES:
                ended, last = self.ended[name], self.sites[name].descriptor
                self.sites[name].expect(last.following(next_history(last.history, ended.survivors, ended.total)))
        survivors = self.result.survivors if isinstance(self.result, Summed) else ()
        total = self.result.total if isinstance(self.result, Summed) else None
        self.descriptor = self.descriptor.following(next_history(self.descriptor.history, survivors, total))
        self.vectors = self._draw()
        self.effects, self.sent, self.received, self.ended = [], [], [], {}
        self.coordinator_effects(self.coordinator.begin(self.descriptor))
        return self

    def lie(self, liar: str, kind: type | tuple[type, ...], change: Any) -> Step:
        """Pass a site's messages of one kind through ``change``: a message, bytes or None (silence)."""

        def tamper(name: str, frame: bytes) -> bytes | None:
            if name != liar or not isinstance(decode(frame), kind):
                return frame
            changed = change(decode(frame))
            return changed if isinstance(changed, bytes | None) else changed.encode()

        self.tamper_up = tamper
        return self

    def deliver_up(self, name: str) -> None:
        frame = self.up[name].popleft()
        if self.tamper_up is not None:
            frame = self.tamper_up(name, frame)
            if frame is None:
                return
        self.give_coordinator(name, frame)

    def give_coordinator(self, name: str, frame: bytes) -> None:
        before = freeze(self.coordinator)
        try:
            effects = self.coordinator.receive(name, frame)
        except IllegalEvent:
            assert freeze(self.coordinator) == before, "an illegal event changed the coordinator"
            return
        self.received.append((name, frame))
        self.coordinator_effects(effects)

    def deliver_down(self, name: str) -> None:
        self.give_site(name, self.down[name].popleft())

    def give_site(self, name: str, frame: bytes) -> None:
        before = freeze(self.sites[name])
        try:
            effects = self.sites[name].receive(frame)
        except IllegalEvent:
            assert freeze(self.sites[name]) == before, "an illegal event changed a site"
            return
        except ProtocolViolation as error:
            assert self.sites[name].phase is SitePhase.FAILED
            self.site_errors[name] = error
            self.lose(name)
            return
        self.sent.append((name, frame))
        self._site_effects(name, effects)

    def lose(self, name: str) -> None:
        self.gone.add(name)
        self.up[name].clear()
        self.down[name].clear()
        self.coordinator_effects(self.coordinator.lost(name))

    def deadline(self) -> None:
        self.coordinator_effects(self.coordinator.deadline())

    def run(self, until=None) -> Step:
        """Deliver everything in order, until nothing is left or ``until()`` holds."""
        moved = True
        while moved:
            moved = False
            for name in self.names:
                for queue, deliver in ((self.up, self.deliver_up), (self.down, self.deliver_down)):
                    if queue[name]:
                        if until is not None and until():
                            return self
                        deliver(name)
                        moved = True
        return self

    def hold(self, kind: type) -> Step:
        """Deliver everything but messages of ``kind`` to sites, and what is behind them."""
        moved = True
        while moved:
            moved = False
            for name in self.names:
                if self.up[name]:
                    self.deliver_up(name)
                    moved = True
                if self.down[name] and not isinstance(decode(self.down[name][0]), kind):
                    self.deliver_down(name)
                    moved = True
        return self

    def finish(self) -> Step:
        """Run, and let deadlines pass whenever nothing moves, until the step has ended everywhere."""
        self.run()
        while self.result is None:
            self.deadline()
            self.run()
        return self

    def run_to(self, phase: SitePhase) -> Step:
        """Run until every site of the step is in ``phase``."""
        return self.run(until=lambda: all(self.sites[n].phase is phase for n in self.names if n not in self.gone))

    def coordinator_effects(self, effects) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, SendTo) and effect.site not in self.gone:
                self.down[effect.site].append(effect.frame)

    def _site_effects(self, name: str, effects) -> None:
        for effect in effects:
            if isinstance(effect, Keep):
                self.kept[name].append(effect.record)
            elif isinstance(effect, Ended):
                self.ended[name] = effect
            elif isinstance(effect, Send):
                self.up[name].append(effect.frame)
            elif isinstance(effect, Ready) and self.auto_upload:
                self.upload(name)

    def upload(self, name: str) -> None:
        made = Contribution(self.vectors[name].copy(), self.surplus.get(name, ()))
        self._site_effects(name, self.sites[name].upload(made))


@pytest.fixture(scope="session")
def make_step():
    """The class :class:`Step`: make_step(n, **descriptor changes)."""
    return Step


@pytest.fixture(scope="session")
def make_descriptor():
    """make_descriptor(n, **changes) -> StepDescriptor"""
    return describe


@pytest.fixture(scope="session")
def replace():
    return dataclasses.replace


@pytest.fixture
def small_chunks(monkeypatch):
    """small_chunks(size_bytes): vectors and sums travel in pieces of this size, a multiple of 16."""

    def make(size_bytes: int) -> None:
        for module in (messages, site, site_step, uploads):
            monkeypatch.setattr(module, "CHUNK_BYTES", size_bytes)

    return make


@pytest.fixture(scope="session")
def paused():
    """paused(kind, n, **descriptor changes): a step in which every site is about to get its first message of a kind,
    and the one an honest coordinator has for alpha."""

    def make(kind: type, n: int = 4, **changes: Any) -> tuple[Step, Any]:
        step = Step(n, **changes).start().hold(kind)
        assert all(isinstance(decode(step.down[name][0]), kind) for name in step.names)
        return step, decode(step.down["alpha"][0])

    return make


def holds_no_secret(site: SiteMachine) -> bool:
    step = site._step
    is_empty = step is None or (step._secrets is None and not (step._locked and step._locked.rows))
    return is_empty and site._key is None and site._setup is None and not site._chains and not site._chunks


@pytest.fixture(scope="session")
def refuses():
    """refuses(step, name, message, error, words, peer): the site raises exactly this error, fails, holds no secret, and
    takes nothing more."""

    def check(step: Step, name: str, message: Any, error: type, words: str | None = None, peer: str | None = None):
        site = step.sites[name]
        frame = message if isinstance(message, bytes) else message.encode()
        with pytest.raises(error, match=words) as caught:
            site.receive(frame)
        assert type(caught.value) is error
        if peer is not None:
            assert caught.value.peer == peer
        assert site.phase is SitePhase.FAILED
        assert holds_no_secret(site)
        with pytest.raises(IllegalEvent):
            site.receive(frame)

    return check


@pytest.fixture(scope="session")
def ignores():
    """ignores(step, name, message): the site says that this cannot happen now, and is as it was."""

    def check(step: Step, name: str, message: Any) -> None:
        before = freeze(step.sites[name])
        with pytest.raises(IllegalEvent):
            step.sites[name].receive(message if isinstance(message, bytes) else message.encode())
        assert freeze(step.sites[name]) == before

    return check
