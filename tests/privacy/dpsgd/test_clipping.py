"""Clipping: the bound holds in exact arithmetic, and norms do not read low."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.dpsgd import clip_factors, clipped_sum, gradient_norms
from privacy.dpsgd.clipping import _as_stored

SHAPES = ((3, 4), (5,), (2, 2, 2))


def random_gradients(count: int, scale: float, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = scale * torch.rand(count, generator=generator)
    return [torch.randn(count, *shape, generator=generator) * size.reshape(-1, *[1] * len(shape)) for shape in SHAPES]


def naive_norm(gradients: list[torch.Tensor], index: int) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for g in gradients for v in g[index].flatten().tolist()))


def naive_clipped_sum(gradients: list[torch.Tensor], bound: float) -> torch.Tensor:
    total = torch.zeros(sum(g[0].numel() for g in gradients), dtype=torch.float64)
    for index in range(len(gradients[0])):
        flat = torch.cat([g[index].flatten() for g in gradients]).double()
        total += flat * min(1.0, bound / naive_norm(gradients, index))
    return total


def test_norms_are_over_all_parameters() -> None:
    gradients = random_gradients(9, 3.0)
    norms = gradient_norms(gradients)
    assert norms.dtype == torch.float64
    for index in range(9):
        assert norms[index].item() == pytest.approx(naive_norm(gradients, index), rel=1e-12)


def test_norms_of_many_small_values_do_not_read_low() -> None:
    # One large value first: a float32 accumulator loses what is added to it afterwards.
    gradient = torch.full((1, 4_000_000), 1e-3)
    gradient[0, 0] = 30.0
    exact = math.sqrt(30.0**2 + 3_999_999 * float(gradient[0, 1]) ** 2)
    assert gradient_norms([gradient]).item() == pytest.approx(exact, rel=1e-9)
    assert torch.linalg.vector_norm(gradient).item() != pytest.approx(exact, rel=1e-9)


def test_sum_equals_naive_sum() -> None:
    gradients = random_gradients(12, 2.0)
    norms = gradient_norms(gradients)
    assert (norms < 1.5).any()
    assert (norms > 1.5).any()
    result = clipped_sum(gradients, 1.5)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, naive_clipped_sum(gradients, 1.5), rtol=1e-5, atol=1e-6)


@given(scale=st.floats(1e-6, 1e6), bound=st.floats(1e-3, 1e3), seed=st.integers(0, 1000), count=st.integers(1, 6))
def test_no_record_adds_more_than_the_bound(scale: float, bound: float, seed: int, count: int) -> None:
    gradients = random_gradients(count, scale, seed)
    for index in range(count):
        contribution = clipped_sum([g[index : index + 1] for g in gradients], bound)
        assert math.sqrt(math.fsum(v**2 for v in contribution.tolist())) <= bound
    total = clipped_sum(gradients, bound)
    # the sum is rounded to float32 as it is taken
    assert total.norm().item() <= count * bound * (1 + 1e-6)


def test_short_gradients_are_left_alone() -> None:
    assert clip_factors(torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64), 1.0).tolist() == pytest.approx(
        [1.0, 1.0, 0.5], rel=1e-5
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_overflows_adds_nothing(value: float) -> None:
    gradients = random_gradients(4, 1.0)
    without = [torch.cat([g[:2], g[3:]]) for g in gradients]
    gradients[1][2, 0] = value
    torch.testing.assert_close(clipped_sum(gradients, 1.0), clipped_sum(without, 1.0))


def test_transposed_gradients_give_the_same_sum_without_a_copy() -> None:
    """The engine hands LoRA B's gradients over as transposes; flattening them would copy every record's."""
    gradients = random_gradients(6, 2.0)
    turned = [gradients[0].mT.contiguous().mT, *gradients[1:]]
    assert not turned[0].is_contiguous()
    assert _as_stored(turned[0]).is_contiguous()
    assert torch.equal(clipped_sum(turned, 1.5), clipped_sum(gradients, 1.5))
    torch.testing.assert_close(gradient_norms(turned), gradient_norms(gradients), rtol=1e-14, atol=0)
