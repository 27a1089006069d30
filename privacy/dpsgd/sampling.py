"""Poisson sampling, and cutting a sample into physical batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from privacy.randomness import RandomSource, uniform

Indices = npt.NDArray[np.int64]


def poisson_sample(source: RandomSource, count: int, sample_rate: float) -> Indices:
    """Draw each of ``count`` records with probability ``sample_rate``, independently.

    Returns:
        int64 [B], ascending; B varies and may be 0. The probability is exact to 2^-53.
    """
    return np.flatnonzero(uniform(source, count) < sample_rate).astype(np.int64)


def physical_batches(indices: Indices, lengths: npt.NDArray[np.int64], size: int) -> Iterator[Indices]:
    """Cut a sample into batches of at most ``size`` records of like length, so that padding is not paid.

    Args:
        indices: int64 [B], the sample.
        lengths: int64 [n], the cost of each record of the dataset.
        size: most records in a batch.
    """
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
