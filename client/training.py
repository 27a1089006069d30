"""A site's part of one round: K local steps of DP-SGD from the global adapter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.classifier import AdapterModel
from models.layout import Vector
from models.tokens import TokenisedData
from privacy.dpsgd import DpSgdPlan, HookedGradients, LoraGradients, check_independence, noisy_gradient
from privacy.optimisers import LearningRates, first_step_of, optimiser_of
from privacy.order import Order
from privacy.randomness import RandomSource
from tacit.errors import Refusal, RefusalReason, TrainingError

__all__ = ["TokenisedData", "check_layers", "check_model", "open_engine", "train_round"]

#: what computes per-example gradients
Engine = type[LoraGradients] | type[HookedGradients]


def train_round(
    model: AdapterModel,
    data: TokenisedData,
    global_vector: Vector,
    order: Order,
    source: RandomSource,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    *,
    engine: Engine = LoraGradients,
) -> Vector:
    """Train the adapter for ``order.training.local_steps`` private steps and return how far it moved.

    Each step takes one noised gradient (:func:`privacy.dpsgd.noisy_gradient`) and one step of the order's optimiser on
    it (:mod:`privacy.optimisers`), in float64. The optimiser's state, and an adaptive clip norm, start afresh in each
    round: they would be as private as the update, but they are the site's own, and the adapter is everybody's.
    Everything after the noise is post-processing.

    The result is a function of the arguments alone: with a seeded source it is the same bit for bit in every process
    of one machine that uses the same number of threads. ``model`` is left holding the last local adapter, which is
    as private as the result.

    Args:
        model: built from the order's base model, LoRA and labels; changed in place.
        data: the site's records, tokenised by ``model``.
        global_vector: the adapter the round starts from, float32 [d].
        order: an order that the gate has accepted and the ledger has reserved.
        source: where sampling and noise come from.
        on_step: called with (steps done, steps in all) after each step.
        engine: what computes per-example gradients. The engines agree to rounding and cost differently;
            ``HookedGradients`` is the reference.

    Returns:
        local adapter minus ``global_vector``, float32 [d].

    Raises:
        TrainingError: the model is not the order's, or the engine refuses the model or its loss.
        ModelError: ``global_vector`` does not fit the model or is not finite.
    """
    check_model(model, order)
    plan = DpSgdPlan.from_spec(order.training)
    rates, clip = LearningRates.of(order), plan.clip_norm()
    model.set_vector(global_vector)
    optimiser = optimiser_of(order.training, global_vector)
    with open_engine(model, engine) as gradients:
        for step in range(plan.steps):
            noise_stddev = clip.noise_stddev / plan.expected_batch_size
            optimiser.step(
                noisy_gradient(gradients, data, plan, source, data.users, clip=clip),
                learning_rate=rates.at(first_step_of(order) + step),
                noise_variance=noise_stddev**2,
            )
            model.set_vector(optimiser.vector)
            on_step(step + 1, plan.steps)
    return optimiser.moved.astype(np.float32)


def check_layers(model: AdapterModel, order: Order) -> None:
    """Refuse layer weights that fit no layer of the model: before anything is reserved for training that cannot be.

    Raises:
        Refusal: a weight is for no layer of the adapter, or a layer has two.
    """
    try:
        DpSgdPlan.from_spec(order.training).groups(model.layout.names)
    except TrainingError as error:
        raise Refusal(RefusalReason.ORDER_MALFORMED, error.message, hint=error.hint) from error


def open_engine(model: AdapterModel, engine: Engine = LoraGradients) -> LoraGradients | HookedGradients:
    """Return the per-example gradient engine of a model, open: use it as a context manager, or close it.

    It was held against public texts first: records that depend on each other would break the clip bound.

    Raises:
        TrainingError: the engine refuses the model, or one record's gradient depends on the others.
    """
    gradients = engine(model.module, model.parameters, model.per_example_loss)
    try:
        with model.in_float32():
            check_independence(gradients, model.probe())
    except BaseException:
        gradients.close()
        raise
    return gradients


def check_model(model: AdapterModel, order: Order) -> None:
    """Raise TrainingError unless the model is the one the order was made for."""
    for what, ours, ordered in (
        ("adapter layout", model.layout.digest(), order.adapter_layout_digest),
        ("adapter length", model.layout.length, order.adapter_length),
        ("label set", model.labels, order.labels),
        ("max_tokens", model.max_tokens, order.training.max_tokens),
    ):
        if ours != ordered:
            raise TrainingError(
                f"the model's {what} is {ours}, but the order says {ordered}; expected the same",
                hint="build the model from the order's base model, LoRA, labels and max_tokens",
            )
