"""Rényi differential privacy: fast, always finite, looser. The guard in front of the PLD accountant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from dp_accounting import rdp
from scipy import special

from privacy.accounting.spends import Spend, check_delta, merge
from privacy.events import DpEvent

#: Integer orders only: their moments are finite sums, so none of them can fail to converge.
ORDERS = (*range(2, 65), *range(72, 257, 8), 320, 384, 512, 768, 1024)

# Below it a step costs more than 10^11, and squares of it underflow.
_SMALLEST_NOISE_MULTIPLIER = 1e-6


def epsilon_rdp(events: Iterable[DpEvent], delta: float) -> float:
    """Return an upper bound on epsilon by Rényi composition (Mironov 2017; Mironov, Talwar and Zhang 2019).

    Add/remove adjacency. The conversion to (epsilon, delta) is Canonne, Kamath and Steinke 2020, proposition 12, as
    ``dp_accounting`` implements it.

    Raises:
        LedgerError: an event no accountant here can interpret.
        InputError: ``delta`` is not in (0, 1).
    """
    check_delta(delta)
    return rdp_of(merge(events), delta)


def rdp_of(spends: tuple[Spend, ...], delta: float) -> float:
    """:func:`epsilon_rdp` for spends that are merged already."""
    if not spends:
        return 0.0
    total = np.zeros(len(ORDERS))
    for spend in spends:
        total += spend.steps * _one_step(spend.noise_multiplier, spend.sample_rate)
    if not np.any(np.isfinite(total)):
        return math.inf
    epsilon, _ = rdp.compute_epsilon(ORDERS, total, delta)
    return float(epsilon)


@lru_cache(maxsize=4096)
def _one_step(noise_multiplier: float, sample_rate: float) -> npt.NDArray[np.float64]:
    """Rényi divergences at :data:`ORDERS` of one step, float64 ``(len(ORDERS),)``.

    Mironov, Talwar and Zhang 2019, section 3.3, all orders at once: log of the sum over k of
    C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 sigma^2)), over a - 1; their theorem 5 says that the other direction
    of add/remove is no worse.
    """
    if noise_multiplier < _SMALLEST_NOISE_MULTIPLIER:
        return np.full(len(ORDERS), np.inf)
    orders = np.array(ORDERS, dtype=np.float64)
    if sample_rate == 1.0:
        result: npt.NDArray[np.float64] = orders / (2 * noise_multiplier**2)
    else:
        terms = _BINOMIALS + _ABSENT * math.log1p(-sample_rate) + _DRAWN * math.log(sample_rate)
        moments = special.logsumexp(terms + _DRAWN * (_DRAWN - 1) / (2 * noise_multiplier**2), axis=1)
        # log(1) is where it starts: what rounding leaves below it is no gain.
        result = np.maximum(moments, 0.0) / (orders - 1)
    result.setflags(write=False)
    return result


#: k, a - k and log C(a, k) for every order a (rows) and k (columns); beyond a there is nothing.
_DRAWN = np.arange(max(ORDERS) + 1, dtype=np.float64)
_ABSENT = np.maximum(np.array(ORDERS, dtype=np.float64)[:, None] - _DRAWN, 0.0)
with np.errstate(divide="ignore"):
    _BINOMIALS = np.log(special.binom(np.array(ORDERS, dtype=np.float64)[:, None], _DRAWN))
