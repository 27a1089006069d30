"""A consortium on this machine: keys, agreement, policies, and the folders that the real commands serve.

Everything is made with the same code as ``tacit pki``, ``tacit agreement``, ``tacit coordinator init`` and
``tacit site init``; the demo and the end-to-end tests are two plans for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import tomli_w

from certs.authority import ConsortiumAuthority
from certs.identity import Identity, PeerIdentity
from client.config import DataSettings, SiteHome, SiteSettings
from client.flower import free_port
from client.service import create_ledger
from models.base import base_model_digest, resolve_model_folder
from privacy.agreement import AgreementBundle, draft, party_from, save_bundle, sign
from privacy.events import GUARANTEES, PrivacyMode, PrivacyUnit
from privacy.order import WeightSpec
from privacy.policy import SitePolicy, save_policy
from privacy.terms import format_instant
from server.config import CoordinatorHome, CoordinatorSettings
from server.run_spec import JOINT_STRATEGY
from tacit.durable import write_atomic

COORDINATOR = "hub"


@dataclass(frozen=True)
class Recipe:
    """How a consortium trains: what goes into ``run.toml`` and, as limits, into the agreement."""

    rounds: int
    local_steps: int
    sample_rate: float
    noise_multiplier: float
    l2_clip_norm: float
    learning_rate: float
    #: the agreed, public size that normalises every update
    public_dataset_size: int
    momentum: float = 0.0
    server_learning_rate: float = 1.0
    value_bound: float = 4.0
    max_tokens: int = 64
    lora_rank: int = 8
    lora_alpha: float = 16.0
    #: further fields of ``[training]``, as the run file has them
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ConsortiumPlan:
    """Who the partners are, what they agree on, and how they train.

    Attributes:
        sites: each partner's name and its data file, CSV or JSONL with ``text`` and ``label``.
        test_data: the coordinator's public test set.
        testing: the agreement allows reproducible noise. No privacy.
        noise_seed: of a reproducible run; only with ``testing``.
        ring_bits: of the masked sums.
        weights: cap and bin of weighted sums; None when all sites count the same.
        site_weights: what each site declares, for weighted sums.
        mode: privacy mode of the run, and the one that is agreed.
        min_cohort: agreed number of sites in a sum, at least; None for three, or as many as there are.
        key_column: of the data files, where the agreed privacy unit is a user; None where it is a record.
        max_records_per_user: agreed contribution bound of a user; only with ``key_column``.
    """

    consortium: str
    title: str
    purpose: str
    sites: Mapping[str, Path]
    labels: tuple[str, ...]
    base_model: str
    base_model_name: str
    recipe: Recipe
    test_data: Path
    run_name: str
    epsilon_per_run: float
    epsilon_lifetime: float
    delta: float
    testing: bool = False
    noise_seed: int | None = None
    ring_bits: int = 32
    weights: WeightSpec | None = None
    site_weights: Mapping[str, int] = field(default_factory=dict)
    mode: PrivacyMode = PrivacyMode.LOCAL
    min_cohort: int | None = None
    key_column: str | None = None
    max_records_per_user: int | None = None


@dataclass(frozen=True)
class LocalConsortium:
    """Where everything of a demo lies."""

    folder: Path

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "coordinator"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.folder / name

    @property
    def run_file(self) -> Path:
        """The run to submit."""
        return self.folder / "run.toml"

    @property
    def out(self) -> Path:
        """Where results are put."""
        return self.folder / "out"

    @property
    def agreement(self) -> Path:
        """The agreement, signed by all partners."""
        return self.folder / "agreement.yaml"

    def exists(self) -> bool:
        """Return whether the consortium was made before (the last file to be written is there)."""
        return self.run_file.is_file()


def make_consortium(folder: Path, plan: ConsortiumPlan) -> LocalConsortium:
    """Make a whole consortium in ``folder``, which must not hold one.

    Raises:
        ModelError: the base model cannot be read.
    """
    made = LocalConsortium(folder)
    authority = ConsortiumAuthority.create(folder / "ca", plan.consortium)
    authority.issue("coordinator", COORDINATOR, folder / "issued" / COORDINATOR)
    for site in plan.sites:
        authority.issue("site", site, folder / "issued" / site)
    bundle = _signed_agreement(folder, authority, plan)
    save_bundle(bundle, made.agreement)
    _make_coordinator(made)
    for site, data in plan.sites.items():
        _make_site(made, site, data, bundle, plan)
    write_run_file(made, plan)
    return made


def write_run_file(made: LocalConsortium, plan: ConsortiumPlan) -> None:
    """Write the run to submit; the last file of a consortium to be written."""
    write_atomic(made.run_file, tomli_w.dumps(_run_file(plan)).encode())


def assign_ports(made: LocalConsortium, sites: Mapping[str, Path]) -> None:
    """Point all processes at loopback ports that are free now."""
    port = free_port()
    CoordinatorHome(made.coordinator).change_settings(listen=f"127.0.0.1:{port}")
    for site in sites:
        SiteHome(made.site(site)).change_settings(coordinator=f"localhost:{port}")


def _signed_agreement(folder: Path, authority: ConsortiumAuthority, plan: ConsortiumPlan) -> AgreementBundle:
    def party(name: str) -> dict[str, str]:
        pem = (folder / "issued" / name / "identity.pem").read_bytes()
        return party_from(PeerIdentity.from_certificate(pem, authority.anchor))

    now = datetime.now(UTC)
    recipe = plan.recipe
    unit = _unit(plan)
    (adjacency,) = {how for each, how in GUARANTEES[plan.mode] if each is unit}
    terms = {
        "tacit_agreement": 1,
        "consortium": plan.consortium,
        "title": plan.title,
        "purpose": plan.purpose,
        "legal_basis": "Legitimate interest, GDPR Art. 6(1)(f); data never leave a partner.",
        "ca_fingerprint": authority.anchor.fingerprint,
        "partners": [party(site) for site in plan.sites],
        "coordinator": party(COORDINATOR),
        "task": {"kind": "sequence-classification", "labels": list(plan.labels)},
        "base_model": {
            "name": plan.base_model_name,
            "digest": base_model_digest(resolve_model_folder(plan.base_model)),
        },
        "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": recipe.lora_rank},
        "strategies": [_strategy(plan)],
        "privacy": {
            "modes": [plan.mode.value],
            "unit": unit.value,
            "adjacency": adjacency.value,
            "delta": plan.delta,
            "epsilon_per_run": plan.epsilon_per_run,
            "epsilon_lifetime": plan.epsilon_lifetime,
            "min_noise_multiplier": min(0.5, recipe.noise_multiplier),
            "max_l2_clip_norm": recipe.l2_clip_norm,
            "max_sample_rate": max(0.5, recipe.sample_rate),
            "public_dataset_size": recipe.public_dataset_size,
            "max_records_per_user": plan.max_records_per_user,
        },
        "secure_aggregation": {
            "min_cohort": plan.min_cohort or min(3, len(plan.sites)),
            "collusion_bound": 1,
            "ring_bits": plan.ring_bits,
            "weights": None if plan.weights is None else plan.weights.model_dump(),
        },
        "deidentification": {"profile": "standard-v1"},
        "residency": ["EU"],
        "retention_days": 365,
        "release": {"scope": "partners"},
        "valid_from": format_instant(now - timedelta(minutes=5)),
        "valid_until": format_instant(now + timedelta(days=365)),
        "approvals": {"required": len(plan.sites)},
        "testing": plan.testing,
    }
    bundle = draft(terms)
    for site in plan.sites:
        bundle = sign(bundle, Identity.load(folder / "issued" / site), now)
    return bundle


def _make_coordinator(made: LocalConsortium) -> None:
    shutil.copytree(made.folder / "issued" / COORDINATOR, made.coordinator / "pki")
    shutil.copyfile(made.agreement, made.coordinator / "agreement.yaml")
    CoordinatorHome.create(made.coordinator, CoordinatorSettings())


def _make_site(made: LocalConsortium, site: str, data: Path, bundle: AgreementBundle, plan: ConsortiumPlan) -> None:
    folder = made.site(site)
    shutil.copytree(made.folder / "issued" / site, folder / "pki")
    shutil.copyfile(made.agreement, folder / "agreement.yaml")
    settings = SiteSettings(
        coordinator="localhost:9400",
        base_model=plan.base_model,
        data=DataSettings(path=data.resolve(), key_column=plan.key_column),
    )
    place = SiteHome.create(folder, settings)
    policy = SitePolicy.draft(
        bundle.agreement,
        site,
        accept_runs=True,
        allow_testing=plan.testing,
        weight=plan.site_weights.get(site),
    )
    save_policy(policy, place.policy)
    create_ledger(place)


def _run_file(plan: ConsortiumPlan) -> dict[str, object]:
    recipe = plan.recipe
    run: dict[str, object] = {
        "run": {
            "name": plan.run_name,
            "rounds": recipe.rounds,
            "mode": plan.mode.value,
            "strategy": _strategy(plan),
        },
        "model": {"base": plan.base_model, "max_tokens": recipe.max_tokens},
        "lora": {"rank": recipe.lora_rank, "alpha": recipe.lora_alpha, "targets": ["query", "value"]},
        "training": {
            "local_steps": recipe.local_steps,
            "sample_rate": recipe.sample_rate,
            "noise_multiplier": recipe.noise_multiplier,
            "l2_clip_norm": recipe.l2_clip_norm,
            "learning_rate": recipe.learning_rate,
            "momentum": recipe.momentum,
            **recipe.options,
        },
        "server": {"learning_rate": recipe.server_learning_rate},
        "encoding": {"value_bound": recipe.value_bound},
        "evaluation": {"data": str(plan.test_data.resolve())},
        "simulation": {
            "agreement": "agreement.yaml",
            "sites": [_simulated_site(plan, site) for site in plan.sites],
        },
    }
    if plan.noise_seed is not None:
        run["testing"] = {"noise_seed": plan.noise_seed}
    return run


def _unit(plan: ConsortiumPlan) -> PrivacyUnit:
    if plan.mode is PrivacyMode.SITE:
        return PrivacyUnit.SITE
    return PrivacyUnit.RECORD if plan.key_column is None else PrivacyUnit.USER


def _strategy(plan: ConsortiumPlan) -> str:
    return JOINT_STRATEGY if plan.mode is PrivacyMode.JOINT else "fedavg"


def _simulated_site(plan: ConsortiumPlan, site: str) -> dict[str, object]:
    found: dict[str, object] = {"name": site, "data": str(plan.sites[site].resolve())}
    if plan.key_column is not None:
        found["key_column"] = plan.key_column
    return found | ({"weight": plan.site_weights[site]} if site in plan.site_weights else {})
