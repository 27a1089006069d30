"""Where and how a site computes: device, threads and precision. Its own choice, which nobody else has to share.

Sums of updates are integers and steps of the optimiser are taken on the CPU in float64, so sites with and without a GPU
train together. What differs is the last bits of a site's own gradients.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from models.device_names import Precision
from tacit.errors import ConfigError


@dataclass(frozen=True)
class Compute:
    """A device, and the type in which frozen weights are multiplied on it.

    With ``bfloat16`` the base model runs under ``torch.autocast``. The adapter, its per-example gradients, norms,
    clipping and noise stay in float32 or better whatever is chosen here, so the clip bound does not depend on it.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which the base model runs."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def configure_compute(threads: int, device: str = "cpu", precision: Precision = "float32") -> Compute:
    """Set this process up to compute with ``threads`` threads for one operation, and return where its models belong.

    On the CPU only deterministic kernels are used: with the same number of threads on the same machine, a simulated and
    a deployed site compute the same bits. On a GPU they are used where there is one, and nothing is claimed about bits.

    Args:
        threads: of the CPU.
        device: see ``DEVICE_PATTERN``.
        precision: of the frozen weights' products.

    Raises:
        ConfigError: torch does not see the device, or the device does not compute in the precision.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        _check_cuda(chosen, precision)
        # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=chosen.type == "cuda")
    return Compute(chosen, precision)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _check_cuda(device: torch.device, precision: Precision) -> None:
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= seen:
        raise ConfigError(
            f"device is {str(device)!r}, but torch {torch.__version__} sees {seen} CUDA devices on this machine",
            hint='set device = "cpu" or "auto", or install a CUDA build of torch and its driver',
        )
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"precision is bfloat16, but {torch.cuda.get_device_name(device)} does not compute in it",
            hint='set precision = "float32"',
        )
