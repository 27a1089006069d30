"""Clipping: each record's whole gradient has L2 norm at most C in the sum, by one norm or by one for each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from tacit.errors import TrainingError

# Factors and products are rounded to float32 (relative error 2^-24 each). This much less than C keeps the rounded
# contribution at or below C.
_ROUNDING_MARGIN = 1.0 - 2.0**-20


@dataclass(frozen=True)
class ClipGroups:
    """Which parameters are clipped together, and what share of C^2 each group has.

    A group's norm is clipped to ``C sqrt(share)``. Shares add up to 1, so the whole gradient's norm stays at most C
    (McMahan, Ramage, Talwar and Zhang 2018, section 3.1).

    Raises:
        TrainingError: a parameter is in no group or in two, or shares that are not positive or do not add up to 1.
    """

    #: indices of parameters, in the engine's order
    members: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        everything = sorted(index for group in self.members for index in group)
        if not everything or everything != list(range(len(everything))) or len(self.shares) != len(self.members):
            raise TrainingError(f"clip groups {self.members} do not hold each parameter once, with a share each")
        if not all(share > 0 for share in self.shares) or abs(math.fsum(self.shares) - 1.0) > 1e-9:
            raise TrainingError(
                f"shares {self.shares} of the clip norm's square are not positive or do not add up to 1"
            )

    @classmethod
    def flat(cls, parameters: int) -> Self:
        """One group: the whole gradient has one norm (Abadi et al. 2016)."""
        return cls((tuple(range(parameters)),), (1.0,))

    @classmethod
    def per_layer(cls, names: Sequence[str], weights: Mapping[str, float]) -> Self:
        """A group for each layer; both factors of a LoRA layer, and a weight and its bias, are of one layer.

        Args:
            names: of the parameters, in the engine's order: ``encoder.layer.0.attention.self.query.lora_A.weight``.
            weights: what a layer counts in the sharing of C^2, by a dotted part of its name or the whole; 1 for a
                layer that is not named.

        Raises:
            TrainingError: a weight is for no layer, or a layer has two.
        """
        layers: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            layers.setdefault(_layer_of(name), []).append(index)
        counted = []
        unused = set(weights)
        for layer in layers:
            found = [each for each in weights if each == layer or each in layer.split(".")]
            if len(found) > 1:
                raise TrainingError(
                    f"the layer {layer} has the weights of {', '.join(found)}; expected one",
                    hint="name each layer once in [[training.layer_weights]]",
                )
            unused.difference_update(found)
            counted.append(weights[found[0]] if found else 1.0)
        if unused:
            parts = sorted({layer.rpartition(".")[2] for layer in layers})
            raise TrainingError(
                f"layer weights for {', '.join(sorted(unused))} fit no trainable layer; "
                f"expected parts of their names, such as {', '.join(parts)}",
                hint="correct [[training.layer_weights]]",
            )
        whole = math.fsum(counted)
        return cls(tuple(tuple(group) for group in layers.values()), tuple(weight / whole for weight in counted))

    def bounds(self, l2_clip_norm: float) -> list[float]:
        """Each group's clip norm; their squares add up to ``l2_clip_norm`` squared."""
        return [l2_clip_norm * math.sqrt(share) for share in self.shares]


@dataclass(frozen=True)
class ClippedSum:
    """What a batch adds: secret, without noise.

    Attributes:
        total: float64 [P], the sum of clipped gradients, parameters flattened and concatenated.
        unclipped: float64 [], how many records had no group's norm above its bound.
    """

    total: torch.Tensor
    unclipped: torch.Tensor


def gradient_norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norm of each record's gradient over all parameters.

    Args:
        gradients: one tensor [B, *shape] for each parameter.

    Returns:
        float64 [B]. Squares are accumulated in float64: in float32 the norm of 4 million values reads up to 4.6e-4
        low, and the clip bound would be exceeded by as much.
    """
    norms = [
        torch.linalg.vector_norm(_as_stored(gradient).flatten(1), dim=1, dtype=torch.float64) for gradient in gradients
    ]
    whole: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return whole


def clip_factors(norms: torch.Tensor, l2_clip_norm: float) -> torch.Tensor:
    """``min(1, C / norm)`` for each record, float64 [B], rounded down; 0 where the norm is not finite.

    A record whose gradient overflows contributes nothing, which is within the bound. Raising would tell whoever sees
    the error something about that record.
    """
    bound = l2_clip_norm * _ROUNDING_MARGIN
    factors = torch.clamp(bound / norms.clamp_min(torch.finfo(torch.float64).tiny), max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def clipped_sum(gradients: Sequence[torch.Tensor], l2_clip_norm: float) -> torch.Tensor:
    """Sum over records of gradients clipped to L2 norm ``l2_clip_norm``, by one norm.

    Args:
        gradients: one float32 tensor [B, *shape] for each parameter, per-example gradients.

    Returns:
        float64 [P], parameters flattened and concatenated in the given order. Adding or removing one record changes
        it by at most ``l2_clip_norm`` in L2 norm.
    """
    return clip_by_group(gradients, l2_clip_norm, ClipGroups.flat(len(gradients))).total


def clip_by_group(gradients: Sequence[torch.Tensor], l2_clip_norm: float, groups: ClipGroups) -> ClippedSum:
    """Clip each group of each record's gradient to its own bound, and sum over records.

    Adding or removing one record changes the total by at most ``l2_clip_norm`` in L2 norm, and the number of unclipped
    records by at most 1.

    Args:
        gradients: one float32 tensor [B, *shape] for each parameter, per-example gradients.

    Raises:
        TrainingError: the groups are for another number of parameters.
    """
    if sum(len(group) for group in groups.members) != len(gradients):
        raise TrainingError(f"clip groups {groups.members} were given for {len(gradients)} parameters")
    parts: dict[int, torch.Tensor] = {}
    unclipped = torch.ones(len(gradients[0]), dtype=torch.bool, device=gradients[0].device)
    for members, bound in zip(groups.members, groups.bounds(l2_clip_norm), strict=True):
        group = [gradients[index] for index in members]
        norms = gradient_norms(group)
        unclipped &= norms <= bound  # false for what is not finite
        parts |= zip(members, _weighted_sums(group, norms, bound), strict=True)
    total = torch.cat([parts[index] for index in range(len(gradients))]).to(torch.float64)
    return ClippedSum(total, unclipped.sum(dtype=torch.float64))


def _weighted_sums(gradients: Sequence[torch.Tensor], norms: torch.Tensor, bound: float) -> list[torch.Tensor]:
    """One flat sum over records for each parameter, of gradients clipped to ``bound`` by ``norms``, float64 [B]."""
    factors = clip_factors(norms, bound)
    finite = torch.isfinite(norms)
    all_finite = bool(finite.all())
    parts = []
    for gradient in gradients:
        stored = _as_stored(gradient)
        rows = stored.flatten(1)
        if not all_finite:
            # 0 * inf is not 0
            rows = torch.where(finite[:, None], rows, torch.zeros_like(rows))
        total = (factors.to(rows.dtype) @ rows).reshape(stored.shape[1:])
        parts.append((total if stored is gradient else total.mT).flatten())
    return parts


def _layer_of(name: str) -> str:
    parts = name.split(".")
    kept = [part for part in parts[:-1] if part not in ("lora_A", "lora_B")]
    return ".".join(kept) or name


def _as_stored(gradient: torch.Tensor) -> torch.Tensor:
    """``gradient`` [B, n, m], or its transpose [B, m, n] where that is what lies contiguous in memory."""
    if gradient.dim() == 3 and not gradient.is_contiguous() and gradient.mT.is_contiguous():
        return gradient.mT
    return gradient
