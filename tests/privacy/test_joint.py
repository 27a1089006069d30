"""Joint training: what an opened sum stands for, and one step for all."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.joint import joint_gradient
from privacy.order import Order, TrainingSpec

TRAINING = TrainingSpec(
    local_steps=3,
    sample_rate=0.1,
    expected_batch_size=50.0,
    noise_multiplier=1.5,
    l2_clip_norm=2.0,
    learning_rate=0.1,
    momentum=0.5,
    max_tokens=8,
)


def test_the_gradient_is_the_sum_over_the_agreed_batch_of_the_survivors(make_joint_order: object) -> None:
    order: Order = make_joint_order()  # type: ignore[operator]
    units = np.array([2000, -500, 0], dtype=np.int64)
    total = units.astype(np.uint32)
    found = joint_gradient(total, 3, order)
    assert np.allclose(found, units / order.secagg.scale / (order.training.expected_batch_size * 3))


@pytest.fixture
def make_joint_order() -> object:
    digest = "sha256:" + "0" * 64

    def make() -> Order:
        return Order.model_validate(
            {
                "run_id": "0123456789abcdef",
                "run_name": "joint",
                "epoch": 1,
                "round": 1,
                "rounds_planned": 1,
                "step": 1,
                "strategy": "joint-dp-sgd",
                "mode": "joint",
                "unit": "record",
                "adjacency": "add-remove",
                **dict.fromkeys(
                    ("agreement_digest", "base_model_digest", "adapter_layout_digest", "adapter_state_digest"), digest
                ),
                "adapter_length": 3,
                "lora": {"rank": 2, "alpha": 2.0, "targets": ["query"]},
                "labels": ["a", "b"],
                "training": TRAINING.model_dump(),
                "secagg": {
                    "steps": 3,
                    "cohort": ["a", "b", "c"],
                    "threshold": 3,
                    "min_cohort": 3,
                    "scale": 1000.0,
                    "value_bound": 64.0,
                },
                "deadline_s": 60.0,
            }
        )

    return make
