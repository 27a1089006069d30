"""Per-layer clipping: one norm for each layer, and the whole gradient's still at most C."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privacy.dpsgd import ClipGroups, DpSgdPlan, clip_by_group, clip_sample, clipped_sum
from privacy.options import LayerWeight
from tacit.errors import TrainingError
from tests.privacy.dpsgd.language_models import (
    Case,
    Engine,
    HookedGradients,
    LoraGradients,
    Texts,
    causal_llama,
    one_at_a_time,
    sequence_classifier,
    token_classifier,
)

CLIP = 0.4
PLAN = DpSgdPlan(
    sample_rate=0.5,
    noise_multiplier=1.0,
    l2_clip_norm=CLIP,
    expected_batch_size=6.0,
    steps=1,
    physical_batch_size=4,
    clipping="per-layer",
    layer_weights=(LayerWeight(layer="classifier", weight=3.0),),
)
NAMES = [
    "encoder.layer.0.query.lora_A.weight",
    "encoder.layer.0.query.lora_B.weight",
    "encoder.layer.0.value.lora_A.weight",
    "classifier.weight",
    "encoder.layer.1.query.lora_B.weight",
    "classifier.bias",
]


def naive_sum(gradients: list[torch.Tensor], groups: list[list[int]], bounds: list[float]) -> np.ndarray:
    """Record by record and group by group, in plain numpy float64."""
    total = [np.zeros(gradient.shape[1:]) for gradient in gradients]
    for record in range(len(gradients[0])):
        for members, bound in zip(groups, bounds, strict=True):
            pieces = [gradients[index][record].double().numpy() for index in members]
            norm = math.sqrt(math.fsum(float((piece**2).sum()) for piece in pieces))
            for index, piece in zip(members, pieces, strict=True):
                total[index] += piece * min(1.0, bound / norm if norm else 1.0)
    return np.concatenate([each.ravel() for each in total])


# --- groups


def test_a_layer_s_parameters_share_a_norm() -> None:
    groups = ClipGroups.per_layer(NAMES, {})
    assert groups.members == ((0, 1), (2,), (3, 5), (4,))
    assert groups.shares == (0.25,) * 4
    assert groups.bounds(2.0) == [1.0] * 4


def test_weights_share_the_square_of_the_clip_norm() -> None:
    groups = ClipGroups.per_layer(NAMES, {"classifier": 4.0, "encoder.layer.0.value": 2.0})
    assert groups.shares == pytest.approx((1 / 8, 2 / 8, 4 / 8, 1 / 8))
    assert math.fsum(bound**2 for bound in groups.bounds(3.0)) == pytest.approx(9.0)
    # one name may fit several layers
    assert ClipGroups.per_layer(NAMES, {"query": 3.0}).shares == pytest.approx((3 / 8, 1 / 8, 1 / 8, 3 / 8))


@pytest.mark.parametrize(
    ("weights", "words"),
    [({"clasifier": 2.0}, "clasifier fit no trainable layer"), ({"query": 2.0, "encoder": 3.0}, "weights of query")],
)
def test_weights_that_fit_no_layer_or_fit_one_twice_are_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        ClipGroups.per_layer(NAMES, weights)


@pytest.mark.parametrize(
    ("members", "shares"),
    [
        (((0,), (2,)), (0.5, 0.5)),
        (((0, 1), (1,)), (0.5, 0.5)),
        (((0,), (1,)), (0.5, 0.6)),
        (((0,), (1,)), (1.5, -0.5)),
        (((0,), (1,)), (1.0,)),
        ((), ()),
    ],
)
def test_groups_that_would_not_bound_the_whole_are_refused(
    members: tuple[tuple[int, ...], ...], shares: tuple[float, ...]
) -> None:
    with pytest.raises(TrainingError):
        ClipGroups(members, shares)


def test_groups_for_other_parameters_are_refused() -> None:
    with pytest.raises(TrainingError, match="for 3 parameters"):
        clip_by_group([torch.ones(2, 2)] * 3, 1.0, ClipGroups.flat(2))


@given(
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    st.floats(0.01, 10),
    st.floats(0.001, 1000),
    st.integers(0, 99),
)
def test_no_record_adds_more_than_the_bound(weights: list[float], clip: float, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = [scale * torch.randn(1, *shape, generator=generator) for shape in ((3, 2), (4,), (2, 5))]
    groups = ClipGroups(((0,), (2,), (1,)), tuple(weight / math.fsum(weights) for weight in weights))
    clipped = clip_by_group(gradients, clip, groups)
    assert float(clipped.total.norm()) <= clip
    naive = naive_sum(gradients, [[0], [2], [1]], groups.bounds(clip))
    np.testing.assert_allclose(clipped.total.numpy(), naive, rtol=1e-4, atol=1e-5 * clip)


def test_unclipped_are_those_of_which_no_group_was_clipped() -> None:
    gradients = [
        torch.tensor([[3.0], [5.0], [3.0], [math.nan], [0.0]]),
        torch.tensor([[4.0], [0.0], [6.0], [0.0], [0.0]]),
    ]
    apart = ClipGroups(((0,), (1,)), (0.36, 0.64))
    # bounds 3 and 4; together 5
    assert float(clip_by_group(gradients, 5.0, apart).unclipped) == 2
    assert float(clip_by_group(gradients, 5.0, ClipGroups.flat(2)).unclipped) == 3


def test_one_group_is_flat_clipping_bit_for_bit() -> None:
    gradients = [torch.randn(5, 3, 2), torch.randn(5, 4)]
    flat = clip_by_group(gradients, 0.7, ClipGroups.flat(2)).total
    assert torch.equal(flat, clipped_sum(gradients, 0.7))


# --- with both engines, on language models


TASKS = {
    "token classification": token_classifier,
    "sequence classification": sequence_classifier,
    "causal LM with a head": lambda: causal_llama(("q_proj", "v_proj"), modules_to_save=["lm_head"]),
}


def plan_for(case: Case) -> DpSgdPlan:
    head = "lm_head" if any("lm_head" in name for name in case.parameters) else "classifier"
    return DpSgdPlan(**{**vars(PLAN), "layer_weights": (LayerWeight(layer=head, weight=3.0),)})


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("kind", [LoraGradients, HookedGradients])
@pytest.mark.parametrize("task", TASKS)
def test_engines_clip_each_layer_as_a_naive_loop_does(task: str, kind: Engine) -> None:
    case, texts = TASKS[task](), Texts()
    plan, names = plan_for(case), list(case.parameters)
    gradients = one_at_a_time(case, texts)
    with case.engine(kind) as engine:
        got = clip_sample(engine, texts, np.arange(len(texts)), plan, CLIP)
    layers = sorted({_layer(name) for name in names})
    groups = [[index for index, name in enumerate(names) if _layer(name) == layer] for layer in layers]
    weights = [3.0 if "classifier" in layer or "lm_head" in layer else 1.0 for layer in layers]
    bounds = [CLIP * math.sqrt(weight / sum(weights)) for weight in weights]
    np.testing.assert_allclose(got.total, naive_sum(gradients, groups, bounds), atol=2e-6 * CLIP)
    # the clip binds, and not everywhere
    flat = naive_sum(gradients, [list(range(len(names)))], [CLIP])
    assert np.linalg.norm(got.total - flat) > 0.05 * CLIP


def _layer(name: str) -> str:
    for ending in (".lora_A.default.weight", ".lora_B.default.weight", ".weight", ".bias"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise AssertionError(name)


@pytest.mark.parametrize("task", TASKS)
def test_removing_one_record_changes_the_sum_by_at_most_the_clip_norm(task: str) -> None:
    case, texts = TASKS[task](), Texts()
    plan = plan_for(case)
    with case.engine() as engine:
        everybody = clip_sample(engine, texts, np.arange(len(texts)), plan, CLIP)
        rest = [texts.without(index) for index in range(len(texts))]
        sums = [clip_sample(engine, each, np.arange(len(each)), plan, CLIP) for each in rest]
    change = max(float(np.linalg.norm(everybody.total - each.total)) / CLIP for each in sums)
    assert change <= 1.0 + 1e-5
    # nearly every layer of some record is clipped, so groups that were each clipped to C would be seen
    assert change > 0.6
    assert {abs(everybody.centred_count - each.centred_count) for each in sums} == {0.5}
