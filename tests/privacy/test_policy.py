"""The site policy: stricter limits only, nothing left out, and a draft that opens nothing by itself."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from privacy.policy import Limits, SitePolicy, effective_limits, load_policy, save_policy
from privacy.terms import Agreement
from tacit.errors import ConfigError
from tacit.strict_yaml import dump_yaml

PARTNERS = ("alpha", "beta", "gamma")

POLICY: dict[str, Any] = {
    "tacit_policy": 1,
    "site": "alpha",
    "epsilon_lifetime_max": 16.0,
    "epsilon_per_run_max": 8.0,
    "min_noise_multiplier": 0.5,
    "max_rounds_per_run": 100,
    "allowed_strategies": ["fedavg"],
    "accept_runs": False,
    "require_deidentification": True,
    "allow_testing": False,
    "min_cohort": 3,
    "weight": None,
}


def key(byte: int) -> str:
    return base64.b64encode(bytes([byte]) * 32).decode()


def agreement(**changes: Any) -> Agreement:
    terms: dict[str, Any] = {
        "tacit_agreement": 1,
        "consortium": "demo",
        "title": "Intents",
        "purpose": "Intents.",
        "legal_basis": "GDPR Art. 6(1)(f)",
        "ca_fingerprint": "sha256:" + "c" * 64,
        "partners": [{"name": name, "identity_key": key(index)} for index, name in enumerate(PARTNERS)],
        "coordinator": {"name": "hub", "identity_key": key(9)},
        "task": {"kind": "sequence-classification", "labels": ["a", "b"]},
        "base_model": {"name": "package:tiny", "digest": "sha256:" + "b" * 64},
        "adapter": {"kind": "lora", "targets": ["query"], "max_rank": 8},
        "strategies": ["fedavg"],
        "privacy": {
            "modes": ["local"],
            "unit": "record",
            "adjacency": "add-remove",
            "delta": 1e-5,
            "epsilon_per_run": 8.0,
            "epsilon_lifetime": 16.0,
            "min_noise_multiplier": 0.5,
            "max_l2_clip_norm": 1.0,
            "max_sample_rate": 0.1,
            "public_dataset_size": 1000,
        },
        "secure_aggregation": {"min_cohort": 3, "collusion_bound": 1, "ring_bits": 32, "weights": None},
        "deidentification": {"profile": "standard-v1"},
        "residency": ["EU"],
        "retention_days": 90,
        "release": {"scope": "partners"},
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2027-01-01T00:00:00Z",
        "approvals": {"required": 2},
        "testing": True,
    }
    return Agreement.model_validate(terms | changes)


def write(folder: Path, data: Any) -> Path:
    path = folder / "policy.yaml"
    path.write_bytes(dump_yaml(data))
    return path


def test_a_draft_equals_the_agreements_limits_and_opens_nothing() -> None:
    assert SitePolicy.draft(agreement(), "alpha") == SitePolicy.model_validate(POLICY)


def test_a_draft_opens_what_the_steward_says() -> None:
    draft = SitePolicy.draft(agreement(), "beta", accept_runs=True, allow_testing=True, max_rounds_per_run=7)
    assert (draft.site, draft.accept_runs, draft.allow_testing, draft.max_rounds_per_run) == ("beta", True, True, 7)


def test_a_draft_under_an_agreement_without_deidentification_does_not_require_it() -> None:
    without = agreement(deidentification={"profile": "none"})
    assert not SitePolicy.draft(without, "alpha").require_deidentification


def test_a_site_that_is_no_partner_has_no_policy() -> None:
    with pytest.raises(ConfigError, match=r"'delta' is not a partner .* expected one of: alpha, beta, gamma"):
        SitePolicy.draft(agreement(), "delta")
    with pytest.raises(ConfigError, match="'delta' is not a partner"):
        effective_limits(agreement(), SitePolicy.model_validate(POLICY | {"site": "delta"}))


def test_a_policy_is_written_with_comments_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy = SitePolicy.draft(agreement(), "alpha")
    save_policy(policy, path)
    assert load_policy(path) == policy
    text = path.read_text()
    plain = {"tacit_policy", "site"}
    assert all(f"# {field}" in text or f", {field}" in text for field in POLICY if field not in plain)
    assert yaml.safe_load(text) == POLICY


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_stricter_limit_counts(run: float, more: float, run_max: float, more_max: float) -> None:
    terms = agreement().privacy.model_copy(update={"epsilon_per_run": run, "epsilon_lifetime": run + more})
    policy = SitePolicy.model_validate(
        POLICY | {"epsilon_per_run_max": run_max, "epsilon_lifetime_max": run_max + more_max}
    )
    limits = effective_limits(agreement().model_copy(update={"privacy": terms}), policy)
    assert limits == Limits(min(run, run_max), min(run + more, run_max + more_max), 1e-5)


def test_every_field_must_be_written_out(tmp_path: Path) -> None:
    for field in POLICY:
        data = copy.deepcopy(POLICY)
        del data[field]
        with pytest.raises(ConfigError, match=f"{field} is missing"):
            load_policy(write(tmp_path, data))
    assert set(POLICY) == set(SitePolicy.model_fields)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("surplus", 1, "surplus is not a field known here"),
        ("tacit_policy", 2, "tacit_policy"),
        ("site", "Alpha", "site"),
        ("epsilon_lifetime_max", 0.0, "epsilon_lifetime_max"),
        ("epsilon_lifetime_max", 7.0, "must not exceed epsilon_lifetime_max"),
        ("epsilon_per_run_max", -1.0, "epsilon_per_run_max"),
        ("epsilon_per_run_max", "8", "epsilon_per_run_max"),
        ("min_noise_multiplier", 0.0, "min_noise_multiplier"),
        ("max_rounds_per_run", 0, "max_rounds_per_run"),
        ("max_rounds_per_run", 1.5, "max_rounds_per_run"),
        ("allowed_strategies", "fedavg", "allowed_strategies"),
        ("allowed_strategies", ["fedavg", "fedavg"], "not repeat"),
        ("accept_runs", "yes", "accept_runs"),
        ("accept_runs", 1, "accept_runs"),
        ("allow_testing", None, "allow_testing"),
        ("min_cohort", 1, "min_cohort"),
    ],
)
def test_a_wrong_policy_is_refused(tmp_path: Path, field: str, value: Any, match: str) -> None:
    path = write(tmp_path, POLICY | {field: value})
    with pytest.raises(ConfigError, match=match) as caught:
        load_policy(path)
    assert caught.value.message.startswith(str(path))


def test_a_missing_or_doubled_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*policy\.yaml"):
        load_policy(tmp_path / "policy.yaml")
    path = write(tmp_path, POLICY)
    path.write_bytes(path.read_bytes() + b"accept_runs: true\n")
    with pytest.raises(ConfigError, match="'accept_runs' a second time"):
        load_policy(path)
