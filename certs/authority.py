"""The consortium's CA: created once, issues each name once, rotates on request.

A CA folder holds ``ca.pem``, ``ca.key`` (0600) and ``issued.json``, the register of what was issued. The CA
makes the peers' private keys here and writes them into ``out_folder``: hand that folder over, keep no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.anchor import TrustAnchor
from certs.names import PeerName, Role, check_name, check_role
from certs.pemfiles import (
    CA_CERTIFICATE,
    IDENTITY_CERTIFICATE,
    IDENTITY_KEY,
    PKI_FILES,
    TLS_CERTIFICATE,
    TLS_KEY,
    PrivateKey,
    certificate_pem,
    private_key_pem,
    read_ecdsa_key,
    write_new,
)
from certs.profiles import (
    PublicKey,
    Usage,
    authority_extensions,
    authority_subject,
    check_validity_period,
    leaf_extensions,
    leaf_subject,
)
from certs.register import IssuedEntry, IssuedRegister
from tacit.errors import CertificateError, InputError

AUTHORITY_KEY = "ca.key"
REGISTER = "issued.json"
DEFAULT_HOSTS = ("localhost", "127.0.0.1")

#: A new certificate is valid from a little before it was made: peers' clocks differ.
CLOCK_TOLERANCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Issued:
    """What :meth:`ConsortiumAuthority.issue` wrote."""

    name: PeerName
    folder: Path
    not_before: datetime
    not_after: datetime
    #: the raw Ed25519 public key, 32 bytes: what an agreement pins
    identity_key: bytes


class ConsortiumAuthority:
    """A consortium's CA, with its private key. Made by :meth:`create` or :meth:`load`."""

    def __init__(self, folder: Path, anchor: TrustAnchor, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self.anchor = anchor
        self._key = key
        self.register = IssuedRegister(folder / REGISTER)

    @property
    def consortium(self) -> str:
        """The consortium this CA speaks for."""
        return self.anchor.consortium

    @classmethod
    def create(
        cls, folder: Path, consortium: str, valid_days: int = 3650, *, valid_from: datetime | None = None
    ) -> Self:
        """Make a new CA in ``folder``.

        Args:
            folder: created if absent; must not hold a CA already.
            consortium: 1 to 63 lower-case letters, digits or hyphens.
            valid_days: how long the CA lives.
            valid_from: start of validity, with time zone; a few minutes ago when absent.

        Raises:
            InputError: a bad name or duration, or the folder holds a CA already.
        """
        check_name("consortium", consortium)
        start, end = _period(valid_from, valid_days)
        _refuse_existing(folder, (CA_CERTIFICATE, AUTHORITY_KEY, REGISTER))
        key = ec.generate_private_key(ec.SECP256R1())
        subject = authority_subject(consortium)
        certificate = _sign(subject, subject, key.public_key(), start, end, authority_extensions(key.public_key()), key)
        anchor = TrustAnchor(certificate)
        _private_folder(folder)
        write_new(folder / AUTHORITY_KEY, private_key_pem(key), private=True)
        write_new(folder / CA_CERTIFICATE, certificate_pem(certificate), private=False)
        return cls(folder, anchor, key)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a CA folder.

        Raises:
            CertificateError: missing, unreadable, a key others can read, or a key of another certificate.
        """
        anchor = TrustAnchor.load(folder / CA_CERTIFICATE)
        key = read_ecdsa_key(folder / AUTHORITY_KEY)
        if key.public_key() != anchor.certificate.public_key():
            raise CertificateError(f"{folder / AUTHORITY_KEY} is not the key of {folder / CA_CERTIFICATE}")
        return cls(folder, anchor, key)

    def issue(
        self,
        role: str,
        name: str,
        out_folder: Path,
        hosts: Sequence[str] = DEFAULT_HOSTS,
        valid_days: int = 365,
        *,
        rotate: bool = False,
        valid_from: datetime | None = None,
    ) -> Issued:
        """Make a peer's two certificates and keys, and write its ``pki`` folder.

        Writes ``out_folder/{ca.pem,tls.pem,tls.key,identity.pem,identity.key}``, keys with mode 0600. Nothing
        is ever overwritten. The name goes into the register before any key is written: a crash in between
        costs the name (``rotate`` gives it back), never its uniqueness.

        Args:
            role: ``"site"`` or ``"coordinator"``.
            name: 1 to 63 lower-case letters, digits or hyphens.
            out_folder: created if absent; must not hold any of the files.
            hosts: DNS names and IP addresses sites connect to. Written into a coordinator's TLS certificate
                only: nobody connects to a site.
            valid_days: how long the certificates live, at most as long as the CA.
            rotate: issue new certificates for a name that has some. The old ones stay valid until they
                expire.
            valid_from: start of validity, with time zone; a few minutes ago when absent.

        Raises:
            InputError: a bad name, host or duration; a name already issued; or nothing to rotate.
            CertificateError: a file of the folder exists, the register is unreadable, or the CA has expired.
        """
        peer = PeerName(self.consortium, check_role(role), name)
        if peer.role is Role.COORDINATOR and not hosts:
            raise InputError(f"no host given for {peer}: sites could not check whom they connect to")
        start, end = self._leaf_period(valid_from, valid_days)
        tls_key = ec.generate_private_key(ec.SECP256R1())
        identity_key = Ed25519PrivateKey.generate()
        tls = self._leaf(peer, Usage.TLS, hosts, tls_key.public_key(), start, end)
        identity = self._leaf(peer, Usage.IDENTITY, (), identity_key.public_key(), start, end)
        raw = identity_key.public_key().public_bytes_raw()
        with self.register.locked():
            self._check_name_free(peer, rotate=rotate)
            _refuse_existing(out_folder, PKI_FILES)
            self.register.append(
                IssuedEntry(
                    uri=str(peer),
                    issued_at=_timestamp(datetime.now(UTC)),
                    not_before=_timestamp(start),
                    not_after=_timestamp(end),
                    tls_serial=str(tls.serial_number),
                    identity_serial=str(identity.serial_number),
                    identity_key=raw.hex(),
                    rotation=rotate,
                )
            )
            _private_folder(out_folder)
            write_new(out_folder / TLS_KEY, private_key_pem(tls_key), private=True)
            write_new(out_folder / IDENTITY_KEY, private_key_pem(identity_key), private=True)
            write_new(out_folder / TLS_CERTIFICATE, certificate_pem(tls), private=False)
            write_new(out_folder / IDENTITY_CERTIFICATE, certificate_pem(identity), private=False)
            write_new(out_folder / CA_CERTIFICATE, self.anchor.certificate_pem, private=False)
        return Issued(peer, out_folder, start, end, raw)

    def _check_name_free(self, peer: PeerName, *, rotate: bool) -> None:
        held = self.register.holds(peer)
        if held is not None and not rotate:
            raise InputError(
                f"{peer} was issued already on {held.issued_at}; two peers cannot have one name",
                hint="choose another name, or give this one new certificates: `tacit pki issue --rotate`",
            )
        if held is None and rotate:
            known = sorted({entry.uri for entry in self.register.entries()})
            raise InputError(
                f"{peer} was never issued, so there is nothing to rotate; "
                f"issued so far: {', '.join(known) or 'nothing'}",
                hint="leave --rotate out to issue it for the first time",
            )

    def _leaf_period(self, valid_from: datetime | None, valid_days: int) -> tuple[datetime, datetime]:
        authority = self.anchor.certificate
        if valid_from is None:
            check_validity_period(authority, datetime.now(UTC), str(self.folder / CA_CERTIFICATE))
        start, end = _period(valid_from, valid_days)
        if valid_from is None:
            start = max(start, authority.not_valid_before_utc)
        if start < authority.not_valid_before_utc or end > authority.not_valid_after_utc:
            raise InputError(
                f"{valid_days} days from {start:%Y-%m-%d} are outside the CA's own validity "
                f"({authority.not_valid_before_utc:%Y-%m-%d} to {authority.not_valid_after_utc:%Y-%m-%d})",
                hint="ask for fewer days, or create a new CA",
            )
        return start, end

    def _leaf(
        self,
        peer: PeerName,
        usage: Usage,
        hosts: Sequence[str],
        key: PublicKey,
        start: datetime,
        end: datetime,
    ) -> x509.Certificate:
        extensions = leaf_extensions(peer, usage, hosts, key, self._key.public_key())
        issuer = self.anchor.certificate.subject
        return _sign(leaf_subject(peer), issuer, key, start, end, extensions, self._key)


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    start: datetime,
    end: datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    authority_key: PrivateKey,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(authority_key, hashes.SHA256())


def _period(valid_from: datetime | None, valid_days: int) -> tuple[datetime, datetime]:
    if valid_days < 1:
        raise InputError(f"a certificate cannot be valid for {valid_days} days, expected at least 1")
    if valid_from is not None and valid_from.tzinfo is None:
        raise InputError(f"the time {valid_from.isoformat()} has no time zone, expected UTC")
    now = datetime.now(UTC)
    # X.509 times have whole seconds.
    start = (valid_from or now - CLOCK_TOLERANCE).astimezone(UTC).replace(microsecond=0)
    try:
        return start, (valid_from or now).astimezone(UTC).replace(microsecond=0) + timedelta(days=valid_days)
    except OverflowError as error:
        raise InputError(f"{valid_days} days are beyond the calendar, expected a few thousand at most") from error


def _refuse_existing(folder: Path, names: Sequence[str]) -> None:
    existing = [str(folder / name) for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if existing:
        raise InputError(
            f"{', '.join(existing)} exist{'s' if len(existing) == 1 else ''} already; "
            "keys and certificates are never overwritten",
            hint="choose another folder, or move the old files away yourself",
        )


def _private_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)


def _timestamp(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
