"""Per-example gradients of LoRA adapters in one forward and one backward pass: the engine that is used.

For a layer ``y = W x + s B (A x)`` with frozen W, a record's gradients are two products over its own positions::

    u = s A x        dB_i = g_i^T u_i              [out, r]
    v = s g B        dA_i = v_i^T x_i              [r, in]

They are the multiplications of the batch gradient without its last sum, and as small as the factors, which is what
makes privacy nearly free here. Tricks for wide layers, such as ghost norms (Li et al. 2022, section 4) with their
second backward pass and their term in the square of the length, would cost more than they save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from privacy.dpsgd import layers
from privacy.dpsgd.gradients import PerExampleLoss, check_trainable
from tacit.errors import TrainingError

Forward = Callable[[torch.Tensor], torch.Tensor]

# bfloat16 carries 8 bits: a step of training is lost in the rounding of the weight it is added to.
_DTYPES = (torch.float32, torch.float64)


class LoraGradients:
    """Per-example gradients written down by the layers themselves. A context manager::

        with LoraGradients(module, parameters, loss) as engine:
            gradients = engine.per_example(batch, len(batch))

    While it is open, the layers that own trainable parameters compute in :mod:`privacy.dpsgd.layers`; without
    gradients (``torch.no_grad``) and outside :meth:`per_example` they compute as ever. A LoRA layer of ``peft`` on a
    linear layer is computed as one. Of any other wrapper (of a quantised layer, with LoRA's own dropout, in two dtypes)
    the factors are taken as the linear layers that they are, which is as exact and somewhat slower.

    A layer may be called several times in a forward pass; its gradients are summed. The module is left in ``eval()``,
    so dropout is off. Blocks with ``gradient_checkpointing`` on have their ``training`` flag set while the engine is
    open, because transformers looks at it; their children's stay off.

    Args:
        module: the model; what ``loss`` runs.
        parameters: its trainable parameters by name, in the order in which gradients are wanted. Exactly those
            with ``requires_grad``; float32 or float64. Frozen weights may have any dtype.
        loss: loss of each record of a batch, a vector [B]. Under ``torch.autocast`` frozen weights compute in the
            smaller type, the adapter and its gradients in float32.

    Raises:
        TrainingError: a trainable parameter is not listed, is shared between layers, has fewer bits than float32, or
            belongs to a layer whose per-example gradients are not supported; or another engine is open on the model.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, nn.Parameter], loss: PerExampleLoss) -> None:
        self.parameters = parameters
        self._module = module
        self._loss = loss
        self._book = layers.GradientBook()
        check_trainable(module, parameters)
        for name, parameter in parameters.items():
            if parameter.dtype not in _DTYPES:
                raise TrainingError(
                    f"{name} is {parameter.dtype}; expected trainable parameters in float32",
                    hint="load the frozen base model in the smaller type and keep the adapter in float32",
                )
        patches = _patches(module, self._book)
        module.eval()
        for block in module.modules():
            if getattr(block, "gradient_checkpointing", False):
                block.training = True
        self._patched = list(patches)
        for layer, forward in patches.items():
            layer.forward = forward

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the layers their own forward back and forget every gradient. Closing twice changes nothing."""
        for layer in self._patched:
            vars(layer).pop("forward", None)
        self._patched = []
        self._book.close()
        self._module.eval()

    def per_example(self, batch: Any, size: int) -> list[torch.Tensor]:
        """One tensor [size, *shape] for each parameter, of its dtype, in the order of :attr:`parameters`.

        Raises:
            TrainingError: the loss is not a vector of ``size`` values; a layer's inputs do not have the records first;
                a parameter got no gradient, or was used past its layer, where records cannot be told apart; or the
                engine is closed.
        """
        if not self._patched:
            raise TrainingError("this engine is closed; expected to be used inside its `with` block")
        for parameter in self.parameters.values():
            parameter.grad = None
        self._book.open(size)
        try:
            with torch.enable_grad():
                losses = self._loss(batch)
                if losses.shape != (size,):
                    raise TrainingError(
                        f"the loss has shape {tuple(losses.shape)}, expected one value for each record: ({size},)",
                        hint="a mean over records or tokens couples them, which breaks the clip bound; return a vector",
                    )
                if losses.requires_grad:
                    # Only the forward pass is anybody's to cast: what a layer writes down stays in float32.
                    with torch.autocast(losses.device.type, enabled=False):
                        # The gradient of the sum, taken record by record in the layers.
                        losses.sum().backward()  # type: ignore[no-untyped-call]
            return [self._gradient(name, parameter, size) for name, parameter in self.parameters.items()]
        finally:
            self._book.close()
            for parameter in self.parameters.values():
                parameter.grad = None

    def _gradient(self, name: str, parameter: nn.Parameter, size: int) -> torch.Tensor:
        # The layers send autograd no gradient of their parameters. One that arrives came another way.
        if parameter.grad is not None:
            raise TrainingError(
                f"{name} is used outside of its layer's forward, and that share of its gradient cannot be told apart "
                "by record",
                hint="freeze it; tied weights and DoRA do this",
            )
        gradient = self._book.of(parameter)
        if gradient is None or gradient.shape != (size, *parameter.shape):
            raise TrainingError(
                f"{name} has no per-example gradient of shape {(size, *parameter.shape)} after the backward pass",
                hint="every trainable parameter must take part in each record's loss, with the batch first",
            )
        return gradient


def _patches(module: nn.Module, book: layers.GradientBook) -> dict[nn.Module, Forward]:
    """The forward of every layer that computes with a trainable parameter."""
    patches: dict[nn.Module, Forward] = {}
    within_lora: set[nn.Module] = set()
    for name, layer in module.named_modules():
        if layer in within_lora:
            continue
        if (adapter := _lora_factors(layer)) is not None:
            base, a, b, scaling = adapter
            within_lora.update((base, a, b))
            if any(parameter.requires_grad for parameter in (*base.parameters(), *a.parameters(), *b.parameters())):
                compute = partial(layers.lora_linear, base=base, a=a.weight, b=b.weight, scaling=scaling, book=book)
                patches[layer] = _batch_first(layer, name, 1, compute, book)
        elif any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
            _check_own(layer, name)
            if isinstance(layer, nn.Linear):
                patches[layer] = _batch_first(layer, name, 1, partial(layers.linear, layer=layer, book=book), book)
            elif isinstance(layer, nn.LayerNorm):
                compute = partial(layers.layer_norm, layer=layer, book=book)
                patches[layer] = _batch_first(layer, name, len(layer.normalized_shape), compute, book)
            elif isinstance(layer, nn.Embedding):
                patches[layer] = _batch_first(layer, name, 0, partial(layers.embedding, layer=layer, book=book), book)
    return patches


def _lora_factors(layer: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear, float] | None:
    """(base, A, B, s) of a LoRA layer of ``peft`` that computes ``W x + bias + s B (A x)`` and nothing else.

    Known by its attributes, so that this package does not need ``peft``.
    """
    base = getattr(layer, "base_layer", None)
    active = getattr(layer, "active_adapters", None)
    if not isinstance(active, list) or len(active) != 1 or type(base) is not nn.Linear:
        return None
    if layer.merged or layer.disable_adapters:
        return None
    (adapter,) = active
    wrapper: Any = layer
    groups = (wrapper.lora_A, wrapper.lora_B)
    if any(not isinstance(group, nn.ModuleDict) or adapter not in group for group in groups):
        return None
    a, b = (group[adapter] for group in groups)
    if (
        type(a) is not nn.Linear
        or type(b) is not nn.Linear
        or a.bias is not None
        or b.bias is not None
        or base.weight.requires_grad
        or adapter in wrapper.lora_variant
        or getattr(wrapper.lora_dropout[adapter], "p", 0.0) > 0
        or len({base.weight.dtype, a.weight.dtype, b.weight.dtype}) > 1
        or any(_has_hooks(part) for part in (base, a, b))
    ):
        return None
    return base, a, b, float(wrapper.scaling[adapter])


def _has_hooks(layer: nn.Module) -> bool:
    """Would something be left out if this layer's weights were used without calling it?"""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or "forward" in vars(layer)


def _check_own(layer: nn.Module, name: str) -> None:
    """Refuse what a supported layer can be told to do beyond its formula."""
    strange = [own for own, value in layer.named_parameters(recurse=False) if own not in ("weight", "bias")]
    if strange:
        raise TrainingError(
            f"{name} has a trainable parameter {strange[0]!r}; expected weight and bias only",
            hint="remove weight normalisation from the layer",
        )
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        raise TrainingError(
            f"{name} is an embedding with max_norm or scale_grad_by_freq; expected neither",
            hint="both make one record's gradient depend on the others; freeze the table or switch them off",
        )


def _batch_first(
    layer: nn.Module, name: str, feature_dims: int, compute: Forward, book: layers.GradientBook
) -> Callable[..., torch.Tensor]:
    """``compute`` while a batch is under way and gradients are wanted; else the layer's own forward."""
    own: Callable[..., torch.Tensor] = layer.forward

    def forward(inputs: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not book.size or not torch.is_grad_enabled():
            return own(inputs, *args, **kwargs)
        if args or kwargs:
            raise TrainingError(f"{name} got more than its inputs: {sorted(kwargs) or args}; expected nothing else")
        book.check_batch(name, inputs, feature_dims)
        return compute(inputs)

    return forward
