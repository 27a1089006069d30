"""A whole run in one process: same ServerApp, ClientApp, agents, protocol."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import simulations.simulate
from client.data import LoadedData, load_private_records, load_records
from models.building import build_classifier
from privacy.accounting import epsilon
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SiteGaussian, SubsampledGaussian
from privacy.ledger import Budget, Ledger, StepKey
from privacy.order import LoraSpec, WeightSpec
from privacy.randomness import SeededRandomSource, standard_normal, uniform
from server.checkpoint import latest_checkpoint
from server.run_spec import load_run_spec
from simulations.local_consortium import ConsortiumPlan, make_consortium
from simulations.simulate import prepare
from tacit.errors import ConfigError, Refusal, RefusalReason, StepBurnt, TrainingError, TransportError

Plan = Callable[..., ConsortiumPlan]


def simulated(folder: Path, plan: ConsortiumPlan) -> tuple[Path, list[dict[str, Any]]]:
    """Make the plan's consortium and simulate its run; return the run's folder and events."""
    made = make_consortium(folder / "made", plan)
    with prepare(load_run_spec(made.run_file), folder / "sim") as consortium:
        run_id = consortium.submit()
        run_folder = consortium.run(run_id)
        return run_folder, consortium.coordinator.events(run_id)


def test_a_run_trains_releases_and_accounts(tmp_path: Path, small_plan: Plan) -> None:
    run_folder, events = simulated(tmp_path, small_plan(rounds=2))
    assert events[-1]["event"] == "run-finished"
    assert events[-1]["status"] == "completed"
    finished = [event for event in events if event["event"] == "round-finished"]
    assert [event["survivors"] for event in finished] == [["alpha", "beta", "gamma"]] * 2
    before, after = (np.load(run_folder / "checkpoints" / f"round-0000{n}.npy") for n in (0, 2))
    assert np.count_nonzero(before != after) > before.size * 0.9
    for name in ("report.html", "report.json", "summary.json", "adapter/adapter_config.json"):
        assert (run_folder / "out" / name).is_file(), name
    report = json.loads((run_folder / "out" / "report.json").read_bytes())
    assert report["parameters"]["adapter_length"] == before.size
    receipts = [event["receipt"] for event in events if event["event"] == "site-receipt"]
    planned = json.loads((run_folder / "run.json").read_bytes())["epsilon_per_round"]
    assert {receipt["outcome"]["status"] for receipt in receipts} == {"completed"}
    for receipt in receipts:
        assert receipt["epsilon_run"] == pytest.approx(planned[receipt["round"] - 1], rel=1e-6)
    with Ledger.open_readonly(tmp_path / "sim" / "sites" / "alpha" / "ledger.sqlite") as ledger:
        kinds = [entry.body.kind for entry in ledger.entries()]
    assert kinds.count("reserve") == 2
    assert kinds.count("commit") == 2
    assert kinds.index("reserve") < kinds.index("commit")


def test_a_ledger_restored_from_a_backup_is_refused_in_the_next_run(tmp_path: Path, small_plan: Plan) -> None:
    """Witness, order and agent as deployed: the site refuses to train, and the coordinator refuses its receipt."""
    made = make_consortium(tmp_path / "made", small_plan(rounds=1, sites=4))
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        coordinator, alpha = consortium.coordinator, consortium.agents["alpha"]
        path = tmp_path / "sim" / "sites" / "alpha" / "ledger.sqlite"
        alpha._ledger.close()
        backup = path.read_bytes()
        alpha._ledger = Ledger.open(path, alpha._identity)
        consortium.run(consortium.submit())
        assert [head.site for head in coordinator.seen_heads()] == ["alpha", "beta", "delta", "gamma"]
        alpha._ledger.close()
        path.write_bytes(backup)
        alpha._ledger = Ledger.open(path, alpha._identity)
        run_id = consortium.submit()
        run_folder = consortium.run(run_id)
        events = coordinator.events(run_id)
        assert "reserve" not in [entry.body.kind for entry in alpha._ledger.entries()]
        refusal = next(entry.body for entry in alpha._ledger.entries() if entry.body.kind == "refusal")
    assert (refusal.reason, "an old copy was restored" in refusal.message) == (RefusalReason.LEDGER, True)
    (refused,) = [event for event in events if event["event"] == "ledger-refused"]
    assert (refused["site"], "rolled back" in refused["reason"]) == ("alpha", True)
    assert [event["survivors"] for event in events if event["event"] == "round-finished"] == [
        ["beta", "delta", "gamma"]
    ]
    report = json.loads((run_folder / "out" / "report.json").read_bytes())
    assert any(
        finding["severity"] == "alarm" and "refused the site's ledger" in finding["text"]
        for finding in report["findings"]
    )


@pytest.mark.parametrize("ring_bits", [16, 64])
def test_a_run_in_another_ring(tmp_path: Path, small_plan: Plan, ring_bits: int) -> None:
    plan = replace(small_plan(rounds=1, value_bound=0.5), ring_bits=ring_bits)
    run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    length = latest_checkpoint(run_folder / "checkpoints").vector.size  # type: ignore[union-attr]
    sent = {event["receipt"]["bytes_sent"] for event in events if event["event"] == "site-receipt"}
    assert all(ring_bits / 8 * length < each < ring_bits / 8 * length + 20_000 for each in sent)


@pytest.mark.parametrize("mode", [PrivacyMode.JOINT, PrivacyMode.SITE])
def test_a_grid_without_room_for_the_adapters_noise_ends_a_run_before_any_order(
    tmp_path: Path, small_plan: Plan, mode: PrivacyMode
) -> None:
    """How long the adapter is, and so how much rounding widens the noise, is known once the model is loaded."""
    plan = replace(small_plan(rounds=1, noise_multiplier=10.0), mode=mode, ring_bits=16)
    made = make_consortium(tmp_path / "made", plan)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        run_id = consortium.submit()
        with pytest.raises(TrainingError, match="leaves no room beside noise shares") as refused:
            consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
    assert "round-started" not in {event["event"] for event in events}
    assert (events[-1]["status"], events[-1]["hint"]) == ("failed", refused.value.hint)


@pytest.mark.parametrize("mode", [PrivacyMode.LOCAL, PrivacyMode.JOINT])
def test_a_run_in_bfloat16_is_nearly_the_run_in_float32(tmp_path: Path, small_plan: Plan, mode: PrivacyMode) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        made = make_consortium(tmp_path / precision, replace(small_plan(rounds=1, noise_seed=3), mode=mode))
        spec = load_run_spec(made.run_file)
        assert spec.simulation is not None
        section = spec.simulation.model_copy(update={"precision": precision})
        with prepare(spec.model_copy(update={"simulation": section}), tmp_path / f"sim-{precision}") as consortium:
            run_folder = consortium.run(consortium.submit())
        before, after = (np.load(run_folder / "checkpoints" / f"round-0000{n}.npy") for n in (0, 1))
        found[precision] = after - before
    usual, rounded = found.values()
    # the noise is the same, and most of it
    assert 0 < np.linalg.norm(usual - rounded) < 0.05 * np.linalg.norm(usual)


def test_weighted_sites_count_as_their_stewards_declare(tmp_path: Path, small_plan: Plan) -> None:
    """With one site a hundred times the others, the mean is nearly that site's update alone."""
    spec = WeightSpec(cap=100, bin=1)

    def update(name: str, weights: WeightSpec | None, declared: dict[str, int]) -> Any:
        plan = replace(small_plan(rounds=1, noise_seed=3), weights=weights, site_weights=declared)
        run_folder, events = simulated(tmp_path / name, plan)
        assert events[-1]["status"] == "completed", events[-1]
        before, after = (np.load(run_folder / "checkpoints" / f"round-0000{n}.npy") for n in (0, 1))
        return after - before

    plain = update("plain", None, {})
    same = update("same", spec, dict.fromkeys(("alpha", "beta", "gamma"), 100))
    heavy = [
        update(site, spec, {"alpha": 1, "beta": 1, "gamma": 1} | {site: 100}) for site in ("alpha", "beta", "gamma")
    ]
    assert np.abs(plain - same).max() < 1e-5
    # three weighted means of the same updates, each with weights 100, 1, 1 in turn, add up to the sum of the updates
    assert np.abs(sum(heavy) - 3 * plain).max() < 1e-4
    assert np.linalg.norm(heavy[0] - heavy[1]) > np.linalg.norm(plain)


@pytest.mark.parametrize(("sites", "records_per_user"), [(3, None), (4, None), (3, 4)])
def test_a_joint_run_takes_the_steps_of_central_dp_sgd(
    tmp_path: Path, small_plan: Plan, sites: int, records_per_user: int | None
) -> None:
    """Held against a naive central trainer: all sites' Poisson samples and noise shares in one sum, one step for it."""
    made = small_plan(
        sites=sites, rounds=2, noise_seed=9, records_per_user=records_per_user, local_steps=3, momentum=0.5
    )
    plan = replace(made, mode=PrivacyMode.JOINT)
    run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    found = latest_checkpoint(run_folder / "checkpoints")
    assert found is not None
    expected = centrally_trained(plan, json.loads((run_folder / "run.json").read_bytes()), found.vector.size)
    assert np.abs(found.vector - expected).max() < 1e-5
    assert np.abs(expected).max() > 1e-2
    started = [event for event in events if event["event"] == "round-started"]
    assert [(event["step"], event["steps"]) for event in started] == [(1, 3), (4, 3)]
    with Ledger.open_readonly(tmp_path / "sim" / "sites" / "alpha" / "ledger.sqlite") as ledger:
        reserved = [entry.body for entry in ledger.entries() if entry.body.kind == "reserve"]
    assert [(body.event.mode, body.event.steps) for body in reserved] == [(PrivacyMode.JOINT, 3)] * 2


def centrally_trained(plan: ConsortiumPlan, facts: dict[str, Any], length: int) -> np.ndarray:
    """What one trainer that holds all records does, one gradient at a time; noise and samples from the seed.

    A record without a key is taken for a user of its own.
    """
    recipe = plan.recipe
    secagg = facts["secagg"]
    model = build_classifier(
        Path(plan.base_model),
        LoraSpec(rank=recipe.lora_rank, alpha=recipe.lora_alpha, targets=("query", "value")),
        plan.labels,
        recipe.max_tokens,
    )
    records, owned = {}, {}
    for site, path in plan.sites.items():
        data = load_records(path, "text", "label", plan.labels, profile="standard-v1")
        records[site] = model.tokenise(data.texts, data.labels)
        with path.open(newline="", encoding="utf-8") as stream:
            keys = [row.get("who", str(number)) for number, row in enumerate(csv.DictReader(stream))]
        owned[site] = [[row for row, key in enumerate(keys) if key == user] for user in dict.fromkeys(keys)]
    # nobody is lost: of each share is left what n - 1 honest sites have to add, and a seed for each layer was drawn
    fewest = max(secagg["threshold"], secagg["min_cohort"])
    sensitivity = recipe.l2_clip_norm + np.sqrt(length) / secagg["scale"]
    share = recipe.noise_multiplier * sensitivity / np.sqrt(len(plan.sites) - 1)
    weights = model.initial_vector().astype(np.float64)
    for round_number in range(1, recipe.rounds + 1):
        velocity = np.zeros(length)
        weights = weights.astype(np.float32).astype(np.float64)
        first_step = 1 + (round_number - 1) * recipe.local_steps
        sources = {
            site: SeededRandomSource(plan.noise_seed or 0, f"{site}/{round_number}/{first_step}/noise")
            for site in plan.sites
        }
        for _ in range(recipe.local_steps):
            model.set_vector(weights.astype(np.float32))
            total = np.zeros(length)
            for site, source in sources.items():
                bound = plan.max_records_per_user or 1
                chosen = []
                for user in np.flatnonzero(uniform(source, len(owned[site])) < recipe.sample_rate):
                    own = owned[site][user]
                    if len(own) > bound:
                        own = [own[place] for place in np.argsort(uniform(source, len(own)))[:bound]]
                    chosen.append(own)
                for own in chosen:
                    gradient = np.zeros(length)
                    for index in own:
                        losses = model.per_example_loss(records[site].batch(np.array([index])))
                        gradients = torch.autograd.grad(losses[0], list(model.parameters.values()))
                        flat = np.concatenate([each.numpy().ravel() for each in gradients])
                        gradient += flat.astype(np.float64) / len(own)
                    total += gradient * min(1.0, recipe.l2_clip_norm / max(np.linalg.norm(gradient), 1e-30))
                total += share * standard_normal(source, length)
                source.bytes(32 * (len(plan.sites) - fewest))
            batch = recipe.sample_rate * recipe.public_dataset_size * len(plan.sites)
            velocity = recipe.momentum * velocity + total / batch
            weights = weights - recipe.learning_rate * velocity
    return weights.astype(np.float32)


def test_a_run_of_mode_site_sums_clipped_updates_and_shared_noise(tmp_path: Path, small_plan: Plan) -> None:
    """Held against a naive trainer that holds all sites' records; at this rate every update is clipped."""
    plan = replace(
        small_plan(sites=4, rounds=2, noise_seed=9, local_steps=3, momentum=0.5, l2_clip_norm=0.05),
        mode=PrivacyMode.SITE,
    )
    run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    found = latest_checkpoint(run_folder / "checkpoints")
    assert found is not None
    facts = json.loads((run_folder / "run.json").read_bytes())
    expected, norms = averaged_by_hand(plan, facts, found.vector.size)
    assert np.abs(found.vector - expected).max() < 1e-5
    assert np.abs(expected).max() > 1e-2
    assert min(norms) > 0.05


def averaged_by_hand(plan: ConsortiumPlan, facts: dict[str, Any], length: int) -> tuple[np.ndarray, list[float]]:
    """Each site's steps one gradient at a time, its whole update clipped, one site's noise share each, and the mean;
    and the norms of the updates before they were clipped."""
    recipe, secagg = plan.recipe, facts["secagg"]
    lora = LoraSpec(rank=recipe.lora_rank, alpha=recipe.lora_alpha, targets=("query", "value"))
    model = build_classifier(Path(plan.base_model), lora, plan.labels, recipe.max_tokens)
    sensitivity = recipe.l2_clip_norm + np.sqrt(length) / secagg["scale"]
    # nobody is lost: of each share is left what n - 1 honest sites have to add
    share = recipe.noise_multiplier * sensitivity / np.sqrt(len(plan.sites) - 1)
    weights = model.initial_vector().astype(np.float64)
    norms = []
    for round_number in range(1, recipe.rounds + 1):
        total = np.zeros(length)
        start = weights.astype(np.float32).astype(np.float64)
        for site, path in plan.sites.items():
            data = load_records(path, "text", "label", plan.labels, profile="standard-v1")
            records = model.tokenise(data.texts, data.labels)
            source = SeededRandomSource(plan.noise_seed or 0, f"{site}/{round_number}/{round_number}/noise")
            local, velocity = start.copy(), np.zeros(length)
            for _ in range(recipe.local_steps):
                model.set_vector(local.astype(np.float32))
                gradient = np.zeros(length)
                for index in np.flatnonzero(uniform(source, len(records)) < recipe.sample_rate):
                    losses = model.per_example_loss(records.batch(np.array([index])))
                    parts = torch.autograd.grad(losses[0], list(model.parameters.values()))
                    gradient += np.concatenate([each.numpy().ravel() for each in parts]).astype(np.float64)
                batch = recipe.sample_rate * recipe.public_dataset_size
                velocity = recipe.momentum * velocity + gradient / batch
                local = local - recipe.learning_rate * velocity
            delta = local - start
            norms.append(float(np.linalg.norm(delta)))
            total += delta * min(1.0, recipe.l2_clip_norm / norms[-1]) + share * standard_normal(source, length)
        weights = start + total / len(plan.sites)
    return weights.astype(np.float32), norms


def test_a_run_of_mode_site_is_charged_and_reported_for_one_site(tmp_path: Path, small_plan: Plan) -> None:
    plan = replace(small_plan(sites=3, rounds=2, noise_multiplier=2.0, local_steps=3), mode=PrivacyMode.SITE)
    run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    # mu of two rounds is sqrt(2) / 2; three survivors of whom one may collude: two, and all three, shares unknown
    charged, at_best = (
        gaussian_epsilon(math.sqrt(2) / 2, 1e-4),
        gaussian_epsilon(math.sqrt(2) / 2 * (2 / 3) ** 0.5, 1e-4),
    )
    submitted = events[0]
    assert (submitted["mode"], submitted["unit"]) == ("site", "site")
    planned = submitted["epsilon_by_adversary"]
    assert planned["coordinator+c sites"] == planned["site"] == pytest.approx(charged, rel=0.01)
    assert planned["coordinator"] == planned["public"] == pytest.approx(at_best, rel=0.01)
    report = json.loads((run_folder / "out" / "report.json").read_bytes())
    assert report["findings"] == []
    assert (report["agreement"]["unit"], report["agreement"]["adjacency"]) == ("site", "zero-out")
    found = {fact["adversary"]: fact["epsilon"] for fact in report["adversaries"]}
    assert found == pytest.approx(planned)
    assert report["second_opinion"]["agrees"]
    assert [site["gradient_steps"] for site in report["sites"]] == [2, 2, 2]
    page = (run_folder / "out" / "report.html").read_text()
    assert "Whether any one site contributed what it learned or nothing at all" in page
    for site in plan.sites:
        with Ledger.open_readonly(tmp_path / "sim" / "sites" / site / "ledger.sqlite") as ledger:
            reserved = [entry.body for entry in ledger.entries() if entry.body.kind == "reserve"]
            assert ledger.spent("main", 1e-4) == pytest.approx(charged, rel=0.01)
        assert [type(body.event) for body in reserved] == [SiteGaussian] * 2
        for body in reserved:
            event = body.event
            assert (event.unit, event.adjacency, event.steps) == (PrivacyUnit.SITE, Adjacency.ZERO_OUT, 1)
            assert (event.threshold, event.collusion_bound, event.noise_multiplier) == (3, 1, 2.0)
            assert event.grid.dimension == latest_checkpoint(run_folder / "checkpoints").vector.size  # type: ignore[union-attr]


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        tail = math.exp(eps + stats.norm.logcdf(-mu / 2 - eps / mu))
        return float(stats.norm.cdf(mu / 2 - eps / mu) - tail - delta)

    return float(optimize.brentq(excess, 0.0, 100.0))


def test_a_dataset_whose_records_are_counted_takes_no_charge_to_a_site(tmp_path: Path, small_plan: Plan) -> None:
    """The refusal comes before training, and what the records have lost stays what it was."""
    plan = replace(small_plan(sites=3, rounds=1, noise_multiplier=2.0), mode=PrivacyMode.SITE)
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=1.0,
        sample_rate=0.2,
        steps=4,
    )
    made = make_consortium(tmp_path / "made", plan)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        ledger = consortium.agents["beta"]._ledger
        digest = next(iter(ledger.state.agreements()))[0].agreement_digest
        ledger.reserve(StepKey("f" * 16, 1, 1), "main", digest, event, Budget(9.0, 9.0, 1e-4), noise_secret=True)
        before = ledger.spent("main", 1e-4)
        run_id = consortium.submit()
        with pytest.raises(StepBurnt):
            consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
        receipts = [each["receipt"] for each in events if "receipt" in each and each["site"] == "beta"]
        assert ledger.spent("main", 1e-4) == before
    assert {(each["outcome"]["status"], each["outcome"]["reason"]) for each in receipts} == {("refused", "ledger")}
    assert "cannot be added to charges to one record" in receipts[0]["outcome"]["message"]
    assert not [each for each in events if each.get("phase") == "training" and each["site"] == "beta"]


@pytest.mark.parametrize("mode", [PrivacyMode.LOCAL, PrivacyMode.JOINT])
def test_a_run_about_users_says_so_from_agreement_to_report_and_tells_no_key(
    tmp_path: Path, small_plan: Plan, mode: PrivacyMode, caplog: pytest.LogCaptureFixture
) -> None:
    plan = replace(small_plan(rounds=1, records_per_user=4, public_dataset_size=30), mode=mode)
    with caplog.at_level(logging.DEBUG):
        run_folder, events = simulated(tmp_path, plan)
    assert events[-1]["status"] == "completed", events[-1]
    report = json.loads((run_folder / "out" / "report.json").read_bytes())
    assert (report["agreement"]["unit"], report["agreement"]["max_records_per_user"]) == ("user", 4)
    # 30 users by agreement: the sites have 25 to 30, and nobody can tell
    assert report["parameters"]["training"]["expected_batch_size"] == pytest.approx(0.2 * 30)
    assert report["parameters"]["training"]["max_records_per_user"] == 4
    page = (run_folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "any one user was in a site" in page
    assert "at most 4, clipped together" in page
    with Ledger.open_readonly(tmp_path / "sim" / "sites" / "alpha" / "ledger.sqlite") as ledger:
        reserved = [entry.body for entry in ledger.entries() if entry.body.kind == "reserve"]
    assert [(body.event.mode, body.event.unit) for body in reserved] == [(mode, PrivacyUnit.USER)]
    # a step costs a user what it would cost a record
    event = reserved[0].event.model_copy(update={"unit": PrivacyUnit.RECORD})
    receipts = [event["receipt"] for event in events if event["event"] == "site-receipt"]
    assert {receipt["epsilon_run"] for receipt in receipts} == {epsilon([event], 1e-4)}

    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / "data"]
    assert len(files) > 20
    assert [path for path in files if b"customer-" in path.read_bytes()] == []
    assert "customer-" not in caplog.text + str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("of_users", [True, False])
def test_data_and_agreement_of_different_units_are_refused(tmp_path: Path, small_plan: Plan, of_users: bool) -> None:
    made = make_consortium(tmp_path / "made", small_plan(records_per_user=4 if of_users else None))
    spec = load_run_spec(made.run_file)
    assert spec.simulation is not None
    key = None if of_users else "label"
    sites = tuple(site.model_copy(update={"key_column": key}) for site in spec.simulation.sites)
    spec = spec.model_copy(update={"simulation": spec.simulation.model_copy(update={"sites": sites})})
    expected = (
        "protects users, and no key column" if of_users else "'label' was named, and the agreement protects each rec"
    )
    with pytest.raises(ConfigError, match=expected), prepare(spec, tmp_path / "sim"):
        pass


def test_the_gate_stops_data_without_users_that_came_past_the_loader(
    tmp_path: Path, small_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_consortium(tmp_path / "made", small_plan(rounds=1, records_per_user=4))

    def forgetful(*arguments: Any) -> LoadedData:
        return replace(load_private_records(*arguments), owners=None)

    monkeypatch.setattr(simulations.simulate, "load_private_records", forgetful)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        run_id = consortium.submit()
        with pytest.raises(StepBurnt):
            consortium.run(run_id)
        receipts = [event["receipt"] for event in consortium.coordinator.events(run_id) if "receipt" in event]
        kinds = [entry.body.kind for entry in consortium.agents["alpha"]._ledger.entries()]
    assert {(each["outcome"]["status"], each["outcome"]["reason"]) for each in receipts} == {("refused", "data")}
    assert "reserve" not in kinds


def test_a_dataset_that_spent_by_record_is_refused_by_user(tmp_path: Path, small_plan: Plan) -> None:
    """One number cannot stand for both: nothing is claimed, so nothing is spent."""
    made = make_consortium(tmp_path / "made", small_plan(rounds=1, records_per_user=4))
    earlier = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=5.0,
        sample_rate=0.01,
        steps=1,
    )
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        ledger = consortium.agents["alpha"]._ledger
        digest = consortium.coordinator.agreement().digest
        ledger.reserve(StepKey("f" * 16, 1, 1), "main", digest, earlier, Budget(20.0, 40.0, 1e-4), noise_secret=True)
        run_id = consortium.submit()
        with pytest.raises(StepBurnt, match="alpha"):
            consortium.run(run_id)
        receipts = [event["receipt"] for event in consortium.coordinator.events(run_id) if "receipt" in event]
    refused = [receipt["outcome"] for receipt in receipts if receipt["site"] == "alpha"]
    assert {(outcome["status"], outcome["reason"]) for outcome in refused} == {("refused", "ledger")}
    assert "a charge to one user (add-remove) cannot be added to charges to one record" in refused[0]["message"]


def test_a_site_that_declares_no_weight_refuses_weighted_sums(tmp_path: Path, small_plan: Plan) -> None:
    plan = replace(small_plan(rounds=1), weights=WeightSpec(cap=10, bin=1), site_weights={"alpha": 1, "beta": 2})
    with pytest.raises(Refusal, match=r"gamma refused it \(policy\)") as refused:
        simulated(tmp_path, plan)
    assert refused.value.reason is RefusalReason.POLICY


def test_a_test_seed_gives_the_same_bits_again_and_no_seed_does_not(tmp_path: Path, small_plan: Plan) -> None:
    vectors = {}
    for name, seed in (("first", 5), ("second", 5), ("other", 6), ("secret", None), ("secret again", None)):
        run_folder, _ = simulated(tmp_path / name, small_plan(rounds=1, noise_seed=seed))
        checkpoint = latest_checkpoint(run_folder / "checkpoints")
        assert checkpoint is not None
        vectors[name] = checkpoint.vector
    assert np.array_equal(vectors["first"], vectors["second"])
    assert not np.array_equal(vectors["first"], vectors["other"])
    assert not np.array_equal(vectors["secret"], vectors["secret again"])


def test_a_run_beyond_the_budget_is_refused_before_anything_is_spent(tmp_path: Path, small_plan: Plan) -> None:
    plan = replace(small_plan(), epsilon_per_run=0.5, epsilon_lifetime=9.0)
    made = make_consortium(tmp_path / "made", plan)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        with pytest.raises(Refusal) as refused:
            consortium.submit()
        assert refused.value.reason is RefusalReason.BUDGET
        assert consortium.coordinator.store.run_ids() == []


def test_a_site_that_cannot_afford_the_run_refuses_before_training(tmp_path: Path, small_plan: Plan) -> None:
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=1.0,
        sample_rate=0.2,
        steps=4,
    )
    one_run = epsilon([event], 1e-4)
    plan = replace(small_plan(rounds=2), epsilon_per_run=1.01 * one_run, epsilon_lifetime=1.1 * one_run)
    made = make_consortium(tmp_path / "made", plan)
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        consortium.run(consortium.submit())
        run_id = consortium.submit()
        with pytest.raises(Refusal) as refused:
            consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
        receipts = [event["receipt"] for event in events if "receipt" in event]
        phases = {event.get("phase") for event in events}
    # ordering it again cannot help, and the reason is the sites' own
    assert [event["event"] for event in events].count("round-started") == 1
    assert refused.value.reason is RefusalReason.BUDGET
    (burnt,) = [event for event in events if event["event"] == "round-burnt"]
    for told in (events[-1]["reason"], burnt["reason"]):
        assert told.startswith("alpha, beta, gamma refused it (budget): with this run's rounds 1 to 2, the lifetime of")
    assert events[-1]["status"] == "failed"
    assert "a new agreement with a larger budget" in events[-1]["hint"]
    assert events[-1]["can_resume"] is False
    assert {(receipt["outcome"]["status"], receipt["outcome"]["reason"]) for receipt in receipts} == {
        ("refused", "budget")
    }
    assert "training" not in phases
    assert all(receipt["epsilon_run"] == 0 for receipt in receipts)


def test_four_sites_go_on_without_one_that_is_lost_after_its_upload(tmp_path: Path, small_plan: Plan) -> None:
    made = make_consortium(tmp_path / "made", small_plan(sites=4, rounds=1))
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        agent = consortium.agents["delta"]
        transport = agent._transport

        class LostAfterUpload:
            def open(self, run_id: str, step: int) -> Any:
                session = transport.open(run_id, step)
                inner_receive = session.receive
                opened = consortium.coordinator.step(run_id, step)

                def receive(timeout_s: float) -> Any:
                    frame = inner_receive(timeout_s)
                    if opened._machine.phase == "lock":
                        session.close()
                        raise ConnectionError("the power went out")
                    return frame

                session.receive = receive
                return session

        agent._transport = LostAfterUpload()
        run_id = consortium.submit()
        consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
    (finished,) = (event for event in events if event["event"] == "round-finished")
    # its upload was complete, so its update is in the sum although it is gone
    assert finished["survivors"] == ["alpha", "beta", "delta", "gamma"]
    phases = [event["phase"] for event in events if event["event"] == "site-phase" and event["site"] == "delta"]
    assert phases.count("left") == 1


def test_four_sites_do_not_wait_for_one_that_cannot_reach_the_step(tmp_path: Path, small_plan: Plan) -> None:
    """It says so by its receipt alone; the time to join is longer than this test may take."""
    made = make_consortium(tmp_path / "made", small_plan(sites=4, rounds=1))
    spec = load_run_spec(made.run_file)
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"join_deadline_s": 3000.0})})
    with prepare(spec, tmp_path / "sim") as consortium:

        class Unreachable:
            def open(self, run_id: str, step: int) -> Any:
                raise TransportError("the way is closed")

        consortium.agents["delta"]._transport = Unreachable()  # type: ignore[assignment]
        run_id = consortium.submit()
        consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
    (finished,) = (event for event in events if event["event"] == "round-finished")
    assert finished["survivors"] == ["alpha", "beta", "gamma"]
    phases = [event["phase"] for event in events if event["event"] == "site-phase" and event["site"] == "delta"]
    assert phases == ["left"]


def test_three_sites_cannot_spare_one_and_the_reason_names_it(tmp_path: Path, small_plan: Plan) -> None:
    made = make_consortium(tmp_path / "made", small_plan(sites=3, rounds=1))
    with prepare(load_run_spec(made.run_file), tmp_path / "sim") as consortium:
        agent = consortium.agents["beta"]

        def broken(*_: Any) -> Any:
            raise RuntimeError("a text of a record must not travel")

        agent._workbench.fit = broken  # type: ignore[method-assign]
        run_id = consortium.submit()
        with pytest.raises(StepBurnt, match="beta"):
            consortium.run(run_id)
        events = consortium.coordinator.events(run_id)
    told = json.dumps(events)
    # the coordinator was told at once: nobody waits until the time to join is over
    assert ("beta", "failed") in {(event.get("site"), event.get("phase")) for event in events}
    assert "must not travel" not in told
    assert "RuntimeError" in told


def test_a_folder_that_is_no_simulation_is_left_alone(tmp_path: Path, small_plan: Plan) -> None:
    made = make_consortium(tmp_path / "made", small_plan())
    spec = load_run_spec(made.run_file)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError), prepare(spec, precious):
        pass
    with pytest.raises(ConfigError), prepare(spec, precious, fresh=True):
        pass
    assert (precious / "thesis.txt").read_text() == "years of work"
