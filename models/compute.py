"""How torch computes at a site: a fixed number of threads, because the last bits of a sum depend on it."""

from __future__ import annotations

import torch


def configure_compute(threads: int) -> None:
    """Use ``threads`` threads for one operation in this process, and only deterministic kernels.

    With the same number of threads on the same machine, a simulated and a deployed site compute the same bits.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
