"""The fitted model finds the coefficients that made the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.benchmarks.cost_model import Sample, fit

A, B, C, E = 2e-3, 1.5e-9, 30e-6, 14e-9


def samples(noise: float = 0.0) -> list[Sample]:
    rng = np.random.default_rng(1)
    return [
        Sample(f"{d} {n}", d, n, n * n, (A + B * n * d + C * n * n + E * d) * (1 + noise * rng.uniform(-1, 1)))
        for d in (10**5, 10**6, 10**7)
        for n in (4, 10, 32)
    ]


def test_exact_numbers_give_the_exact_coefficients() -> None:
    model = fit(samples())
    assert (model.a_s, model.b_s, model.c_s, model.e_s) == pytest.approx((A, B, C, E), rel=1e-6)
    assert model.median_residual < 1e-9
    assert model.seconds(10**6, 10, 100) == pytest.approx(A + B * 10**7 + C * 100 + E * 10**6)


def test_noise_of_five_percent_stays_in_the_residuals() -> None:
    model = fit(samples(noise=0.05))
    assert model.b_s == pytest.approx(B, rel=0.15)
    assert 0 < model.median_residual < 0.05
    assert all(abs(residual) < 0.12 for _, residual in model.residuals)


def test_no_cost_is_negative() -> None:
    shrinking = [Sample(str(n), 100, n, n * n, 1.0 / n) for n in (2, 4, 8, 16, 32)]
    model = fit(shrinking)
    assert min(model.a_s, model.b_s, model.c_s, model.e_s) >= 0


def test_the_worst_residual_is_told_first() -> None:
    one_off = [*samples(), Sample("odd one", 10**6, 10, 100, 1.0)]
    head, first, *_ = fit(one_off).lines()
    assert "masks * d" in head
    assert "odd one" in first


def test_too_few_samples() -> None:
    with pytest.raises(ValueError, match="at least four"):
        fit(samples()[:3])
