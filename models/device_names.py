"""How settings name devices and precisions: apart from :mod:`models.compute`, for settings are read without torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["float32", "bfloat16"]

#: ``auto`` is the first GPU, or the CPU where there is none
DEVICE_PATTERN = r"^(auto|cpu|cuda(:[0-9]+)?)$"
