"""``tacit ledger``: what a site has spent, and whether its account of it is whole."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tacit.errors import InputError, LedgerCorrupt, LedgerError

if TYPE_CHECKING:
    from rich.console import Console

    from certs.identity import PeerIdentity
    from privacy.ledger import LedgerProof, LedgerStatement, TreeHead

app = typer.Typer(
    help="What a site has spent: show, verify, prove, export.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_SHOW_EPILOG = """
\b
Examples:
  tacit ledger show sites/alpha                    a site's folder
  tacit ledger show copies/alpha-2027.sqlite       a copy of its ledger
  tacit ledger show sites/alpha --json
"""

_VERIFY_EPILOG = """
\b
Examples:
  tacit ledger verify sites/alpha
  tacit ledger verify alpha.sqlite --hashes-only

\b
A copy, an export and a proof, whose certificates lie elsewhere:
  tacit ledger verify alpha.sqlite --certificate identity.pem --ca ca.pem
  tacit ledger verify alpha.jsonl --certificate identity.pem --ca ca.pem
  tacit ledger verify --proof it.json --certificate identity.pem --ca ca.pem

Exits with 6 when the log does not verify. A log that was cut back to an older state verifies: only somebody who
remembers a later tree head, the coordinator or an auditor, can tell.
"""


_PROVE_EPILOG = """
\b
Examples:
  tacit ledger prove sites/alpha --entry 12       this entry is in the log
  tacit ledger prove sites/alpha --from 40        it continues its first 40
  tacit ledger prove sites/alpha --from 40 --to 90 > proof.json

The first says what entry 12 says; the others are hashes alone.
"""

_EXPORT_EPILOG = """
\b
Examples:
  tacit ledger export sites/alpha --out alpha.jsonl
  tacit ledger export sites/alpha | head -1

One line of canonical JSON for each entry, then the signed tree head. `tacit ledger verify alpha.jsonl` checks it.
"""


#: where a site's folder has its ledger, beside which its certificates are
_IN_A_HOME = ("state", "ledger.sqlite")
_VERIFY_HELP = "`tacit ledger verify --help` ends in examples"


@app.command(epilog=_SHOW_EPILOG)
def show(
    place: Path = typer.Argument(..., help="A site's folder, or a ledger file."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what was spent on each dataset, by which run, and what is left. Works while the agent runs."""
    from privacy.ledger import Ledger, statement

    path = _ledger_file(place)
    with Ledger.open_readonly(path) as ledger:
        page = statement(ledger)
    if as_json:
        typer.echo(json.dumps({"ledger": str(path), **page.model_dump(mode="json")}, indent=2))
        return
    from rich.console import Console

    _print(Console(), path, page)


@app.command(epilog=_VERIFY_EPILOG)
def verify(
    place: Path | None = typer.Argument(None, help="A site's folder, a ledger file, or an export (.jsonl)."),
    proof: Path | None = typer.Option(None, help="A proof by `tacit ledger prove`, instead of a ledger."),
    certificate: Path | None = typer.Option(None, help="The site's identity.pem, for a ledger outside its folder."),
    ca: Path | None = typer.Option(None, help="The consortium's ca.pem, to go with --certificate."),
    hashes_only: bool = typer.Option(False, "--hashes-only", help="Do not check who signed the tree head."),
) -> None:
    """Check every entry, the tree over them and the site's signature; print the tree head."""
    from privacy.ledger import Ledger, export_head, verify_export

    if (place is None) == (proof is None):
        raise InputError("give a ledger, or a proof with --proof: one of the two", hint=_VERIFY_HELP)

    def signer_of(path: Path, head: TreeHead) -> PeerIdentity | None:
        return None if hashes_only else _signer(path, certificate, ca, _moment(head))

    told: LedgerProof | None = None
    if proof is not None:
        path = proof
        told = _proof(path)
        head = told.tree_head
        signer = signer_of(path, head)
        told.verify(signer)
    else:
        assert place is not None
        path = _ledger_file(place)
        if path.suffix == ".jsonl":
            data = _read(path)
            signer = signer_of(path, export_head(data))
            head = verify_export(data, signer)
        else:
            with Ledger.open_readonly(path) as ledger:
                signer = signer_of(path, ledger.tree_head())
                head = ledger.verify(signer)
    typer.echo(f"verified  {path}")
    if told is not None:
        typer.echo(f"proves    {_proved(told)}")
    typer.echo(f"entries   {head.size}")
    typer.echo(f"root      {head.root}")
    typer.echo(f"time      {head.timestamp}")
    typer.echo(f"signed    {f'by {signer.name}' if signer else 'not checked (--hashes-only)'}")


@app.command(epilog=_PROVE_EPILOG)
def prove(
    place: Path = typer.Argument(..., help="A site's folder, or a ledger file."),
    entry: int | None = typer.Option(None, help="Prove that this entry is in the log; the first is 0."),
    from_size: int | None = typer.Option(None, "--from", help="Prove that the log continues this many first entries."),
    to_size: int | None = typer.Option(None, "--to", help="With --from: up to this many entries. All, when left out."),
) -> None:
    """Print a proof as JSON: that an entry is in the log, or that the log only grew between two sizes."""
    from privacy.ledger import Ledger, prove_consistency, prove_inclusion

    if (entry is None) == (from_size is None) or (entry is not None and to_size is not None):
        raise InputError(
            "give --entry NUMBER, or --from SIZE with or without --to SIZE",
            hint="`tacit ledger prove --help` ends in examples",
        )
    with Ledger.open_readonly(_ledger_file(place)) as ledger:
        if entry is not None:
            made = prove_inclusion(ledger, entry)
        else:
            assert from_size is not None
            made = prove_consistency(ledger, from_size, to_size)
    typer.echo(made.encode().decode())


@app.command("export", epilog=_EXPORT_EPILOG)
def export_ledger(
    place: Path = typer.Argument(..., help="A site's folder, or a ledger file."),
    out: Path | None = typer.Option(None, help="Write to this file (.jsonl), which must not exist yet."),
) -> None:
    """Print every entry as canonical JSON, a line each, then the signed tree head: for an auditor."""
    from privacy.ledger import Ledger, export
    from tacit.durable import create_private

    with Ledger.open_readonly(_ledger_file(place)) as ledger:
        data = export(ledger)
        size = ledger.tree_head().size
    if out is None:
        typer.echo(data.decode(), nl=False)
        return
    try:
        create_private(out, data)
    except InputError as error:
        raise InputError(error.message, hint="name another file with --out") from error
    typer.echo(f"{out}: {size} entries and the tree head")


def _moment(head: TreeHead) -> datetime:
    try:
        return datetime.fromisoformat(head.timestamp)
    except ValueError as error:
        raise LedgerCorrupt(
            f"the tree head says it was made at {head.timestamp!r}, which is no time",
            hint="take the file again from the site that made it",
        ) from error


def _proved(told: LedgerProof) -> str:
    if told.inclusion is not None:
        entry = told.inclusion.entry
        return f"entry {entry.index} ({entry.body.kind}, {entry.time}) is in the log"
    assert told.consistency is not None
    between = told.consistency
    return f"the log of {between.size} entries continues that of {between.old_size} with root {between.old_root}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _proof(path: Path) -> LedgerProof:
    from privacy.ledger import read_proof

    try:
        return read_proof(_read(path))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error


def _ledger_file(place: Path) -> Path:
    return place.joinpath(*_IN_A_HOME) if place.is_dir() else place


def _signer(path: Path, certificate: Path | None, ca: Path | None, at: datetime) -> PeerIdentity:
    """The identity that must have signed, valid when it did: an old ledger outlives its certificate."""
    from certs.identity import PeerIdentity, TrustAnchor
    from certs.pemfiles import CA_CERTIFICATE, IDENTITY_CERTIFICATE, certificate_pem, read_certificate

    where = path.resolve()
    if (where.parent.name, where.name) != _IN_A_HOME and (certificate is None or ca is None):
        raise LedgerError(
            f"the signature of {path} cannot be checked without --certificate and --ca",
            hint="give the site's identity.pem and the consortium's ca.pem, or say --hashes-only",
        )
    pki = where.parent.parent / "pki"
    certificate = certificate or pki / IDENTITY_CERTIFICATE
    ca = ca or pki / CA_CERTIFICATE
    for file, option in ((certificate, "--certificate"), (ca, "--ca")):
        if not file.is_file():
            raise LedgerError(
                f"the signature cannot be checked: there is no {file}",
                hint=f"give the site's identity.pem and the consortium's ca.pem ({option}), or say --hashes-only",
            )
    pem = certificate_pem(read_certificate(certificate))
    return PeerIdentity.from_certificate(pem, TrustAnchor.load(ca), at=at, source=str(certificate))


def _print(console: Console, path: Path, page: LedgerStatement) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from privacy.report.figures import delta_text

    head = page.tree_head
    console.print(Text(f"ledger {path}"))
    console.print(Text(f"{head.size} entries, root {head.root[:16]}, {head.timestamp}"))
    for agreement in page.agreements:
        title = agreement.summary.get("title", "")
        force = "in force" if agreement.in_force else "withdrawn"
        console.print(Text(f"agreement {agreement.agreement_digest[:23]} {title} ({force})"))
    if not page.datasets:
        console.print("nothing has been spent")
    for dataset in page.datasets:
        title = Text(
            f"dataset {dataset.dataset} (epsilon for one {dataset.unit}, at delta {delta_text(dataset.delta)})"
        )
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("run", no_wrap=True)
        for column in ("spent", "limit", "left", "rounds", "done", "lost", "open"):
            table.add_column(column, justify="right", no_wrap=True)
        for run in dataset.runs:
            left = None if run.epsilon is None else max(run.epsilon_limit - run.epsilon, 0.0)
            # a reservation is for all that a round's order draws
            counts = (run.reserved, run.committed, run.forfeited, run.open)
            table.add_row(
                Text(run.run_id), _spent(run.epsilon), _limit(run.epsilon_limit), _left(left), *map(str, counts)
            )
        table.add_section()
        totals = [sum(getattr(run, name) for run in dataset.runs) for name in ("reserved", "committed", "forfeited")]
        table.add_row(
            "lifetime",
            _spent(dataset.epsilon),
            _limit(dataset.epsilon_limit),
            _left(dataset.epsilon_left),
            *map(str, (*totals, sum(run.open for run in dataset.runs))),
        )
        console.print(table)
        if not dataset.noise_secret:
            console.print("a test seed was used on this dataset: NO PRIVACY IS CLAIMED for it")
    for item in page.open_reservations:
        console.print(
            Text(f"open: run {item.run_id} round {item.round} step {item.step} on {item.dataset} (entry {item.entry})")
        )


def _spent(epsilon: float | None) -> str:
    from privacy.report.figures import epsilon_text

    return "unbounded" if epsilon is None else epsilon_text(epsilon)


def _limit(epsilon: float) -> str:
    return f"{epsilon:.3f}"


def _left(epsilon: float | None) -> str:
    """Rounded down, as what was spent is rounded up."""
    from privacy.report.figures import up

    return "unbounded" if epsilon is None else f"{abs(up(-epsilon)):.3f}"
