"""What is spent is rounded up, and a share goes to nearest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tacit.figures import accuracy_text, epsilon_text, up


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (2.196, 3, "2.196"),
        (2.1960000000000006, 3, "2.197"),
        (7.9930001, 3, "7.994"),
        (1e-12, 3, "0.001"),
        (0.0, 3, "0.000"),
        (8, 3, "8.000"),
        (2.5, 2, "2.50"),
        (7.991, 2, "8.00"),
        (1e300, 0, "1" + "0" * 300),
        (float("inf"), 3, "inf"),
        (None, 3, "none claimed"),
    ],
)
def test_epsilon_is_rounded_up(value: float | None, digits: int, text: str) -> None:
    assert epsilon_text(value, digits) == text


def test_no_epsilon_is_shown_smaller_than_it_is() -> None:
    for value in np.random.default_rng(3).uniform(-20, 20, 2000).tolist():
        shown, exact = Fraction(epsilon_text(value)), Fraction(repr(value))
        assert exact <= shown < exact + Fraction(1, 1000)
        assert Fraction(repr(up(value))) == shown


@pytest.mark.parametrize(
    ("share", "text"), [(0.9174, "91.7 %"), (0.91751, "91.8 %"), (0.999, "99.9 %"), (1.0, "100.0 %"), (0.0, "0.0 %")]
)
def test_accuracy_goes_to_nearest(share: float, text: str) -> None:
    assert accuracy_text(share) == text
