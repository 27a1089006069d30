"""Per-example gradients: the interface of an engine, and Opacus's hooks as the reference engine.

The engine that is used is :class:`privacy.dpsgd.lora.LoraGradients`; this one is its independent second opinion.

Engines are interchangeable: each gives the gradient of every record's own loss with respect to every trainable
parameter. Clipping, noise and sampling never depend on which engine ran.

Only the hooks of Opacus are used. Its ``PrivacyEngine.make_private`` derives the divisor from the dataset's size
(a leak), crashes on an empty Poisson batch and cannot be called twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from tacit.errors import TrainingError

# The first layer of a frozen model has inputs without gradients: its hook gives the same per-example gradients.
warnings.filterwarnings("ignore", "Full backward hook is firing when gradients are computed", UserWarning)

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)

PerExampleLoss = Callable[[Any], torch.Tensor]
"""Loss of each record of a batch, a vector [B]. Never a mean, and never dependent on the other records."""

#: Layers for which per-example gradients are checked against a one-example-at-a-time loop.
SUPPORTED_LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, nn.LayerNorm, nn.Embedding)


class GradientEngine(Protocol[BatchT_contra]):
    """Computes per-example gradients of one model."""

    #: trainable parameters by name, in the order of the gradients
    parameters: Mapping[str, nn.Parameter]

    def per_example(self, batch: BatchT_contra, size: int) -> list[torch.Tensor]:
        """Gradients of ``size`` records' own losses: one tensor [size, *shape] for each parameter."""
        ...


class HookedGradients:
    """Per-example gradients by Opacus's backward hooks (``GradSampleModule``). A context manager::

        with HookedGradients(module, parameters, loss) as engine:
            gradients = engine.per_example(batch, len(batch))

    The module is left in ``eval()`` (no dropout, no running statistics); only the layers that own trainable
    parameters are put into training mode, because Opacus's hooks look at that flag.

    Args:
        module: the model; what ``loss`` runs.
        parameters: its trainable parameters by name, in the order in which gradients are wanted. Exactly those
            with ``requires_grad``.
        loss: loss of each record of a batch, a vector [B].

    Raises:
        TrainingError: a trainable parameter is not listed, is shared between layers, or belongs to a layer whose
            per-example gradients are not supported; or hooks are on the module already.
    """

    def __init__(self, module: nn.Module, parameters: Mapping[str, nn.Parameter], loss: PerExampleLoss) -> None:
        self.parameters = parameters
        self._loss = loss
        check_trainable(module, parameters)
        module.eval()
        self._guards = []
        for layer in module.modules():
            if any(parameter.requires_grad for parameter in layer.parameters(recurse=False)):
                layer.training = True
                # where it is computed, because a model or a loss may switch autocast on for itself
                self._guards.append(layer.register_forward_pre_hook(_refuse_autocast))
        self._hooks = GradSampleModule(module, batch_first=True, loss_reduction="sum", strict=True)
        self._module = module

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
        """Remove the hooks and every gradient; the module can be hooked again."""
        self._forget()
        self._hooks.remove_hooks()
        for guard in self._guards:
            guard.remove()
        for parameter in self._module.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
        self._module.eval()

    def per_example(self, batch: Any, size: int) -> list[torch.Tensor]:
        """One float32 tensor [size, *shape] for each parameter, in the order of :attr:`parameters`.

        Raises:
            TrainingError: the loss is not a vector of ``size`` values, a parameter got no gradient of that many
                records, or autocast is on.
        """
        self._forget()
        with torch.enable_grad():
            losses = self._loss(batch)
            if losses.shape != (size,):
                raise TrainingError(
                    f"the loss has shape {tuple(losses.shape)}, expected one value for each record: ({size},)",
                    hint="a mean over records or tokens couples them and breaks the clip bound; return a vector [B]",
                )
            # The gradient of the sum, taken record by record in the hooks.
            losses.sum().backward()  # type: ignore[no-untyped-call]
        gradients = []
        for name, parameter in self.parameters.items():
            gradient = getattr(parameter, "grad_sample", None)
            if not isinstance(gradient, torch.Tensor) or gradient.shape != (size, *parameter.shape):
                raise TrainingError(
                    f"{name} has no per-example gradient of shape {(size, *parameter.shape)} after the backward pass",
                    hint="every trainable parameter must take part in each record's loss, with the batch first",
                )
            gradients.append(gradient)
        self._forget()
        return gradients

    def _forget(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]


def _refuse_autocast(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    if any(torch.is_autocast_enabled(parameter.device.type) for parameter in layer.parameters(recurse=False)):
        raise TrainingError(
            "Opacus's hooks would take gradients in autocast's type; expected trainable layers in float32",
            hint="switch autocast off, or use LoraGradients, which keeps the adapter in float32",
        )


def check_trainable(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse a model of which some trainable parameter would be left out, counted twice or not be understood.

    Raises:
        TrainingError: a trainable parameter is not listed, is shared between layers, or belongs to a layer whose
            per-example gradients are not supported; a listed one is frozen or absent; or an engine is open.
    """
    if hasattr(module, "autograd_grad_sample_hooks"):
        raise TrainingError(
            "this model has per-example gradient hooks already; expected one engine on a model at a time",
            hint="leave the first engine's `with` block before entering a second",
        )
    listed = {id(parameter) for parameter in parameters.values()}
    owners: dict[int, str] = {}
    for layer_name, layer in module.named_modules():
        computes = hasattr(layer, "base_layer") or any(True for _ in layer.parameters(recurse=False))
        if computes and "forward" in vars(layer) and any(one.requires_grad for one in layer.parameters()):
            raise TrainingError(
                f"the forward of {layer_name or 'the model'} was replaced already; expected layers that compute what "
                "their class says, and one engine on a model at a time",
                hint="leave the first engine's `with` block before entering a second",
            )
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            full_name = f"{layer_name}.{name}" if layer_name else name
            if id(parameter) not in listed:
                raise TrainingError(
                    f"{full_name} is trainable but not part of the adapter; expected no other trainable parameter",
                    hint="freeze it, or list it in the adapter's layout",
                )
            if type(layer) not in SUPPORTED_LAYERS:
                raise TrainingError(
                    f"{full_name} belongs to a {type(layer).__name__}, whose per-example gradients are not supported; "
                    f"expected one of {', '.join(kind.__name__ for kind in SUPPORTED_LAYERS)}",
                    hint="freeze that layer; no trainable parameter is ever skipped",
                )
            if id(parameter) in owners:
                raise TrainingError(
                    f"{full_name} and {owners[id(parameter)]} are one parameter; expected no shared ones",
                    hint="freeze tied weights, or untie them",
                )
            owners[id(parameter)] = full_name
    absent = [name for name, parameter in parameters.items() if id(parameter) not in owners]
    if absent:
        raise TrainingError(
            f"{', '.join(absent)} are listed but are not trainable parameters of the model",
            hint="build the parameter list from the model that is trained",
        )
