"""The plan: ranges, the event it spends, and that nothing in it comes from data."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from privacy.dpsgd import DpSgdPlan
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.options import AdaptiveClipSpec, LayerWeight
from privacy.order import TrainingSpec
from tacit.errors import TrainingError

PLAN = DpSgdPlan(sample_rate=0.25, noise_multiplier=1.5, l2_clip_norm=2.0, expected_batch_size=300.0, steps=7)


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.01},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"l2_clip_norm": -1.0},
        {"l2_clip_norm": float("inf")},
        {"expected_batch_size": 0.0},
        {"steps": 0},
        {"physical_batch_size": 0},
    ],
)
def test_values_out_of_range_are_refused_by_name(change: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        dataclasses.replace(PLAN, **change)


def test_event_says_what_the_plan_does() -> None:
    event = PLAN.event()
    assert (event.noise_multiplier, event.sample_rate, event.steps) == (1.5, 0.25, 7)
    assert (event.mode, event.unit, event.adjacency) == (
        PrivacyMode.LOCAL,
        PrivacyUnit.RECORD,
        Adjacency.ADD_REMOVE,
    )


def test_noise_scales_with_the_clip_norm() -> None:
    assert PLAN.noise_stddev == 3.0


def test_plan_of_an_order_takes_the_public_divisor() -> None:
    training = TrainingSpec(
        local_steps=3,
        sample_rate=0.1,
        expected_batch_size=123.0,
        noise_multiplier=0.9,
        l2_clip_norm=0.5,
        learning_rate=1.0,
        max_tokens=16,
        clipping="per-layer",
        layer_weights=(LayerWeight(layer="classifier", weight=3.0),),
        adaptive_clipping=AdaptiveClipSpec(count_noise_stddev=4.0, min_l2_clip_norm=0.1, max_l2_clip_norm=1.0),
    )
    plan = DpSgdPlan.from_spec(training)
    assert {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)} == {
        "sample_rate": 0.1,
        "noise_multiplier": 0.9,
        "l2_clip_norm": 0.5,
        "expected_batch_size": 123.0,
        "steps": 3,
        "physical_batch_size": plan.physical_batch_size,
        "clipping": "per-layer",
        "layer_weights": training.layer_weights,
        "adaptive_clipping": training.adaptive_clipping,
        "max_records_per_user": None,
    }
    assert plan.event().unit is PrivacyUnit.RECORD
    of_users = DpSgdPlan.from_spec(training.model_copy(update={"max_records_per_user": 5}))
    assert (of_users.max_records_per_user, of_users.unit, of_users.event().unit) == (
        5,
        PrivacyUnit.USER,
        PrivacyUnit.USER,
    )
    assert not {"data", "dataset", "examples"} & set(inspect.signature(DpSgdPlan.from_spec).parameters)
