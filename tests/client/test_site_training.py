"""A round of mode ``site`` at one site: plain SGD, one vector, and nothing told by an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from client.site_training import site_update, train_without_noise
from models.classifier import AdapterModel
from privacy.options import AdamSpec, AdaptiveClipSpec
from privacy.order import Order
from privacy.randomness import SeededRandomSource, uniform
from tacit.errors import TrainingError
from tests.client.test_training import model, one_thread, order_for, records

__all__ = ["model", "one_thread"]


def source(label: str = "a") -> SeededRandomSource:
    return SeededRandomSource(3, label)


def site_order(model: AdapterModel, **training: Any) -> Order:
    order = order_for(model, **training)
    secagg = order.secagg.model_copy(
        update={"cohort": ("alpha", "beta", "gamma"), "threshold": 3, "scale": 2.0**20, "value_bound": 64.0}
    )
    fields = order.model_dump() | {"mode": "site", "unit": "site", "adjacency": "zero-out", "secagg": secagg}
    return Order.model_validate(fields)


def test_steps_are_those_of_plain_sgd(model: AdapterModel) -> None:
    """One gradient at a time; no record is clipped, and there is no noise."""
    data, start = records(model), model.initial_vector()
    order = site_order(model, momentum=0.5, l2_clip_norm=1e-6, noise_multiplier=50.0, schedule="linear")
    steps = order.rounds_planned * order.training.local_steps
    moved = train_without_noise(model, data, start, order, source())
    drawn_from, weights, velocity = source(), start.astype(float), np.zeros(start.size)
    for step in range(3):
        model.set_vector(weights.astype(np.float32))
        gradient = np.zeros(start.size)
        for index in np.flatnonzero(uniform(drawn_from, len(data)) < 0.5):
            losses = model.per_example_loss(data.batch(np.array([index])))
            parts = torch.autograd.grad(losses[0], list(model.parameters.values()))
            gradient += np.concatenate([part.numpy().ravel() for part in parts])
        velocity = 0.5 * velocity + gradient / 30.0
        weights = weights - 0.1 * (1 - step / steps) * velocity
    assert moved.dtype == np.float64
    assert np.linalg.norm(moved) > 0.01
    assert np.allclose(moved, weights - start, atol=1e-6)


def test_no_record_drawn_moves_nothing(model: AdapterModel) -> None:
    order = site_order(model, sample_rate=1e-12)
    assert not train_without_noise(model, records(model), model.initial_vector(), order, source()).any()


def test_a_model_that_diverges_contributes_zero_as_if_it_had_learnt_nothing(model: AdapterModel) -> None:
    """And noise all the same: neither an error nor a vector without a share tells of it."""
    data, start = records(model), model.initial_vector()
    order = site_order(model, learning_rate=1e39)
    assert not train_without_noise(model, data, start, order, source()).any()
    found = site_update(model, data, start, order, 1, noise=source("noise"), rounding=source("rounding"))
    quiet = site_order(model, learning_rate=1e-300)
    # the same stream, drawn for one sample instead of three: the share itself differs, its size does not
    other = site_update(model, data, start, quiet, 1, noise=source("noise"), rounding=source("rounding"))
    sizes = [np.linalg.norm(each.vector.view(np.int32).astype(float)) for each in (found, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.2)
    share = (1.0 + np.sqrt(start.size) / 2.0**20) / np.sqrt(2) * 2.0**20
    assert sizes[0] == pytest.approx(share * np.sqrt(start.size), rel=0.1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"adam": AdamSpec()}, "adam"),
        ({"clipping": "per-layer"}, "clipping"),
        (
            {"adaptive_clipping": AdaptiveClipSpec(count_noise_stddev=9.0, min_l2_clip_norm=0.1, max_l2_clip_norm=2.0)},
            "adaptive_clipping",
        ),
    ],
)
def test_options_that_look_at_single_gradients_are_refused(
    model: AdapterModel, options: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=f"mode 'site' has no {name}"):
        site_order(model, **options)


def test_order_for_another_model_is_refused(model: AdapterModel) -> None:
    order = site_order(model).model_copy(update={"adapter_length": 3})
    with pytest.raises(TrainingError, match="adapter length"):
        train_without_noise(model, records(model), model.initial_vector(), order, source())
