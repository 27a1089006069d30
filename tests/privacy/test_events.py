"""Privacy events: plain data, strict, and nothing unknown gets in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian

EVENT: dict[str, Any] = {
    "mechanism": "poisson-subsampled-gaussian",
    "version": 1,
    "mode": "local",
    "unit": "record",
    "adjacency": "add-remove",
    "noise_multiplier": 1.1,
    "sample_rate": 0.02,
    "steps": 30,
}


def test_an_event_is_written_and_read_as_plain_data() -> None:
    event = SubsampledGaussian.model_validate(EVENT)
    assert event.model_dump(mode="json") == EVENT
    assert SubsampledGaussian.model_validate_json(event.model_dump_json()) == event
    assert (event.mode, event.unit, event.adjacency) == (
        PrivacyMode.LOCAL,
        PrivacyUnit.RECORD,
        Adjacency.ADD_REMOVE,
    )


def test_mechanism_and_version_need_not_be_repeated() -> None:
    assert SubsampledGaussian.model_validate(
        {key: value for key, value in EVENT.items() if key not in ("mechanism", "version")}
    ) == SubsampledGaussian.model_validate(EVENT)


@pytest.mark.parametrize("field", ["mode", "unit", "adjacency", "noise_multiplier", "sample_rate", "steps"])
def test_everything_that_decides_the_cost_must_be_said(field: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        SubsampledGaussian.model_validate({key: value for key, value in EVENT.items() if key != field})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mechanism", "laplace"),
        ("version", 2),
        ("mode", "central"),
        ("unit", "household"),
        ("adjacency", "replace-one"),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", "1.1"),
        ("sample_rate", 0.0),
        ("sample_rate", 1.0000001),
        ("steps", 0),
        ("steps", 1.0),
        ("steps", True),
        ("surplus", 1),
    ],
)
def test_what_no_accountant_knows_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        SubsampledGaussian.model_validate(EVENT | {field: value})


def test_an_event_does_not_change() -> None:
    event = SubsampledGaussian.model_validate(EVENT)
    with pytest.raises(ValidationError, match="frozen"):
        event.steps = 1  # type: ignore[misc]


def test_sampling_everything_is_allowed() -> None:
    assert SubsampledGaussian.model_validate(EVENT | {"sample_rate": 1.0}).sample_rate == 1.0
