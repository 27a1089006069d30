"""Weighted sums: ``(w * delta, w)`` in one masked vector, so that nobody but its site knows ``w``.

A site's weight is what its steward declared, capped and binned by agreement (:class:`privacy.order.WeightSpec`). It is
scaled by the cap, so that a weighted vector stays within the bound of an unweighted one and the proof that sums do
not wrap covers it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from privacy.order import WeightSpec
from tacit.errors import EncodingRange


def weigh(
    delta: npt.NDArray[np.float32] | npt.NDArray[np.float64], weight: int, spec: WeightSpec, value_bound: float
) -> npt.NDArray[np.float64]:
    """Return ``(share * delta, share * value_bound)``, float64 [d + 1]; ``share`` is the binned weight over the cap.

    Args:
        delta: float32 or float64, shape [d]; clipped to ``[-value_bound, value_bound]`` before it is weighted.
        weight: what the site declares.
        spec: cap and bin, as agreed.
        value_bound: of the encoding.
    """
    share = spec.binned(weight) / spec.cap
    clipped = np.clip(delta.astype(np.float64), -value_bound, value_bound)
    return share * np.append(clipped, value_bound)


def weighted_mean(total: npt.NDArray[np.float64], value_bound: float) -> npt.NDArray[np.float64]:
    """Return the weighted mean, float64 [d], of a decoded sum of :func:`weigh`'s vectors, float64 [d + 1].

    Raises:
        EncodingRange: the weights add up to nothing, which no honest sites' do.
    """
    weight = float(total[-1]) / value_bound
    if weight <= 0:
        raise EncodingRange(f"the weights of the sum add up to {weight:g}; expected more than zero")
    return total[:-1] / weight
