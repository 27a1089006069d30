"""``tacit pki``: the consortium's CA and the certificates it issues."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from certs.anchor import TrustAnchor, fingerprint
from certs.authority import AUTHORITY_KEY, DEFAULT_HOSTS, REGISTER, ConsortiumAuthority
from certs.names import Role
from certs.pemfiles import CA_CERTIFICATE, IDENTITY_CERTIFICATE, TLS_CERTIFICATE, read_certificate
from certs.profiles import check_validity_period, peer_name
from certs.register import IssuedRegister
from tacit.errors import CertificateError, InputError

app = typer.Typer(
    help="Certificates: consortium CA, coordinator and site identities.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_INIT_EPILOG = """
\b
Examples:
  tacit pki init --folder ca --consortium acme

Keep the folder's ca.key away from the network: whoever has it can be everybody.
"""

_ISSUE_EPILOG = """
\b
Examples:
  tacit pki issue --ca ca --role coordinator --name hub --out issued/hub \\
      --host hub.example.org
  tacit pki issue --ca ca --role site --name alpha --out issued/alpha
  tacit pki issue --ca ca --role site --name alpha --out issued/alpha-2027 \\
      --rotate
"""

_SHOW_EPILOG = """
\b
Examples:
  tacit pki show issued/alpha      certificates, and the key an agreement pins
  tacit pki show ca                the CA, its fingerprint, and what it issued
  tacit pki show issued/alpha --json
"""


@app.command(epilog=_INIT_EPILOG)
def init(
    folder: Path = typer.Option(..., help="Folder to make the CA in."),
    consortium: str = typer.Option(..., help="Its name: lower-case letters, digits and hyphens."),
    days: int = typer.Option(3650, help="How many days the CA is valid."),
) -> None:
    """Make a consortium's CA."""
    authority = ConsortiumAuthority.create(folder, consortium, days)
    typer.echo(f"made the CA of consortium {consortium} in {folder}")
    typer.echo(f"  fingerprint  {authority.anchor.fingerprint}")
    typer.echo(f"next: tacit pki issue --ca {folder} --role coordinator --name hub --out issued/hub")


@app.command(epilog=_ISSUE_EPILOG)
def issue(
    ca: Path = typer.Option(..., help="Folder of `tacit pki init`."),
    role: Role = typer.Option(..., help="What the peer is."),
    name: str = typer.Option(..., help="The peer's name: lower-case letters, digits and hyphens."),
    out: Path = typer.Option(..., help="Folder to write its certificates and keys to."),
    host: list[str] = typer.Option(
        [],
        help="Host name or IP address sites reach the coordinator at; repeat for several. "
        f"Without any: {', '.join(DEFAULT_HOSTS)}.",
    ),
    days: int = typer.Option(365, help="How many days the certificates are valid."),
    rotate: bool = typer.Option(False, "--rotate", help="New certificates for a name that has some."),
) -> None:
    """Issue a peer's TLS certificate and identity, with their keys."""
    if role is Role.SITE and host:
        raise InputError(
            f"--host {host[0]} was given for a site, expected it for a coordinator only: nobody connects to a site",
            hint="leave --host out",
        )
    for file in (CA_CERTIFICATE, AUTHORITY_KEY):
        if not (ca / file).is_file():
            raise CertificateError(
                f"{ca} holds no CA: there is no {ca / file}", hint="--ca is the folder of `tacit pki init`"
            )
    authority = ConsortiumAuthority.load(ca)
    issued = authority.issue(role, name, out, tuple(host) or DEFAULT_HOSTS, days, rotate=rotate)
    typer.echo(f"issued {issued.name} in {issued.folder}")
    typer.echo(f"  valid until   {_day(issued.not_after)}")
    typer.echo(f"  identity key  {base64.b64encode(issued.identity_key).decode()}")
    if role is Role.COORDINATOR:
        typer.echo(f"  reached at    {', '.join(host or DEFAULT_HOSTS)}")
    typer.echo(
        f"next: hand {issued.folder} to {name} over a channel you trust; keep {IDENTITY_CERTIFICATE} alone, which"
    )
    typer.echo("      is public and which `tacit agreement new` reads, and no copy of the keys")


@app.command(epilog=_SHOW_EPILOG)
def show(
    folder: Path = typer.Argument(..., help="A peer's folder, or the CA's."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show and check names, dates and fingerprints.

    Exits with an error when a certificate is expired or foreign, or a key is missing or not private.
    """
    is_peer = any((folder / name).exists() for name in (TLS_CERTIFICATE, IDENTITY_CERTIFICATE))
    facts = _peer_facts(folder) if is_peer else _authority_facts(folder)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(facts)
    if is_peer:
        from certs.credentials import check_validity

        check_validity(folder)
    else:
        path = folder / CA_CERTIFICATE
        check_validity_period(read_certificate(path), datetime.now(UTC), str(path))


def _peer_facts(folder: Path) -> dict[str, Any]:
    anchor = TrustAnchor.load(folder / CA_CERTIFICATE)
    tls = read_certificate(folder / TLS_CERTIFICATE)
    identity = read_certificate(folder / IDENTITY_CERTIFICATE)
    key = identity.public_key()
    return {
        "name": str(peer_name(identity, str(folder / IDENTITY_CERTIFICATE))),
        "consortium": anchor.consortium,
        "ca_fingerprint": anchor.fingerprint,
        "identity_key": base64.b64encode(key.public_bytes_raw()).decode()
        if isinstance(key, Ed25519PublicKey)
        else None,
        "hosts": _hosts(tls),
        "certificates": [
            _certificate_facts(TLS_CERTIFICATE, tls),
            _certificate_facts(IDENTITY_CERTIFICATE, identity),
            _certificate_facts(CA_CERTIFICATE, anchor.certificate),
        ],
    }


def _authority_facts(folder: Path) -> dict[str, Any]:
    anchor = TrustAnchor.load(folder / CA_CERTIFICATE)
    return {
        "consortium": anchor.consortium,
        "ca_fingerprint": anchor.fingerprint,
        "certificates": [_certificate_facts(CA_CERTIFICATE, anchor.certificate)],
        "issued": [asdict(entry) for entry in IssuedRegister(folder / REGISTER).entries()],
    }


def _certificate_facts(file: str, certificate: x509.Certificate) -> dict[str, Any]:
    now = datetime.now(UTC)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return {
        "file": file,
        "status": "not valid yet" if now < start else "expired" if now > end else "valid",
        "not_before": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "fingerprint": fingerprint(certificate),
    }


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def _print(facts: dict[str, Any]) -> None:
    labels = {
        "name": "name",
        "consortium": "consortium",
        "ca_fingerprint": "CA",
        "identity_key": "identity key",
        "hosts": "reached at",
    }
    for key, label in labels.items():
        value = facts.get(key)
        if value:
            typer.echo(f"{label:<14}{', '.join(value) if isinstance(value, list) else value}")
    for item in facts["certificates"]:
        period = f"{item['not_before'][:10]} to {item['not_after'][:10]}"
        typer.echo(f"{item['file']:<14}{item['status']}, {period}, {item['fingerprint']}")
    for item in facts.get("issued", []):
        again = ", rotation" if item["rotation"] else ""
        typer.echo(f"{'issued':<14}{item['uri']}, until {item['not_after'][:10]}{again}")


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"
