"""A consortium's identities, an order for them, and a coordinator without processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certs.authority import ConsortiumAuthority
from certs.identity import Identity
from privacy.order import Order
from server.steps import StepRegistry

SITES = ("alpha", "beta", "delta", "gamma")
LENGTH = 50


@dataclass(frozen=True)
class Partners:
    """Four sites with real identities, and their PKI folders."""

    folder: Path
    identities: dict[str, Identity]

    @property
    def roster(self) -> dict[str, Any]:
        return {name: identity.public for name, identity in self.identities.items()}


@pytest.fixture(scope="session")
def partners(tmp_path_factory: pytest.TempPathFactory) -> Partners:
    folder = tmp_path_factory.mktemp("partners")
    authority = ConsortiumAuthority.create(folder / "ca", "tests")
    authority.issue("coordinator", "hub", folder / "hub")
    for site in SITES:
        authority.issue("site", site, folder / site)
    return Partners(folder, {site: Identity.load(folder / site) for site in SITES})


@pytest.fixture
def make_order() -> Callable[..., Order]:
    def make(**changes: Any) -> Order:
        fields: dict[str, Any] = {
            "run_id": "00112233445566ff",
            "run_name": "test",
            "epoch": 1,
            "round": 1,
            "rounds_planned": 3,
            "step": 1,
            "strategy": "fedavg",
            "mode": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "agreement_digest": "sha256:" + "a" * 64,
            "base_model_digest": "sha256:" + "b" * 64,
            "adapter_layout_digest": "sha256:" + "c" * 64,
            "adapter_state_digest": "sha256:" + "d" * 64,
            "adapter_length": LENGTH,
            "lora": {"rank": 8, "alpha": 16.0, "targets": ["query"]},
            "labels": ["a", "b"],
            "training": {
                "local_steps": 2,
                "sample_rate": 0.1,
                "expected_batch_size": 10.0,
                "noise_multiplier": 1.0,
                "l2_clip_norm": 1.0,
                "learning_rate": 0.1,
                "max_tokens": 16,
            },
            "secagg": {
                "cohort": list(SITES),
                "threshold": 3,
                "min_cohort": 3,
                "scale": 1024.0,
                "value_bound": 4.0,
            },
            "deadline_s": 30.0,
        }
        return Order.model_validate(fields | changes)

    return make


@pytest.fixture
def registry(partners: Partners) -> StepRegistry:
    return StepRegistry(partners.roster, collusion_bound=1)
