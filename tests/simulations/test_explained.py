"""What was told before a run is what its report and its ledgers tell after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privacy.events import PrivacyMode
from privacy.ledger import Ledger, statement
from server.explanation import explain_files
from server.run_spec import load_run_spec
from simulations.local_consortium import ConsortiumPlan, make_consortium
from simulations.simulate import prepare


@pytest.mark.parametrize("mode", [PrivacyMode.LOCAL, PrivacyMode.JOINT])
def test_the_numbers_before_are_the_numbers_after(
    tmp_path: Path, small_plan: Callable[..., ConsortiumPlan], mode: PrivacyMode
) -> None:
    made = make_consortium(tmp_path / "made", replace(small_plan(sites=3, rounds=2), mode=mode))
    before = explain_files(made.run_file, None, second_opinion=True).modes[0]
    assert (before.mode, before.this_run) == (mode, True)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        run_id = consortium.submit()
        run_folder = consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
    after = json.loads((run_folder / "out" / "report.json").read_bytes())
    assert [(each.adversary, each.epsilon, each.assumptions) for each in before.adversaries] == [
        (each["adversary"], each["epsilon"], each["assumptions"]) for each in after["adversaries"]
    ]
    assert {site["epsilon_run"] for site in after["sites"]} == {before.epsilon_charged}
    assert before.second_opinion is not None
    assert before.second_opinion.model_dump(mode="json") == after["second_opinion"]
    receipts = [event["receipt"] for event in events if event["event"] == "site-receipt"]
    told = {point.round: point.by_adversary["coordinator+c sites"] for point in before.growth}
    assert {(each["round"], each["epsilon_run"]) for each in receipts} == set(told.items())
    for site in ("alpha", "beta", "gamma"):
        with Ledger.open_readonly(tmp_path / "sim" / "sites" / site / "ledger.sqlite") as ledger:
            (dataset,) = statement(ledger).datasets
        assert dataset.runs[0].epsilon == before.epsilon_charged
        assert dataset.noise_secret
