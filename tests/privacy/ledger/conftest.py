"""A site that signs, and short words for what the ledger tests do over and over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.ledger import Budget, Ledger, Reservation, StepKey
from tacit.errors import BadSignature


class Site:
    """Signs and verifies like an identity of ``certs``, with a key that needs no certificate."""

    def __init__(self, name: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())

    def sign(self, context: str, message: bytes) -> bytes:
        return self._key.sign(context.encode() + b"\0" + message)

    def verify(self, context: str, message: bytes, signature: bytes) -> None:
        try:
            self._key.public_key().verify(signature, context.encode() + b"\0" + message)
        except InvalidSignature as error:
            raise BadSignature("wrong signature") from error


class Words:
    """Values and moves the tests share."""

    RUN = "0123456789abcdef"
    DATASET = "messages"
    AGREEMENT = "sha256:" + "a" * 64
    WIDE = Budget(epsilon_per_run=50.0, epsilon_lifetime=50.0, delta=1e-5)

    @staticmethod
    def event(noise_multiplier: float = 1.0, sample_rate: float = 0.05, steps: int = 10) -> SubsampledGaussian:
        return SubsampledGaussian(
            mode=PrivacyMode.LOCAL,
            unit=PrivacyUnit.RECORD,
            adjacency=Adjacency.ADD_REMOVE,
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            steps=steps,
        )

    @classmethod
    def key(cls, step: int, run_id: str | None = None) -> StepKey:
        return StepKey(run_id or cls.RUN, step, step)

    @classmethod
    def reserve(cls, ledger: Ledger, step: int, **changes: object) -> Reservation:
        given: dict = {
            "key": cls.key(step),
            "dataset": cls.DATASET,
            "agreement_digest": cls.AGREEMENT,
            "event": cls.event(),
            "budget": cls.WIDE,
            "noise_secret": True,
        }
        return ledger.reserve(**(given | changes))

    @classmethod
    def fill(cls, ledger: Ledger, steps: int) -> None:
        """One accepted agreement, then a reserve and a commit for each step."""
        ledger.accept_agreement(cls.AGREEMENT, {"title": "a trial"})
        for step in range(1, steps + 1):
            ledger.commit(cls.reserve(ledger, step), ctx=bytes([step]) * 32, bytes_sent=100 + step)


@pytest.fixture
def words() -> type[Words]:
    return Words


@pytest.fixture
def site() -> Site:
    return Site("alpha")


@pytest.fixture
def other_site() -> Site:
    return Site("beta")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture(params=["sqlite", "memory"])
def ledger(request: pytest.FixtureRequest, site: Site, path: Path) -> Iterator[Ledger]:
    """An empty ledger with an agreement in force, in either home: the rules are the same."""
    opened = Ledger.open(path, site) if request.param == "sqlite" else Ledger.in_memory(site)
    with opened:
        opened.accept_agreement(Words.AGREEMENT, {"title": "a trial"})
        yield opened
