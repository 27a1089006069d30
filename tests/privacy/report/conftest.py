"""A made-up run's folder, as the coordinator writes it, with faults where a test wants them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import epsilon
from privacy.agreement import draft, save_bundle
from privacy.events import (
    Adjacency,
    IntegerGrid,
    JointSubsampledGaussian,
    PrivacyMode,
    PrivacyUnit,
    SiteGaussian,
    SubsampledGaussian,
)

SITES = ("alpha", "beta", "gamma")
MODEL_DIGEST = "sha256:" + "b" * 64
DELTA = 1e-5
EVENT = SubsampledGaussian(
    mode=PrivacyMode.LOCAL,
    unit=PrivacyUnit.RECORD,
    adjacency=Adjacency.ADD_REMOVE,
    noise_multiplier=1.1,
    sample_rate=0.1,
    steps=4,
)


def agreement_terms(**changes: Any) -> dict[str, Any]:
    """A whole agreement as plain data."""
    keys = iter(range(1, 10))

    def party(name: str) -> dict[str, str]:
        return {"name": name, "identity_key": base64.b64encode(bytes([next(keys)] * 32)).decode()}

    return {
        "tacit_agreement": 1,
        "consortium": "northern-banks",
        "title": "Intent model for customer messages",
        "purpose": "To route customer messages to the right desk.",
        "legal_basis": "Legitimate interest, assessment of 3 March",
        "ca_fingerprint": "sha256:" + "a" * 64,
        "partners": [party(name) for name in SITES],
        "coordinator": party("hub"),
        "task": {"kind": "sequence-classification", "labels": ["card-lost", "refund", "address", "other"]},
        "base_model": {"name": "minilm-l6", "digest": MODEL_DIGEST},
        "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": 8},
        "strategies": ["fedavg"],
        "privacy": {
            "modes": ["local"],
            "unit": "record",
            "adjacency": "add-remove",
            "delta": DELTA,
            "epsilon_per_run": 8.0,
            "epsilon_lifetime": 20.0,
            "min_noise_multiplier": 0.5,
            "max_l2_clip_norm": 1.0,
            "max_sample_rate": 0.5,
            "public_dataset_size": 1400,
        },
        "secure_aggregation": {"min_cohort": 2, "collusion_bound": 1, "ring_bits": 32, "weights": None},
        "deidentification": {"profile": "standard-v1"},
        "residency": ["EU"],
        "retention_days": 90,
        "release": {"scope": "partners"},
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "approvals": {"required": 3},
        "testing": False,
        **changes,
    }


class RunWriter:
    """Writes a run's folder event by event. ``spent`` counts each site's charged steps, as its ledger would."""

    def __init__(self, folder: Path, *, rounds: int = 5, testing: bool = False, **agreement: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        bundle = draft(agreement_terms(**agreement))
        save_bundle(bundle, folder / "agreement.yaml")
        self.events: list[dict[str, Any]] = []
        self.spent = dict.fromkeys(SITES, 0)
        self.earlier = 0
        self._clock = datetime(2026, 3, 5, 9, 30, tzinfo=UTC)
        self.facts: dict[str, Any] = {
            "run_id": "00112233445566aa",
            "run_name": "intents-spring",
            "rounds": rounds,
            "sites": list(SITES),
            "mode": "local",
            "strategy": "fedavg",
            "labels_count": 4,
            "adapter_length": 151_690,
            "budget": {"epsilon": bundle.agreement.privacy.epsilon_per_run, "delta": DELTA},
            "epsilon_per_round": [self.epsilon(done) for done in range(1, rounds + 1)],
            "training": {
                "local_steps": EVENT.steps,
                "sample_rate": EVENT.sample_rate,
                "expected_batch_size": 140.0,
                "noise_multiplier": EVENT.noise_multiplier,
                "l2_clip_norm": 0.5,
                "learning_rate": 0.8,
                "momentum": 0.0,
                "max_tokens": 48,
            },
            "secagg": {
                "cohort": list(SITES),
                "threshold": 3 if len(SITES) < 3 else 2,
                "min_cohort": 2,
                "ring_bits": 32,
                "scale": 2.0**24,
                "value_bound": 4.0,
            },
            "agreement_digest": bundle.agreement.digest(),
            "base_model": {"name": "minilm-l6", "digest": MODEL_DIGEST},
            "versions": {"tacit": "0.1.0", "python": "3.11.2", "flwr": "1.41.0", "torch": "2.13.0"},
            "testing": testing,
        }

    def epsilon(self, steps_charged: int) -> float:
        return epsilon((EVENT,) * steps_charged, DELTA)

    def emit(self, kind: str, /, after_s: float = 1.0, **fields: Any) -> None:
        self._clock += timedelta(seconds=after_s)
        time = self._clock.isoformat(timespec="milliseconds")
        self.events.append({"seq": len(self.events) + 1, "time": time, "event": kind, **fields})

    def submit(self) -> RunWriter:
        self.emit("run-submitted", **self.facts)
        return self

    def evaluated(self, round: int, accuracy: float) -> None:
        self.emit("evaluated", round=round, accuracy=accuracy, examples=600)

    def receipt(
        self, round: int, step: int, site: str, status: str = "completed", reason: str = "", message: str = ""
    ) -> None:
        self.spent[site] += status == "completed"
        self.emit(
            "site-receipt",
            after_s=0.1,
            round=round,
            step=step,
            site=site,
            receipt={
                "tacit_receipt": 1,
                "site": site,
                "run_id": self.facts["run_id"],
                "round": round,
                "step": step,
                "outcome": {"status": status, "reason": reason, "message": message},
                "ctx": "ab" * 32 if status == "completed" else "",
                "epsilon_spent": self.epsilon(self.spent[site] + self.earlier),
                "epsilon_run": self.epsilon(self.spent[site]),
                "delta": DELTA,
                "bytes_sent": 609_321 + len(site) if status == "completed" else 412,
                "tree_size": 3 * step + 1,
                "tree_root": f"{step:02x}{len(site):02x}" * 16,
                "tree_timestamp": "2026-03-05T09:30:00.000Z",
                "tree_signature": base64.b64encode(bytes([step % 256]) * 64).decode(),
            },
        )

    def started(self, round: int, step: int) -> None:
        self.emit("round-started", round=round, step=step)
        for phase in ("joined", "training", "uploading", "uploaded", "locked", "revealed"):
            for site in SITES:
                self.emit("site-phase", after_s=0.3, round=round, step=step, site=site, phase=phase)

    def round(self, round: int, step: int, accuracy: float, dropped: tuple[str, ...] = ()) -> None:
        self.started(round, step)
        survivors = [site for site in SITES if site not in dropped]
        for site in survivors:
            self.receipt(round, step, site)
        self.emit(
            "round-finished",
            round=round,
            step=step,
            survivors=survivors,
            dropped=list(dropped),
            seconds=6.1 + round % 3,
            update_l2_norm=0.81 / round,
        )
        self.emit("checkpoint", round=round, path=f"checkpoints/{round}.npz")
        self.evaluated(round, accuracy)

    def finished(self, status: str = "completed", reason: str = "") -> None:
        self.emit("run-finished", status=status, reason=reason, seconds=90.0, rounds_done=0)

    def write(self) -> Path:
        (self.folder / "run.json").write_text(json.dumps(self.facts))
        lines = [json.dumps(event, ensure_ascii=False) for event in self.events]
        (self.folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return self.folder


def write_plain_run(folder: Path, rounds: int = 5, **options: Any) -> RunWriter:
    """A run in which everything goes well; not yet written, so that a test may still spoil it."""
    run = RunWriter(folder, rounds=rounds, **options).submit()
    run.evaluated(0, 0.26)
    for number in range(1, rounds + 1):
        run.round(number, number, 0.92 - 0.6 * 0.7**number)
    run.finished()
    return run


class JointRunWriter(RunWriter):
    """A run in mode ``joint``: all three sites must survive, one may collude."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, rounds=3)
        self.facts["mode"] = "joint"
        self.facts["secagg"]["threshold"] = 3

    def epsilon(self, steps_charged: int) -> float:
        event = JointSubsampledGaussian(
            **EVENT.model_dump(exclude={"mechanism", "mode"}),
            mode=PrivacyMode.JOINT,
            threshold=3,
            collusion_bound=1,
            grid=IntegerGrid(l2_clip_norm=0.5, scale=2.0**24, dimension=151_690),
        )
        return epsilon((event,) * steps_charged, DELTA)


def write_joint_run(folder: Path) -> JointRunWriter:
    """A run in mode ``joint`` in which everything goes well."""
    run = JointRunWriter(folder)
    run.submit()
    run.evaluated(0, 0.26)
    for number in range(1, 4):
        run.round(number, number, 0.92 - 0.6 * 0.7**number)
    run.finished()
    return run


class SiteRunWriter(RunWriter):
    """A run in mode ``site``: all three sites must survive, one may collude."""

    def __init__(self, folder: Path) -> None:
        terms = agreement_terms()["privacy"] | {"modes": ["site"], "unit": "site", "adjacency": "zero-out"}
        super().__init__(folder, rounds=3, privacy=terms)
        self.facts["mode"] = "site"
        self.facts["secagg"]["threshold"] = 3
        self.facts["epsilon_per_round"] = [self.epsilon(done) for done in (1, 2, 3)]

    def epsilon(self, steps_charged: int) -> float:
        event = SiteGaussian(
            mode=PrivacyMode.SITE,
            unit=PrivacyUnit.SITE,
            adjacency=Adjacency.ZERO_OUT,
            noise_multiplier=EVENT.noise_multiplier,
            steps=1,
            threshold=3,
            collusion_bound=1,
        )
        return epsilon((event,) * steps_charged, DELTA)


def write_site_run(folder: Path) -> SiteRunWriter:
    """A run in mode ``site`` in which everything goes well."""
    run = SiteRunWriter(folder)
    run.submit()
    run.evaluated(0, 0.26)
    for number in range(1, 4):
        run.round(number, number, 0.92 - 0.6 * 0.7**number)
    run.finished()
    return run


def write_eventful_run(folder: Path, rounds: int = 8) -> RunWriter:
    """A run with a burnt step, a refusal, a site that was lost, and a resumption."""
    run = RunWriter(folder, rounds=rounds).submit()
    run.evaluated(0, 0.26)
    run.round(1, 1, 0.45)
    run.started(2, 2)
    run.receipt(2, 2, "alpha")
    run.receipt(2, 2, "beta", "refused", "policy", "accept_runs is false in this site's policy")
    run.emit("round-burnt", round=2, step=2, reason="gamma was lost in phase upload; 1 of 3 sites left, 2 are needed")
    run.finished("failed", "1 rounds ended without a sum, 0 are allowed")
    run.emit("run-resumed", after_s=4000)
    run.evaluated(1, 0.45)
    for number in range(2, rounds + 1):
        run.round(number, number + 1, 0.9 - 0.6 * 0.75**number, dropped=("gamma",) if number == 4 else ())
    run.finished()
    return run


@pytest.fixture
def plain_run(tmp_path: Path) -> RunWriter:
    return write_plain_run(tmp_path / "run")


@pytest.fixture
def eventful_run(tmp_path: Path) -> RunWriter:
    return write_eventful_run(tmp_path / "run")


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., RunWriter]:
    def make(**options: Any) -> RunWriter:
        return RunWriter(tmp_path / "run", **options)

    return make
