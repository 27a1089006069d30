"""How cost grows: seconds as a sum of terms in the number of sites and coordinates, fitted to what was measured.

``a + b * masks * d + c * shares + e * d``: ``a`` is what every step costs, ``b`` one coordinate of one mask, ``c`` the
work on one share, key or commitment, ``e`` what happens to a coordinate once, such as its encoding. A client of a
cohort of n adds n masks and its shares grow with n^2; a server removes masks and rebuilds seeds.

Sizes span three decades, so relative errors are what is made small; no cost is negative (Lawson and Hanson 1974,
chapter 23: non-negative least squares).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured cost."""

    label: str
    length: int
    masks: int
    shares: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """Fitted coefficients, in seconds, and how far each sample is from them."""

    a_s: float
    b_s: float
    c_s: float
    e_s: float
    residuals: tuple[tuple[str, float], ...]
    """By sample: (measured - model) / measured."""

    def seconds(self, length: int, masks: int, shares: int) -> float:
        """Return what the model says."""
        return float(np.dot(_terms(length, masks, shares), (self.a_s, self.b_s, self.c_s, self.e_s)))

    @property
    def median_residual(self) -> float:
        """The median size of a relative residual."""
        return float(np.median([abs(residual) for _, residual in self.residuals]))

    def lines(self) -> list[str]:
        """Say it for people: coefficients, then every residual, the worst first."""
        head = (
            f"a {self.a_s * 1e3:.3g} ms + b {self.b_s * 1e9:.3g} ns * masks * d "
            f"+ c {self.c_s * 1e6:.3g} us * shares + e {self.e_s * 1e9:.3g} ns * d"
        )
        worst_first = sorted(self.residuals, key=lambda one: -abs(one[1]))
        return [head, *(f"  {label}: {100 * residual:+.0f} %" for label, residual in worst_first)]


def fit(samples: Sequence[Sample]) -> CostModel:
    """Fit the model to ``samples``.

    Raises:
        ValueError: fewer samples than coefficients.
    """
    if len(samples) < 4:
        raise ValueError(f"got {len(samples)} samples; four coefficients need at least four")
    measured = np.array([one.seconds for one in samples])
    rows = np.array([_terms(one.length, one.masks, one.shares) for one in samples]) / measured[:, None]
    # columns of one size keep the problem well conditioned: terms differ by twelve orders of magnitude
    sizes = np.linalg.norm(rows, axis=0)
    sizes[sizes == 0] = 1.0
    scaled, _ = nnls(rows / sizes, np.ones(len(samples)))
    coefficients = scaled / sizes
    residuals = 1.0 - rows @ coefficients
    labelled = tuple((one.label, float(value)) for one, value in zip(samples, residuals, strict=True))
    return CostModel(*map(float, coefficients), residuals=labelled)


def _terms(length: int, masks: int, shares: int) -> tuple[float, float, float, float]:
    return 1.0, float(masks) * length, float(shares), float(length)
