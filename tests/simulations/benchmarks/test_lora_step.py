"""All ways of taking a step of LoRA take the same step: else their times would say nothing."""

from __future__ import annotations

import pytest
import torch

from models.compute import Compute
from privacy.dpsgd import LoraGradients, clipped_sum
from simulations.benchmarks import lora_step, opacus_steps
from simulations.benchmarks.lora_step import Size, Workload, fused_step, private_step, stock_step


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def moved(work: Workload, step: object) -> torch.Tensor:
    """How far the parameters moved, float32 [P]; they are put back."""
    before = {name: parameter.detach().clone() for name, parameter in work.parameters.items()}
    step(work)
    delta = torch.cat([(parameter - before[name]).flatten() for name, parameter in work.parameters.items()]).detach()
    with torch.no_grad():
        for name, parameter in work.parameters.items():
            parameter.copy_(before[name])
    return delta


def assert_close(got: torch.Tensor, want: torch.Tensor) -> None:
    # steps are differences of float32 weights: 1e-3 of a gradient against a weight
    assert torch.linalg.vector_norm(got - want) <= 1e-2 * torch.linalg.vector_norm(want)


@pytest.mark.parametrize("model", ["minilm", "llama"])
def test_fused_step_is_the_stock_step(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_step, "LEARNING_RATE", 1.0)
    work = Workload(Size(model, "all", 2, 4))
    assert_close(moved(work, fused_step), moved(work, stock_step))


def test_the_step_in_bfloat16_is_nearly_the_step_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_step, "LEARNING_RATE", 1.0)
    monkeypatch.setattr(lora_step, "NOISE_MULTIPLIER", 0.0)
    size = Size("minilm", "attention", 2, 4)
    usual, rounded = (
        moved(Workload(size, Compute(precision=precision)), private_step) for precision in ("float32", "bfloat16")
    )
    assert 0 < torch.linalg.vector_norm(usual - rounded) < 0.1 * torch.linalg.vector_norm(usual)


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", opacus_steps.ENGINES)
def test_opacus_takes_the_private_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lora_step, opacus_steps):
        monkeypatch.setattr(module, "LEARNING_RATE", 1.0, raising=False)
        monkeypatch.setattr(module, "CLIP", 0.05)
    monkeypatch.setattr(lora_step, "NOISE_MULTIPLIER", 0.0)
    work = Workload(Size("minilm", "attention", 3, 4))
    with LoraGradients(work.module, work.parameters, lambda _: work.loss()) as engine:
        total = clipped_sum(engine.per_example(None, 3), 0.05)
    ours = moved(work, private_step)
    assert_close(ours, (-total / 3).float())
    assert_close(moved(work, opacus_steps.ENGINES[name]), ours)
