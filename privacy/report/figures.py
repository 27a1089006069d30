"""How numbers are written on a report's page. Privacy figures and shares: as everywhere, :mod:`tacit.figures`."""

from __future__ import annotations

import math

from tacit.figures import accuracy_text, epsilon_text, up

__all__ = [
    "accuracy_text",
    "adjacency_text",
    "bytes_text",
    "delta_text",
    "duration_text",
    "epsilon_text",
    "moment_text",
    "scale_text",
    "sentence",
    "up",
]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def bytes_text(size_bytes: int) -> str:
    """Decimal units: ``609 kB``, ``18.3 MB``."""
    value, unit = float(size_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{size_bytes} B" if unit == "B" else f"{value:.3g} {unit}"


def duration_text(seconds: float) -> str:
    """``48 s``, ``3 min 25 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def delta_text(value: float) -> str:
    """A power of ten as ``10⁻⁵``, anything else as it is."""
    return _power_text(value, 10)


def scale_text(value: float) -> str:
    """A power of two as ``2²⁴``, anything else as it is."""
    return _power_text(value, 2)


def _power_text(value: float, base: int) -> str:
    exponent = round(math.log(value, base))
    if math.isclose(value, float(base) ** exponent, rel_tol=1e-12):
        return f"{base}{str(exponent).translate(_SUPERSCRIPTS)}"
    return f"{value:g}"


def moment_text(rfc3339: str) -> str:
    """``2026-03-05 09:30 UTC``; anything unexpected as it is."""
    if len(rfc3339) >= 19 and rfc3339[10] == "T" and rfc3339.endswith(("+00:00", "Z")):
        return f"{rfc3339[:10]} {rfc3339[11:16]} UTC"
    return rfc3339


def sentence(told: str) -> str:
    """``told`` with a full stop where it lacks an end; nothing stays nothing."""
    return told if not told or told.endswith((".", "!", "?")) else f"{told}."


def adjacency_text(adjacency: str) -> str:
    """The neighbouring relation in words: what is done to the one unit that differs."""
    return {"add-remove": "added or removed", "zero-out": "its contribution replaced by zero"}.get(adjacency, adjacency)
