"""Rényi differential privacy: fast, always finite, looser. The guard in front of the PLD accountant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import dp_accounting
import numpy as np
import numpy.typing as npt
from dp_accounting import rdp

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
    if noise_multiplier < _SMALLEST_NOISE_MULTIPLIER:
        return np.full(len(ORDERS), np.inf)
    accountant = rdp.RdpAccountant(ORDERS, dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    )
    result: npt.NDArray[np.float64] = np.array(accountant.rdp, dtype=np.float64)
    result.setflags(write=False)
    return result
