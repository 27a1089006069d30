"""``tacit privacy calibrate``: the number, and what it spends."""

from __future__ import annotations

import json
import re

import pytest

from privacy.accounting import epsilon
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from tacit.cli.main import main

PLAN = ["privacy", "calibrate", "--epsilon", "8", "--delta", "1e-5", "--sample-rate", "0.05", "--steps", "120"]


def spent(noise_multiplier: float) -> float:
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=0.05,
        steps=120,
    )
    return epsilon([event], 1e-5)


def test_what_is_printed_meets_the_target_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLAN) == 0
    out = capsys.readouterr().out
    printed = re.search(r"noise multiplier  (\d+\.\d{6})\n", out)
    assert printed
    value = spent(float(printed[1]))
    assert 0.999 * 8 <= value <= 8
    assert f"epsilon {value:.4f} at delta 1e-05 (one record, add/remove, PLD)" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["epsilon"] == spent(facts["noise_multiplier"]) <= 8
    assert (facts["delta"], facts["sample_rate"], facts["steps"]) == (1e-5, 0.05, 120)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--epsilon", "0", "epsilon is 0"), ("--delta", "1", "delta is 1"), ("--sample-rate", "2", "sample rate is 2")],
)
def test_impossible_requests(capsys: pytest.CaptureFixture[str], option: str, value: str, said: str) -> None:
    arguments = list(PLAN)
    arguments[arguments.index(option) + 1] = value
    assert main(arguments) == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_help_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "calibrate", "--help"]) == 0
    assert "tacit privacy calibrate --epsilon 3" in capsys.readouterr().out.split("Examples:")[1]


def test_the_printed_number_is_rounded_to_more_noise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privacy.accounting.calibrate_noise_multiplier", lambda *_: 0.7172301)
    assert main(PLAN) == 0
    assert "noise multiplier  0.717231\n" in capsys.readouterr().out
