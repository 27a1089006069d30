"""An agreement in plain words, for the people who sign it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from privacy.agreement import Agreement, AgreementBundle
from privacy.deidentify import profile_named
from privacy.events import Adjacency, PrivacyUnit
from privacy.report.figures import delta_text

_MODES = {
    "local": "every site adds all the noise itself: it is protected even if all others collude",
    "joint": "sites share the noise of a sum that nobody can take apart while no more than the agreed number collude",
    "site": "sites share the noise of a sum of whole updates, under the same condition; a record is protected only as "
    "part of its site",
}
_CHANGE = {
    Adjacency.ADD_REMOVE: "adding or removing one {unit}",
    Adjacency.ZERO_OUT: "replacing by zero all that one {unit} contributes (that it takes part is no secret)",
}
_RELEASE = {
    "partners": "the partners, and nobody else",
    "public": "anybody",
}


def agreement_page(bundle: AgreementBundle, *, checked: str) -> RenderableType:
    """Return the page: what is agreed, who signed, and what that means.

    Args:
        bundle: the agreement and its signatures so far.
        checked: one sentence on whether the signatures were checked.
    """
    agreement = bundle.agreement
    sections = [
        ("Purpose", _purpose(agreement)),
        ("Who", _who(agreement)),
        ("What is learned", _task(agreement)),
        (f"How a {agreement.privacy.unit.value} is protected", _privacy(agreement)),
        ("What the coordinator sees", _aggregation(agreement)),
        ("Data and results", _data(agreement)),
        ("Signatures", _signatures(bundle, checked)),
    ]
    parts: list[RenderableType] = [Text(agreement.title, style="bold"), Text(agreement.digest(), style="dim")]
    if agreement.testing:
        parts += [
            Text(),
            Text("FOR TESTING ONLY: noise may be reproducible, so nothing is protected.", style="bold red"),
        ]
    for title, rows in sections:
        parts += [Text(), Text(title, style="bold"), Padding(_table(rows), (0, 0, 0, 2))]
    return Group(*parts)


Rows = Iterable[tuple[str, str]]


def _table(rows: Rows) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in rows:
        # Text, not markup: what an agreement says must not be able to format itself away.
        table.add_row(Text(name), Text(value))
    return table


def _purpose(agreement: Agreement) -> Rows:
    return [
        ("purpose", agreement.purpose),
        ("legal basis", agreement.legal_basis),
        ("valid", f"from {agreement.valid_from} until {agreement.valid_until}"),
    ]


def _who(agreement: Agreement) -> Rows:
    return [
        ("consortium", agreement.consortium),
        ("partners", ", ".join(agreement.partner_names())),
        ("coordinator", f"{agreement.coordinator.name} (has no data)"),
        ("certificate authority", agreement.ca_fingerprint),
    ]


def _task(agreement: Agreement) -> Rows:
    labels, adapter = agreement.task.labels, agreement.adapter
    return [
        ("task", f"{agreement.task.kind} into {len(labels)} labels"),
        ("labels", ", ".join(labels)),
        ("base model", agreement.base_model.name),
        ("its digest", agreement.base_model.digest),
        ("trained", f"{adapter.kind} adapters up to rank {adapter.max_rank} on {', '.join(adapter.targets)}"),
        ("strategies", ", ".join(agreement.strategies)),
    ]


def _privacy(agreement: Agreement) -> Rows:
    terms = agreement.privacy
    yield (
        "guarantee",
        f"{_CHANGE[terms.adjacency].format(unit=terms.unit)} changes what anybody outside can observe by at most a "
        f"factor e^epsilon, except with probability delta = {delta_text(terms.delta)}",
    )
    yield "epsilon, one run", f"at most {terms.epsilon_per_run:g}"
    yield "epsilon, ever", f"at most {terms.epsilon_lifetime:g}, over all runs on a site's data"
    for mode in terms.modes:
        yield f"mode {mode.value}", _MODES[mode.value]
    yield "noise", f"at least {terms.min_noise_multiplier:g} times the clip norm"
    yield "clip norm", f"at most {terms.max_l2_clip_norm:g}: the most one {terms.unit.value} can move a step"
    sampled = "record" if terms.unit is PrivacyUnit.SITE else terms.unit.value
    yield "sampling", f"each step sees a {sampled} with probability at most {terms.max_sample_rate:g}"
    if terms.max_records_per_user is not None:
        yield (
            "a user",
            (
                "all records of a site with one value in its key column; "
                f"a step takes at most {terms.max_records_per_user} of them, and clips what they say together"
            ),
        )
    yield "agreed size", f"{terms.public_dataset_size} {sampled}s a site; the true sizes stay secret"


def _aggregation(agreement: Agreement) -> Rows:
    terms = agreement.secure_aggregation
    partners = "1 partner" if terms.collusion_bound == 1 else f"{terms.collusion_bound} partners"
    return [
        ("sums only", f"over at least {terms.min_cohort} sites, never one site's update"),
        ("collusion", f"holds even if the coordinator and {partners} work together"),
        ("arithmetic", f"integers modulo 2^{terms.ring_bits}"),
        (
            "weights",
            "every site counts the same"
            if terms.weights is None
            else f"as each steward declares, up to {terms.weights.cap} in steps of {terms.weights.bin}; "
            "only their sum is seen",
        ),
    ]


def _data(agreement: Agreement) -> Rows:
    profile = profile_named(agreement.deidentification.profile)
    if profile.types:
        replaced = f"{profile.name}: replaces {', '.join(profile.types)}; the texts are still not anonymous"
    else:
        replaced = "none: texts are used as they are"
    return [
        ("de-identification", replaced),
        ("data stay in", ", ".join(agreement.residency)),
        ("retention", f"checkpoints and logs of a run are kept for {agreement.retention_days} days"),
        ("the result goes to", _RELEASE[agreement.release.scope]),
    ]


def _signatures(bundle: AgreementBundle, checked: str) -> Rows:
    signed = {signature.signer: signature.signed_at for signature in bundle.signatures}
    names = bundle.agreement.partner_names()
    yield "required", f"{bundle.agreement.approvals.required} of {len(names)}; {len(signed)} so far"
    for name in names:
        yield name, f"signed at {signed[name]}" if name in signed else "has not signed"
    for name in signed.keys() - set(names):
        yield name, "signed, but is no partner"
    yield "checked", checked
