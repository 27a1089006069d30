"""Mode ``site``: a site's whole update as one clipped vector, so that one sum hides what the site contributed.

The unit of privacy is everything the site sends in a round. Neighbouring worlds differ in one site, whose update is
zero in one of them; in both it takes part and adds its share of the noise (zero-out adjacency). Zero is rounded to
zero, so the integer vectors of the two worlds differ by the site's own: at most ``C * scale + sqrt(d)`` units, the
sensitivity that :mod:`privacy.noise_shares` sizes the noise for. The records inside are not protected from whoever sees
more than the sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from privacy.noise_shares import ShareGrid, noised_contribution
from privacy.order import TrainingSpec
from privacy.randomness import RandomSource
from privacy.secagg.surplus import Contribution

#: A float64 sum of d squares, its root and the products that follow are off by less than (d + 8) of these, relatively.
_ROUNDING = 2.0**-53
_OPERATIONS = 8


def clipped_delta(delta: npt.NDArray[np.float64], l2_clip_norm: float) -> npt.NDArray[np.float64]:
    """Return ``delta`` scaled down to L2 norm ``l2_clip_norm`` at most: in real arithmetic, not only in float64.

    An update that is not finite becomes zero, which is within the bound. Raising would tell whoever sees the error
    something about the site's data.

    Args:
        delta: float64 [d], any values.
        l2_clip_norm: C, above zero.
    """
    if not np.isfinite(delta).all():
        return np.zeros_like(delta)
    largest = float(np.abs(delta).max(initial=0.0))
    if largest == 0.0:
        return delta
    # relative to the largest, so that no square overflows or vanishes
    norm = largest * float(np.linalg.norm(delta / largest)) * (1 + (delta.size + _OPERATIONS) * _ROUNDING)
    if norm <= l2_clip_norm:
        return delta
    return delta * (l2_clip_norm / norm)


def site_contribution(
    delta: npt.NDArray[np.float64],
    training: TrainingSpec,
    grid: ShareGrid,
    *,
    noise: RandomSource,
    rounding: RandomSource,
) -> Contribution:
    """Return what a site adds to a round's sum: its clipped, rounded update and a noise share, ring elements [d].

    Args:
        delta: float64 [d], how far the site's training moved the adapter.
        training: clip norm of an update, and noise multiplier of the whole sum.
        grid: of the secure sum.
        noise: where the share comes from.
        rounding: randomness of the rounding; must not depend on the data.

    Raises:
        TrainingError, EncodingRange: see :func:`privacy.noise_shares.noised_contribution`.
    """
    clipped = clipped_delta(delta, training.l2_clip_norm)
    return noised_contribution(clipped, training, grid, noise=noise, rounding=rounding)
