"""What every engine promises: gradients equal to one example at a time, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from privacy.dpsgd import HookedGradients, LoraGradients
from tacit.errors import TrainingError

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook")

VOCABULARY, WIDTH, CLASSES = 23, 12, 5
Batch = tuple[torch.Tensor, torch.Tensor]
Engine = type[HookedGradients] | type[LoraGradients]


@pytest.fixture(params=[LoraGradients, HookedGradients])
def engine_type(request: pytest.FixtureRequest) -> Engine:
    return request.param


class SmallModel(nn.Module):
    """Embedding, a frozen linear layer with low-rank factors, LayerNorm, a head: the layers that are supported."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.lora_a = nn.Linear(WIDTH, 2, bias=False)
        self.lora_b = nn.Linear(2, WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        hidden = torch.tanh(self.frozen(hidden) + self.lora_b(self.lora_a(hidden)))
        return self.head(self.norm(self.dropout(hidden)).mean(1))


def build() -> tuple[SmallModel, Callable[[Batch], torch.Tensor], Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = SmallModel()
        batch = (torch.randint(0, VOCABULARY, (7, 6)), torch.randint(0, CLASSES, (7,)))

    def loss(batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    return model, loss, batch


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def one_at_a_time(
    loss: Callable[[Batch], torch.Tensor], parameters: dict[str, nn.Parameter], batch: Batch
) -> list[torch.Tensor]:
    rows = []
    for index in range(len(batch[0])):
        alone = (batch[0][index : index + 1], batch[1][index : index + 1])
        rows.append(torch.autograd.grad(loss(alone).sum(), list(parameters.values())))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def test_equal_to_one_example_at_a_time(engine_type: Engine) -> None:
    model, loss, batch = build()
    parameters = trainable(model)
    assert len(parameters) == 7
    model.eval()
    expected = one_at_a_time(loss, parameters, batch)
    with engine_type(model, parameters, loss) as engine:
        for _ in range(2):
            for got, want in zip(engine.per_example(batch, 7), expected, strict=True):
                assert torch.linalg.vector_norm(got - want) <= 1e-5 * torch.linalg.vector_norm(want)


def test_order_is_that_of_the_parameters(engine_type: Engine) -> None:
    model, loss, batch = build()
    parameters = dict(reversed(trainable(model).items()))
    with engine_type(model, parameters, loss) as engine:
        shapes = [tuple(gradient.shape) for gradient in engine.per_example(batch, 7)]
    assert shapes == [(7, *parameter.shape) for parameter in parameters.values()]


def test_dropout_stays_off(engine_type: Engine) -> None:
    model, loss, batch = build()
    model.train()
    with engine_type(model, trainable(model), loss) as engine:
        first, second = engine.per_example(batch, 7), engine.per_example(batch, 7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_nothing_is_left_behind(engine_type: Engine) -> None:
    model, loss, batch = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(3):
        with engine_type(model, trainable(model), loss) as engine:
            engine.per_example(batch, 7)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert "forward" not in vars(module)
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not hasattr(parameter, "grad_sample")


@pytest.mark.parametrize("first", [LoraGradients, HookedGradients])
def test_second_engine_on_one_model_is_refused(engine_type: Engine, first: Engine) -> None:
    model, loss, _ = build()
    with first(model, trainable(model), loss), pytest.raises(TrainingError, match="already"):
        engine_type(model, trainable(model), loss)
    with engine_type(model, trainable(model), loss):
        pass


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_is_one_number_is_refused(engine_type: Engine, reduction: str) -> None:
    model, _, batch = build()

    def loss(batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction=reduction)

    expected = r"shape \(\), expected one value for each record: \(7,\)"
    with engine_type(model, trainable(model), loss) as engine, pytest.raises(TrainingError, match=expected):
        engine.per_example(batch, 7)


def test_a_loss_for_each_token_is_refused(engine_type: Engine) -> None:
    model, _, batch = build()
    engine = engine_type(model, trainable(model), lambda batch: model(batch[0]))
    with engine, pytest.raises(TrainingError, match=r"shape \(7, 5\)"):
        engine.per_example(batch, 7)


def test_trainable_parameter_of_an_unsupported_layer_is_refused(engine_type: Engine) -> None:
    model, loss, _ = build()
    model.frozen = nn.Bilinear(WIDTH, WIDTH, WIDTH)
    with pytest.raises(TrainingError, match=r"frozen\.weight belongs to a Bilinear"):
        engine_type(model, trainable(model), loss)


def test_bare_trainable_parameter_is_refused(engine_type: Engine) -> None:
    model, loss, _ = build()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(TrainingError, match="scale belongs to a SmallModel"):
        engine_type(model, trainable(model), loss)


def test_subclass_of_a_supported_layer_is_refused(engine_type: Engine) -> None:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + super().forward(2 * x)

    model, loss, _ = build()
    model.head = Odd(WIDTH, CLASSES)
    with pytest.raises(TrainingError, match="belongs to a Odd"):
        engine_type(model, trainable(model), loss)


def test_trainable_parameter_that_is_not_listed_is_refused(engine_type: Engine) -> None:
    model, loss, _ = build()
    parameters = trainable(model)
    del parameters["head.bias"]
    with pytest.raises(TrainingError, match=r"head\.bias is trainable but not part"):
        engine_type(model, parameters, loss)


def test_frozen_parameter_that_is_listed_is_refused(engine_type: Engine) -> None:
    model, loss, _ = build()
    with pytest.raises(TrainingError, match=r"frozen\.weight are listed"):
        engine_type(model, {**trainable(model), "frozen.weight": model.frozen.weight}, loss)


def test_parameter_of_two_layers_is_refused(engine_type: Engine) -> None:
    model, loss, _ = build()
    model.twin = nn.Linear(WIDTH, CLASSES, bias=False)
    model.twin.weight = model.head.weight
    with pytest.raises(TrainingError, match=r"twin\.weight and head\.weight are one parameter"):
        engine_type(model, trainable(model), loss)


def test_parameter_that_takes_no_part_in_the_loss_is_refused(engine_type: Engine) -> None:
    model, loss, batch = build()
    model.spare = nn.Linear(WIDTH, CLASSES)
    expected = r"spare\.weight has no per-example gradient"
    with engine_type(model, trainable(model), loss) as engine, pytest.raises(TrainingError, match=expected):
        engine.per_example(batch, 7)
