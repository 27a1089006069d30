"""Layers whose backward pass writes down each record's own gradient.

The gradient of a weight is a sum over records of products of what went into the layer and what came back to it. A
framework takes that sum in one product; these functions stop one step earlier and keep the summands. For a low-rank
factor they are as small as the factor, so this costs the multiplications of the batch gradient and no second backward
pass.

Inputs have the batch first, [B, ..., features]. What lies between is a record's own positions and is summed over.

Under autocast only frozen weights compute in the smaller type: trainable parameters, and the gradients written down,
stay in float32, whatever came in and whatever comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tacit.errors import TrainingError


class GradientBook:
    """Per-example gradients by parameter, filled by the backward pass of one batch.

    A parameter that is used more than once, because its layer is called more than once, has the sum over its uses.
    """

    def __init__(self) -> None:
        #: records of the batch that is under way; 0 between batches
        self.size = 0
        self._gradients: dict[int, torch.Tensor] = {}

    def open(self, size: int) -> None:
        """Begin a batch of ``size`` records with nothing written down."""
        self.size = size
        self._gradients.clear()

    def close(self) -> None:
        """Forget the batch and its gradients."""
        self.open(0)

    def add(self, parameter: int, gradient: torch.Tensor) -> None:
        """Write down ``gradient``, [B, *shape], of the parameter whose ``id`` is given."""
        before = self._gradients.get(parameter)
        self._gradients[parameter] = gradient if before is None else before + gradient

    def of(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """The gradients of ``parameter``, [B, *shape], or None if the backward pass did not come by."""
        return self._gradients.get(id(parameter))

    def check_batch(self, layer: str, inputs: torch.Tensor, feature_dims: int) -> None:
        """Refuse inputs that do not have this batch's records first.

        Raises:
            TrainingError: another size of the first dimension, or none before the features.
        """
        if inputs.dim() <= feature_dims or inputs.shape[0] != self.size:
            raise TrainingError(
                f"{layer} got inputs of shape {tuple(inputs.shape)} for a batch of {self.size} records; expected the "
                "records first, so that gradients can be told apart",
                hint="freeze this layer, or give it one row for each record",
            )


def lora_linear(
    inputs: torch.Tensor, base: nn.Linear, a: torch.Tensor, b: torch.Tensor, scaling: float, book: GradientBook
) -> torch.Tensor:
    """``W x + bias + s B (A x)``, with the gradients of A, B and the bias for each record.

    Hu et al. 2022, section 4.1.

    Args:
        inputs: x, [B, ..., in], of the same dtype as all weights.
        base: W, [out, in], frozen, and a bias.
        a: A, [r, in].
        b: B, [out, r].
        scaling: s.

    Returns:
        [B, ..., out].
    """
    if not torch.is_autocast_enabled(inputs.device.type):
        return _lora_as_one(inputs, base, a, b, scaling, book)
    if base.bias is not None and base.bias.requires_grad:
        return _in_float32(_lora_as_one, inputs, base, a, b, scaling, book)
    frozen = functional.linear(inputs, base.weight, base.bias)
    low = _in_float32(_weight_alone, inputs, a, book)
    return frozen + _in_float32(_weight_alone, low * scaling, b, book)


def linear(inputs: torch.Tensor, layer: nn.Linear, book: GradientBook) -> torch.Tensor:
    """``W x + bias``, [B, ..., out], with the gradients of W and the bias for each record."""
    output: torch.Tensor = _in_float32(_Linear.apply, inputs, layer.weight, layer.bias, book)
    return output


def layer_norm(inputs: torch.Tensor, layer: nn.LayerNorm, book: GradientBook) -> torch.Tensor:
    """Layer normalisation, [B, ..., *normalized_shape], with the gradients of scale and shift for each record."""
    return _in_float32(_normalised, inputs, layer, book)


def embedding(indices: torch.Tensor, layer: nn.Embedding, book: GradientBook) -> torch.Tensor:
    """Rows of the table, [B, ..., width], with the gradient of the table for each record: [B, rows, width], dense."""
    output: torch.Tensor = _Embedding.apply(indices, layer.weight, layer.padding_idx, book)  # type: ignore[no-untyped-call]
    return output


def _lora_as_one(
    inputs: torch.Tensor, base: nn.Linear, a: torch.Tensor, b: torch.Tensor, scaling: float, book: GradientBook
) -> torch.Tensor:
    output: torch.Tensor = _LoraLinear.apply(inputs, base.weight, base.bias, a, b, scaling, book)  # type: ignore[no-untyped-call]
    return output


def _weight_alone(inputs: torch.Tensor, weight: torch.Tensor, book: GradientBook) -> torch.Tensor:
    output: torch.Tensor = _Linear.apply(inputs, weight, None, book)  # type: ignore[no-untyped-call]
    return output


def _normalised(inputs: torch.Tensor, layer: nn.LayerNorm, book: GradientBook) -> torch.Tensor:
    normal = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    output: torch.Tensor = _ScaleAndShift.apply(normal, layer.weight, layer.bias, book)  # type: ignore[no-untyped-call]
    return output


def _in_float32(compute: Callable[..., torch.Tensor], inputs: torch.Tensor, *others: Any) -> torch.Tensor:
    """``compute`` with autocast off and float32 inputs, if autocast is on; else as it is."""
    device = inputs.device.type
    if not torch.is_autocast_enabled(device):
        return compute(inputs, *others)
    with torch.autocast(device, enabled=False):
        return compute(inputs.float(), *others)


def _by_record(values: torch.Tensor, size: int) -> torch.Tensor:
    return values.reshape(size, -1, values.shape[-1])


class _LoraLinear(torch.autograd.Function):
    """Written for few passes over wide tensors: both low-rank products are added where the base's product lies.

    ``ctx.needs_input_grad`` is (inputs, W, bias, A, B, ...).
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        book: GradientBook,
    ) -> torch.Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        low = (rows @ a.t()).mul_(scaling)  # s A x: as narrow as the rank
        output = functional.linear(rows, weight, bias).addmm_(low, b.t())
        # With a frozen A (FFA-LoRA) nobody needs the inputs again.
        ctx.save_for_backward(inputs if ctx.needs_input_grad[3] else None, low, weight, a, b)
        ctx.input_shape, ctx.scaling, ctx.book = inputs.shape, scaling, book
        ctx.keys = (id(bias), id(a), id(b))
        return output.reshape(*inputs.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, back: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, low, weight, a, b = ctx.saved_tensors
        wants_inputs, _, wants_bias, wants_a, wants_b = ctx.needs_input_grad[:5]
        bias_key, a_key, b_key = ctx.keys
        size = ctx.input_shape[0]
        rows = back.reshape(-1, back.shape[-1])
        if wants_b:
            # (s A x)^T g rather than g^T (s A x): the long side stays contiguous
            ctx.book.add(b_key, torch.bmm(_by_record(low, size).mT, _by_record(rows, size)).mT)
        if wants_bias:
            ctx.book.add(bias_key, _by_record(rows, size).sum(1))
        to_inputs = None
        if wants_a or wants_inputs:
            low_back = (rows @ b).mul_(ctx.scaling)
            if wants_a:
                ctx.book.add(a_key, torch.bmm(_by_record(low_back, size).mT, _by_record(inputs, size)))
            if wants_inputs:
                to_inputs = (rows @ weight).addmm_(low_back, a).reshape(ctx.input_shape)
        return to_inputs, None, None, None, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, book: GradientBook
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.book, ctx.keys = book, (id(weight), id(bias))
        return functional.linear(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, back: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        size = len(inputs)
        if wants_weight:
            ctx.book.add(ctx.keys[0], torch.bmm(_by_record(back, size).mT, _by_record(inputs, size)))
        if wants_bias:
            ctx.book.add(ctx.keys[1], _by_record(back, size).sum(1))
        return back @ weight if wants_inputs else None, None, None, None


class _ScaleAndShift(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, normal: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, book: GradientBook
    ) -> torch.Tensor:
        ctx.save_for_backward(normal, weight)
        ctx.book, ctx.keys = book, (id(weight), id(bias))
        return normal * weight if bias is None else torch.addcmul(bias, normal, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, back: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normal, weight = ctx.saved_tensors
        wants_normal, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        shape = (len(normal), -1, *weight.shape)
        if wants_weight:
            ctx.book.add(ctx.keys[0], (back * normal).reshape(shape).sum(1))
        if wants_bias:
            ctx.book.add(ctx.keys[1], back.reshape(shape).sum(1))
        return back * weight if wants_normal else None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, indices: torch.Tensor, weight: torch.Tensor, padding_idx: int | None, book: GradientBook
    ) -> torch.Tensor:
        ctx.save_for_backward(indices)
        ctx.book, ctx.key, ctx.shape, ctx.padding_idx = book, id(weight), weight.shape, padding_idx
        return functional.embedding(indices, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, back: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        size, (count, width) = len(indices), ctx.shape
        gradient = back.new_zeros(size * count, width)
        offsets = count * torch.arange(size, device=indices.device)
        places = indices.reshape(size, -1) + offsets[:, None]
        gradient.index_add_(0, places.flatten(), back.reshape(-1, width))
        gradient = gradient.reshape(size, count, width)
        if ctx.padding_idx is not None:
            gradient[:, ctx.padding_idx] = 0
        ctx.book.add(ctx.key, gradient)
        return None, None, None, None
