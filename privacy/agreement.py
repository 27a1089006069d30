"""The signed agreement: the file that travels between partners, its signatures, what it takes to believe it.

The terms themselves are data (:class:`privacy.terms.Agreement`). The file is a bundle of them and the
signatures so far (:class:`AgreementBundle`). Only :func:`verify` makes a :class:`VerifiedAgreement` of a
bundle, and only that opens a site's gate. Absent, expired, unsigned, edited or holding an unknown field:
refused.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from certs.identity import Identity, PeerIdentity, TrustAnchor
from certs.names import PeerName, Role
from privacy.order import Name, Strict
from privacy.terms import (
    CONTEXT,
    Agreement,
    Instant,
    List,
    Party,
    decode_base64,
    decode_key,
    format_instant,
    parse_instant,
)
from tacit.canonical import canonical_json
from tacit.durable import write_atomic
from tacit.errors import AgreementError, BadSignature, CertificateError
from tacit.strict_yaml import dump_yaml, read_yaml
from tacit.validation import validated

__all__ = [
    "CONTEXT",
    "Agreement",
    "AgreementBundle",
    "Signature",
    "VerifiedAgreement",
    "check_authority",
    "check_valid_at",
    "draft",
    "dump_bundle",
    "load_bundle",
    "party_from",
    "save_bundle",
    "sign",
    "verify",
]

_HEADER = b"""\
# An agreement of a Tacit consortium, with the signatures so far. Read it with `tacit agreement show`.
# Changing anything under `agreement:` makes every signature void.
"""


class Signature(Strict):
    """One partner's signature. ``signed_at`` is the signer's own word, and is signed too."""

    signer: Name
    #: PEM, the signer's identity certificate
    certificate: str = Field(max_length=20_000)
    #: base64, Ed25519
    signature: str = Field(max_length=200)
    signed_at: Instant


class AgreementBundle(Strict):
    """The file: an agreement and the signatures so far. Proves nothing until :func:`verify` has read it."""

    agreement: Agreement
    signatures: Annotated[tuple[Signature, ...], List, Field(max_length=1000)]


@dataclass(frozen=True)
class VerifiedAgreement:
    """An agreement whose signatures were checked. Made by :func:`verify`; where data is at stake, by nothing else.

    Its validity in time was checked once; whoever acts on it later asks :func:`check_valid_at` again.
    """

    agreement: Agreement
    digest: str
    #: names of the partners whose signatures verify, in the agreement's order
    approved_by: tuple[str, ...]


def load_bundle(path: Path) -> AgreementBundle:
    """Read an agreement file.

    Raises:
        AgreementError: absent, not YAML, an unknown or missing field, a duplicate key, a bad value.
    """
    return validated(AgreementBundle, read_yaml(path, error=AgreementError), source=str(path), error=AgreementError)


def save_bundle(bundle: AgreementBundle, path: Path) -> None:
    """Write an agreement file; a crash leaves the old or the new one.

    Raises:
        StorageFull: the disk has no room; the old file is untouched.
    """
    write_atomic(path, dump_bundle(bundle))


def dump_bundle(bundle: AgreementBundle) -> bytes:
    """The bytes :func:`save_bundle` writes: the same for the same bundle."""
    return _HEADER + dump_yaml(bundle.model_dump(mode="json"))


def sign(bundle: AgreementBundle, identity: Identity, now: datetime) -> AgreementBundle:
    """Return ``bundle`` with ``identity``'s signature added; signatures already there stay as they are.

    Args:
        bundle: from :func:`load_bundle`.
        identity: of a partner named in the agreement, with the key the agreement pins.
        now: time of signing, with time zone.

    Raises:
        AgreementError: not a partner, another key, expired, signed by this partner already, or an earlier
            signature does not fit the text: somebody edited it after a partner signed.
    """
    agreement = bundle.agreement
    party = _party_of(agreement, identity.name)
    if decode_key(party.identity_key) != identity.public_key_bytes:
        raise AgreementError(
            f"the identity key of {identity.name} is not the one the agreement names for {party.name!r}",
            hint="ask for a new agreement with the new key, or sign with the key that was given at the time",
        )
    if now >= parse_instant(agreement.valid_until):
        raise _expired(agreement, now)
    for signature in bundle.signatures:
        if signature.signer == party.name:
            raise AgreementError(
                f"{party.name!r} already signed this agreement at {signature.signed_at}; nothing was changed",
                hint="`tacit agreement show` lists the partners that have not signed yet",
            )
        _check_signature(agreement, signature)
    signed_at = format_instant(now)
    raw = identity.sign(CONTEXT, _signed_message(agreement, party.name, signed_at))
    added = Signature(
        signer=party.name,
        certificate=identity.certificate_pem.decode("ascii"),
        signature=base64.b64encode(raw).decode("ascii"),
        signed_at=signed_at,
    )
    return AgreementBundle(agreement=agreement, signatures=(*bundle.signatures, added))


def verify(bundle: AgreementBundle, anchor: TrustAnchor, *, now: datetime) -> VerifiedAgreement:
    """Check a bundle: the right consortium, valid now, every signature right, and enough of them.

    One wrong signature refuses the whole bundle, even when enough others are right.

    Args:
        bundle: from :func:`load_bundle`.
        anchor: the consortium's CA, as this machine trusts it.
        now: the current time, with time zone.

    Raises:
        AgreementError: wrong CA, expired or not yet valid, unsigned or with too few signatures, edited after
            signing, an unknown or repeated signer, a foreign or expired certificate, another key than agreed.
    """
    agreement = bundle.agreement
    check_authority(agreement, anchor)
    check_valid_at(agreement, now)
    signers: set[str] = set()
    for signature in bundle.signatures:
        if signature.signer in signers:
            raise AgreementError(f"{signature.signer!r} appears twice among the signatures, expected once")
        _check_certificate(agreement, signature, anchor, now)
        _check_signature(agreement, signature)
        signers.add(signature.signer)
    if len(signers) < agreement.approvals.required:
        missing = [name for name in agreement.partner_names() if name not in signers]
        raise AgreementError(
            f"the agreement has {len(signers)} of the {agreement.approvals.required} signatures it requires; "
            f"not signed by: {', '.join(missing)}",
            hint="each partner signs with: tacit agreement sign AGREEMENT --pki FOLDER",
        )
    approved = tuple(name for name in agreement.partner_names() if name in signers)
    return VerifiedAgreement(agreement=agreement, digest=agreement.digest(), approved_by=approved)


def check_authority(agreement: Agreement, anchor: TrustAnchor) -> None:
    """Check that the agreement is of the consortium whose CA this machine trusts.

    Raises:
        AgreementError: another consortium, or another CA.
    """
    if agreement.ca_fingerprint != anchor.fingerprint or agreement.consortium != anchor.consortium:
        raise AgreementError(
            f"the agreement is of consortium {agreement.consortium!r} with CA {agreement.ca_fingerprint}, "
            f"expected {anchor.consortium!r} with CA {anchor.fingerprint}",
            hint="use the ca.pem of the consortium that made the agreement",
        )


def check_valid_at(agreement: Agreement, now: datetime) -> None:
    """Check the agreement's period, ``valid_from <= now < valid_until``.

    Raises:
        AgreementError: not yet valid, or expired.
    """
    if now < parse_instant(agreement.valid_from):
        raise AgreementError(
            f"the agreement is valid from {agreement.valid_from}, and it is {format_instant(now)} now",
            hint="wait until then, or check this machine's clock",
        )
    if now >= parse_instant(agreement.valid_until):
        raise _expired(agreement, now)


def draft(terms: Mapping[str, Any], *, source: str = "the agreement") -> AgreementBundle:
    """Make a bundle without signatures from the agreement's fields.

    Args:
        terms: plain data, as under ``agreement:`` in the file.
        source: where they come from, for messages.

    Raises:
        AgreementError: a missing, unknown or wrong field.
    """
    agreement = validated(Agreement, dict(terms), source=source, error=AgreementError)
    return AgreementBundle(agreement=agreement, signatures=())


def party_from(peer: PeerIdentity) -> dict[str, str]:
    """The ``{name, identity_key}`` entry of a peer, for :func:`draft`."""
    return {"name": peer.name.name, "identity_key": base64.b64encode(peer.public_key_bytes).decode("ascii")}


def _signed_message(agreement: Agreement, signer: str, signed_at: str) -> bytes:
    return canonical_json({"agreement": agreement.digest(), "signer": signer, "signed_at": signed_at})


def _party_of(agreement: Agreement, name: PeerName) -> Party:
    for party in agreement.partners:
        if name == PeerName(agreement.consortium, Role.SITE, party.name):
            return party
    expected = [str(PeerName(agreement.consortium, Role.SITE, partner)) for partner in agreement.partner_names()]
    raise AgreementError(
        f"{name} is not a partner of this agreement, expected one of: {', '.join(expected)}",
        hint="only partners sign; use the pki folder of a partner's site",
    )


def _check_certificate(agreement: Agreement, signature: Signature, anchor: TrustAnchor, now: datetime) -> None:
    source = f"the certificate beside the signature of {signature.signer!r}"
    try:
        peer = PeerIdentity.from_certificate(signature.certificate.encode(), anchor, at=now, source=source)
    except CertificateError as error:
        raise AgreementError(
            f"the agreement cannot be trusted: {error.message}",
            hint="the partners sign a new agreement with certificates of this consortium that are valid now",
        ) from error
    party = _party_of(agreement, peer.name)
    if party.name != signature.signer:
        raise AgreementError(f"the signature of {signature.signer!r} comes with the certificate of {peer.name}")
    if peer.public_key_bytes != decode_key(party.identity_key):
        raise AgreementError(
            f"the certificate of {peer.name} holds another key than the agreement names for {party.name!r}",
            hint="after a change of keys the partners sign a new agreement",
        )


def _check_signature(agreement: Agreement, signature: Signature) -> None:
    """Check the signature against the key the agreement pins."""
    peer = agreement.roster().get(signature.signer)
    if peer is None:
        raise AgreementError(
            f"{signature.signer!r} signed, but is not a partner of this agreement",
            hint=f"partners: {', '.join(agreement.partner_names())}",
        )
    message = _signed_message(agreement, signature.signer, signature.signed_at)
    try:
        peer.verify(CONTEXT, message, decode_base64(signature.signature))
    except (BadSignature, ValueError) as error:
        raise AgreementError(
            f"the signature of {signature.signer!r} does not fit this agreement ({agreement.digest()}): "
            "the text or the signature was changed after signing",
            hint="take the file as the partner signed it, or make a new agreement and sign it again",
        ) from error


def _expired(agreement: Agreement, now: datetime) -> AgreementError:
    return AgreementError(
        f"the agreement expired at {agreement.valid_until}, and it is {format_instant(now)} now",
        hint="the partners sign a new agreement; if that date is not past, check this machine's clock",
    )
