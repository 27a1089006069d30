"""Layers that are called often, strangely, or told to do more than their formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from privacy.dpsgd import LoraGradients
from tacit.errors import TrainingError

WIDTH, COUNT = 6, 5


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def both(model: nn.Module, inputs: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per-example gradients of a model that gives a vector [B], by the engine and by the naive loop."""
    parameters = trainable(model)
    with LoraGradients(model, parameters, model) as engine:
        got = engine.per_example(inputs, len(inputs))
    rows = [torch.autograd.grad(model(row[None]).sum(), list(parameters.values())) for row in inputs]
    return got, [torch.stack(column) for column in zip(*rows, strict=True)]


class Repeated(nn.Module):
    """One layer three times, as in ALBERT; once without gradients, where it may see what is no batch."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            start = self.layer(torch.ones_like(values[:1]))
        return self.layer(torch.tanh(self.layer(torch.tanh(self.layer(values + start))))).flatten(1).square().sum(1)


class Table(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.table = nn.Embedding(9, WIDTH, **options)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.table(tokens) + self.table(tokens.flip(1))).flatten(1).square().sum(1)


def assert_close(got: list[torch.Tensor], want: list[torch.Tensor]) -> None:
    for ours, expected in zip(got, want, strict=True):
        assert torch.linalg.vector_norm(ours - expected) <= 1e-5 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("shape", [(WIDTH,), (4, WIDTH), (3, 4, WIDTH)])
@pytest.mark.parametrize(
    "layer",
    [lambda: nn.Linear(WIDTH, WIDTH), lambda: nn.Linear(WIDTH, WIDTH, bias=False), lambda: nn.LayerNorm(WIDTH)],
)
def test_layer_that_is_called_again_has_the_sum(layer: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert_close(*both(Repeated(layer()), torch.randn(COUNT, *shape)))


def test_norm_over_two_dimensions_and_without_shift() -> None:
    torch.manual_seed(0)
    values = torch.randn(COUNT, 3, 4, WIDTH)
    assert_close(*both(Repeated(nn.LayerNorm((4, WIDTH))), values))
    assert_close(*both(Repeated(nn.LayerNorm(WIDTH, bias=False)), values))


@pytest.mark.parametrize("padding_idx", [None, 0, 4, -1])
def test_table_that_is_looked_up_twice(padding_idx: int | None) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 9, (COUNT, 7))
    got, want = both(Table(padding_idx=padding_idx), tokens)
    assert_close(got, want)
    if padding_idx is not None:
        assert not got[0][:, padding_idx].any()


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_table_that_couples_records_is_refused(option: dict[str, object]) -> None:
    model = Table(**option)
    with pytest.raises(TrainingError, match="max_norm or scale_grad_by_freq"):
        LoraGradients(model, trainable(model), model)


@pytest.mark.filterwarnings("ignore")
def test_weight_normalisation_is_refused() -> None:
    model = Repeated(nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH)))
    with pytest.raises(TrainingError, match=r"weight_[gv]"):
        LoraGradients(model, trainable(model), model)
    model = Repeated(nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)))
    with pytest.raises(TrainingError, match="not supported"):
        LoraGradients(model, trainable(model), model)


def test_records_that_are_not_first_are_refused() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    values = torch.randn(COUNT, 4, WIDTH)
    losses: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "positions first": lambda batch: model(batch.transpose(0, 1)).sum((0, 2)),
        "flattened": lambda batch: model(batch.flatten(0, 1)).reshape(COUNT, -1).sum(1),
        "one for all": lambda batch: batch.sum((1, 2)) + model(batch.mean((0, 1))).sum(),
    }
    for loss in losses.values():
        with (
            LoraGradients(model, trainable(model), loss) as engine,
            pytest.raises(TrainingError, match="expected the records first"),
        ):
            engine.per_example(values, COUNT)


def test_vector_as_long_as_the_batch_is_no_batch() -> None:
    model = nn.Linear(WIDTH, 1)
    with (
        LoraGradients(model, trainable(model), lambda batch: batch.sum(1) + model(batch[0])) as engine,
        pytest.raises(TrainingError, match="expected the records first"),
    ):
        engine.per_example(torch.randn(WIDTH, WIDTH), WIDTH)


def test_weight_that_is_used_past_its_layer_is_refused() -> None:
    """Part of the gradient would be missing from the norm; the layer itself saw only the rest."""
    model = nn.Linear(WIDTH, WIDTH)
    engine = LoraGradients(model, trainable(model), lambda batch: (model(batch) @ model.weight).sum(1))
    with engine, pytest.raises(TrainingError, match="used outside of its layer's forward"):
        engine.per_example(torch.randn(COUNT, WIDTH), COUNT)
    assert model.weight.grad is None, "a gradient of data is left behind"


def test_loss_without_gradients_is_refused() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    engine = LoraGradients(model, trainable(model), lambda batch: model(batch).sum(1).detach())
    with engine, pytest.raises(TrainingError, match="no per-example gradient"):
        engine.per_example(torch.randn(COUNT, WIDTH), COUNT)
    assert not model.training


def test_gradients_of_one_batch_do_not_reach_the_next() -> None:
    """A layer that takes no part in the second batch has no gradient there, not the first one's."""
    model = nn.ModuleList([nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)])

    def loss(batch: tuple[torch.Tensor, bool]) -> torch.Tensor:
        values, with_second = batch
        first = model[0](values).flatten()
        return first + model[1](values).flatten() if with_second else first

    values = torch.randn(COUNT, WIDTH)
    with LoraGradients(model, trainable(model), loss) as engine:
        engine.per_example((values, True), COUNT)
        with pytest.raises(TrainingError, match=r"1\.weight has no per-example gradient"):
            engine.per_example((values, False), COUNT)
