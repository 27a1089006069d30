"""How privacy figures and shares are written, wherever they are shown. What is spent is never rounded down."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal

_EPSILON_DIGITS = 3
#: enough for any float to be written out
_EXACT = 700


def epsilon_text(value: float | None, digits: int = _EPSILON_DIGITS) -> str:
    """An upper bound with ``digits`` after the point, rounded up; ``none claimed`` for None."""
    if value is None:
        return "none claimed"
    if not math.isfinite(value):
        return str(float(value))
    # the shortest decimal that is this float: 2.196 stays, where its binary digits would be a little more
    exact = Decimal(repr(float(value)))
    return str(exact.quantize(Decimal(1).scaleb(-digits), ROUND_CEILING, Context(prec=_EXACT)))


def up(value: float) -> float:
    """``value`` rounded up to three digits; a figure that is exact already stays."""
    return float(epsilon_text(value))


def accuracy_text(value: float) -> str:
    """A share as a percentage with one digit, rounded to nearest: ``91.7 %``."""
    return f"{value * 100:.1f} %"
