"""An agreement that nobody signed, so that a benchmark's run has the parameters that a real one would have.

Its keys are made and forgotten here. What follows from an agreement (threshold, collusion bound, grid of the secure
sum, public normaliser) is derived by the same functions as for a signed one.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.identity import PeerIdentity
from certs.names import PeerName, Role
from privacy.agreement import Agreement, VerifiedAgreement, party_from
from privacy.secagg.threshold import default_collusion_bound, default_threshold
from server.preflight import plan_of
from server.run_spec import RunSpec
from strategies.orders import RunPlan

_NO_DIGEST = "sha256:" + 64 * "0"
_CONSORTIUM = "benchmark"


def unsigned_agreement(
    spec: RunSpec,
    sites: Sequence[str],
    labels: Sequence[str],
    *,
    public_dataset_size: int,
    delta: float,
    min_cohort: int | None = None,
) -> Agreement:
    """Return terms that allow the run of ``spec`` to ``sites``, with the defaults of ``tacit agreement new``.

    Args:
        min_cohort: sites in a sum, at least; None: the default threshold.
    """

    def party(role: Role, name: str) -> dict[str, str]:
        key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        return party_from(PeerIdentity.from_public_key(PeerName(_CONSORTIUM, role, name), key))

    return Agreement.model_validate(
        {
            "tacit_agreement": 1,
            "consortium": _CONSORTIUM,
            "title": "Utility benchmark",
            "purpose": "To measure utility on public data.",
            "legal_basis": "None is needed: the data are public.",
            "ca_fingerprint": _NO_DIGEST,
            "partners": [party(Role.SITE, site) for site in sites],
            "coordinator": party(Role.COORDINATOR, "hub"),
            "task": {"kind": "sequence-classification", "labels": list(labels)},
            "base_model": {"name": spec.model.base, "digest": _NO_DIGEST},
            "adapter": {"kind": "lora", "targets": list(spec.lora.targets) or ["query"], "max_rank": 256},
            "strategies": [spec.run.strategy],
            "privacy": {
                "modes": [spec.run.mode.value],
                "unit": "record",
                "adjacency": "add-remove",
                "delta": delta,
                "epsilon_per_run": 50.0,
                "epsilon_lifetime": 50.0,
                "min_noise_multiplier": 0.1,
                "max_l2_clip_norm": spec.training.l2_clip_norm,
                "max_sample_rate": spec.training.sample_rate,
                "public_dataset_size": public_dataset_size,
            },
            "secure_aggregation": {
                "min_cohort": default_threshold(len(sites)) if min_cohort is None else min_cohort,
                "collusion_bound": default_collusion_bound(len(sites)),
                "ring_bits": 32,
                "weights": None,
            },
            "deidentification": {"profile": "none"},
            "residency": ["anywhere"],
            "retention_days": 0,
            "release": {"scope": "public"},
            "valid_from": "2026-01-01T00:00:00Z",
            "valid_until": "2126-01-01T00:00:00Z",
            "approvals": {"required": len(sites)},
            "testing": True,
        }
    )


def plan_under(spec: RunSpec, agreement: Agreement, *, adapter_layout_digest: str, adapter_length: int) -> RunPlan:
    """Return what every order of the run has in common, as :func:`server.preflight.plan_of`; nobody has signed."""
    return plan_of(
        16 * "0",
        spec,
        VerifiedAgreement(agreement, _NO_DIGEST, ()),
        base_model_digest=_NO_DIGEST,
        adapter_layout_digest=adapter_layout_digest,
        adapter_length=adapter_length,
    )
