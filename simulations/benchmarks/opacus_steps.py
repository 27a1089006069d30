"""The same private step by the engines of Opacus: hooks, functorch, expanded weights, ghost norms.

Each is used as its documentation says, on a model that nothing else wraps. Not all of them run on every model; what
does not is named with its error and not measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from opacus.grad_sample.gsm_exp_weights import GradSampleModuleExpandedWeights

from privacy.dpsgd import HookedGradients, clipped_sum
from simulations.benchmarks.lora_step import CLIP, LEARNING_RATE, Workload, private_step


def hooks_step(work: Workload) -> float:
    """Seconds with our reference engine, which uses Opacus's hooks and our clipping."""
    return private_step(work, HookedGradients).step_s


def functorch_step(work: Workload) -> float:
    """Seconds with per-example gradients by ``vmap(grad)`` of each layer."""
    with _wrapped(work, lambda module: GradSampleModule(module, loss_reduction="sum", force_functorch=True)) as wrapped:
        return _step_by_samples(work, wrapped)


def expanded_weights_step(work: Workload) -> float:
    """Seconds with the expanded weights of torch."""
    with _wrapped(work, lambda module: GradSampleModuleExpandedWeights(module, loss_reduction="sum")) as wrapped:
        return _step_by_samples(work, wrapped)


def ghost_step(work: Workload) -> float:
    """Seconds with ghost norms: one backward for the norms, one for the sum (Li et al. 2022)."""

    def wrap(module: Any) -> Any:
        return GradSampleModuleFastGradientClipping(
            module, loss_reduction="sum", max_grad_norm=CLIP, use_ghost_clipping=True
        )

    with _wrapped(work, wrap) as wrapped:
        started = work.clock()
        losses = work.loss(wrapped)
        losses.sum().backward(retain_graph=True)
        factors = wrapped.get_clipping_coef()
        _forget(work)
        wrapped.disable_hooks()
        (factors * losses).sum().backward()
        for parameter in work.parameters.values():
            parameter.data.sub_(parameter.grad, alpha=LEARNING_RATE / work.size.batch)
        return work.clock() - started


ENGINES: dict[str, Callable[[Workload], float]] = {
    "Opacus hooks": hooks_step,
    "Opacus functorch": functorch_step,
    "Opacus expanded weights": expanded_weights_step,
    "Opacus ghost": ghost_step,
}


def _step_by_samples(work: Workload, wrapped: Any) -> float:
    started = work.clock()
    work.loss(wrapped).sum().backward()
    total = clipped_sum([parameter.grad_sample for parameter in work.parameters.values()], CLIP)
    work.descend(total / work.size.batch)
    return work.clock() - started


@contextmanager
def _wrapped(work: Workload, wrap: Callable[[Any], Any]) -> Iterator[Any]:
    """Opacus's hooks look at the training flag of the layers that own parameters; dropout stays off."""
    for layer in work.module.modules():
        layer.training = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = wrap(work.module)
        try:
            yield wrapped
        finally:
            wrapped.remove_hooks()
            work.module.eval()
            _forget(work)


def _forget(work: Workload) -> None:
    for parameter in work.parameters.values():
        parameter.grad = None
        for name in ("grad_sample", "_norm_sample", "_forward_counter"):
            if hasattr(parameter, name):
                setattr(parameter, name, 0 if name == "_forward_counter" else None)
