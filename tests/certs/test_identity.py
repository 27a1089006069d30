"""Signing and verifying: right signatures pass, everything else raises."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from certs.identity import Identity, PeerIdentity, TrustAnchor
from certs.names import PeerName, Role
from tacit.errors import BadSignature, CertificateError, InputError

if TYPE_CHECKING:
    from tests.certs.conftest import Consortium

ALPHA = PeerName("demo", Role.SITE, "alpha")

# RFC 8032, section 7.1, TEST 1: secret key and public key.
RFC8032_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC8032_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def rfc8032_identity() -> Identity:
    return Identity(ALPHA, b"", Ed25519PrivateKey.from_private_bytes(RFC8032_SECRET))


def test_a_loaded_identity_signs_and_its_certificate_verifies(consortium: Consortium) -> None:
    identity = Identity.load(consortium.pki("alpha"))
    assert identity.name == ALPHA
    peer = PeerIdentity.from_certificate(identity.certificate_pem, consortium.anchor)
    assert peer.name == ALPHA
    assert peer.public_key_bytes == identity.public_key_bytes
    assert peer == identity.public
    signature = identity.sign("tacit/agreement/v1", b"message")
    assert len(signature) == 64
    peer.verify("tacit/agreement/v1", b"message", signature)


def test_the_public_key_is_the_raw_one_of_rfc_8032() -> None:
    assert rfc8032_identity().public_key_bytes == RFC8032_PUBLIC


def test_what_is_signed_is_the_framed_message_and_nothing_else() -> None:
    """Checked without our own code: the framing spelled out, the signature by the library."""
    signature = rfc8032_identity().sign("tacit/agreement/v1", b"\x00\xffmessage")
    key = Ed25519PublicKey.from_public_bytes(RFC8032_PUBLIC)
    key.verify(signature, b"tacit/sig/v1\x00tacit/agreement/v1\x00\x00\xffmessage")
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"\x00\xffmessage")


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_signature_is_for_one_message(message: bytes, other: bytes) -> None:
    identity = rfc8032_identity()
    signature = identity.sign("context", message)
    identity.public.verify("context", message, signature)
    if other != message:
        with pytest.raises(BadSignature):
            identity.public.verify("context", other, signature)


@given(st.integers(0, 511))
def test_one_flipped_bit_spoils_a_signature(position: int) -> None:
    identity = rfc8032_identity()
    signature = bytearray(identity.sign("context", b"message"))
    signature[position // 8] ^= 1 << position % 8
    with pytest.raises(BadSignature) as caught:
        identity.public.verify("context", b"message", bytes(signature))
    assert caught.value.peer == "alpha"


def test_a_signature_is_for_one_context() -> None:
    identity = rfc8032_identity()
    with pytest.raises(BadSignature, match="tacit://demo/site/alpha's"):
        identity.public.verify("tacit/ledger/v1", b"message", identity.sign("tacit/agreement/v1", b"message"))


def test_context_and_message_cannot_trade_bytes() -> None:
    """("a", "b\\0c") and ("a\\0b", "c") would share one framing; the second is no context."""
    identity = rfc8032_identity()
    signature = identity.sign("a", b"b\0c")
    with pytest.raises(InputError, match="printable ASCII"):
        identity.public.verify("a\0b", b"c", signature)


@pytest.mark.parametrize("context", ["", "a\0b", "a\nb", "ä"])
def test_a_context_is_printable_ascii(context: str) -> None:
    with pytest.raises(InputError, match="printable ASCII"):
        rfc8032_identity().sign(context, b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_something_that_is_no_signature_is_a_bad_one(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        rfc8032_identity().public.verify("context", b"message", signature)


def test_somebody_elses_signature_is_refused(consortium: Consortium) -> None:
    alpha, beta = (Identity.load(consortium.pki(name)) for name in ("alpha", "beta"))
    with pytest.raises(BadSignature):
        alpha.public.verify("context", b"message", beta.sign("context", b"message"))


def test_a_pinned_key_verifies_like_a_certificate(consortium: Consortium) -> None:
    identity = Identity.load(consortium.pki("alpha"))
    pinned = PeerIdentity.from_public_key(ALPHA, identity.public_key_bytes)
    pinned.verify("context", b"message", identity.sign("context", b"message"))
    assert pinned == PeerIdentity.from_certificate(identity.certificate_pem, consortium.anchor)
    assert pinned != PeerIdentity.from_public_key(PeerName("demo", Role.SITE, "beta"), identity.public_key_bytes)
    assert len({pinned, identity.public}) == 1


@pytest.mark.parametrize("size_bytes", [0, 31, 33])
def test_a_pinned_key_has_32_bytes(size_bytes: int) -> None:
    with pytest.raises(CertificateError, match=f"has {size_bytes} bytes, expected 32"):
        PeerIdentity.from_public_key(ALPHA, bytes(size_bytes))


def test_a_certificate_of_another_ca_is_foreign(consortium: Consortium, own_consortium: Consortium) -> None:
    """Another CA of the same consortium name: only the signature tells them apart."""
    identity = Identity.load(own_consortium.pki("alpha"))
    with pytest.raises(CertificateError, match="was not issued by the CA of consortium 'demo'") as caught:
        PeerIdentity.from_certificate(identity.certificate_pem, consortium.anchor, source="alpha's certificate")
    assert "alpha's certificate" in caught.value.message
    assert consortium.anchor.fingerprint in caught.value.message
    assert caught.value.hint


def test_the_validity_period_includes_both_ends(own_consortium: Consortium) -> None:
    issued = own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma", valid_days=3)
    second = timedelta(seconds=1)
    pem = (issued.folder / "identity.pem").read_bytes()
    for at in (issued.not_before, issued.not_after):
        assert PeerIdentity.from_certificate(pem, own_consortium.anchor, at=at).name == issued.name
    with pytest.raises(CertificateError, match="is not valid yet") as early:
        PeerIdentity.from_certificate(pem, own_consortium.anchor, at=issued.not_before - second)
    with pytest.raises(CertificateError, match="has expired") as late:
        Identity.load(issued.folder, at=issued.not_after + second)
    assert f"{issued.not_before:%Y-%m-%d %H:%M}" in early.value.message
    assert f"{issued.not_after:%Y-%m-%d %H:%M}" in late.value.message
    assert str(issued.folder / "identity.pem") in late.value.message
    assert "--rotate" in (late.value.hint or "")


def test_a_time_without_a_zone_is_refused(consortium: Consortium) -> None:
    with pytest.raises(InputError, match="no time zone"):
        Identity.load(consortium.pki("alpha"), at=datetime(2026, 1, 1))


def test_a_tls_certificate_is_no_identity(consortium: Consortium) -> None:
    pem = (consortium.pki("alpha") / "tls.pem").read_bytes()
    with pytest.raises(CertificateError, match=r"is for TLS .* expected the identity certificate of a site"):
        PeerIdentity.from_certificate(pem, consortium.anchor)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o601])
def test_a_key_others_can_reach_is_refused(own_consortium: Consortium, mode: int) -> None:
    path = own_consortium.pki("alpha") / "identity.key"
    path.chmod(mode)
    with pytest.raises(CertificateError, match=f"has mode {mode:04o}") as caught:
        Identity.load(path.parent)
    assert f"chmod 600 {path}" in (caught.value.hint or "")


def test_a_key_only_its_owner_reads_is_accepted(own_consortium: Consortium) -> None:
    path = own_consortium.pki("alpha") / "identity.key"
    path.chmod(0o400)
    assert Identity.load(path.parent).name == ALPHA


@pytest.mark.parametrize("name", ["identity.pem", "identity.key", "ca.pem"])
@pytest.mark.parametrize("content", [None, b"", b"not PEM"])
def test_a_damaged_folder_names_the_file(own_consortium: Consortium, name: str, content: bytes | None) -> None:
    path = own_consortium.pki("alpha") / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(CertificateError) as caught:
        Identity.load(path.parent)
    assert str(path) in caught.value.message


def test_a_damaged_key_is_not_quoted(own_consortium: Consortium) -> None:
    path = own_consortium.pki("alpha") / "identity.key"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2]]))
    with pytest.raises(CertificateError) as caught:
        Identity.load(path.parent)
    assert lines[1][:20] not in caught.value.message


def test_keys_of_two_peers_do_not_mix(own_consortium: Consortium) -> None:
    shutil.copy(own_consortium.pki("beta") / "identity.key", own_consortium.pki("alpha") / "identity.key")
    with pytest.raises(CertificateError, match="is not the key of"):
        Identity.load(own_consortium.pki("alpha"))


def test_the_tls_key_in_the_place_of_the_identity_key_is_refused(own_consortium: Consortium) -> None:
    shutil.copy(own_consortium.pki("alpha") / "tls.key", own_consortium.pki("alpha") / "identity.key")
    with pytest.raises(CertificateError, match="expected an Ed25519 private key"):
        Identity.load(own_consortium.pki("alpha"))


def test_two_certificates_in_one_text_are_refused(consortium: Consortium) -> None:
    pem = b"".join((consortium.pki(name) / "identity.pem").read_bytes() for name in ("alpha", "beta"))
    with pytest.raises(CertificateError, match="holds 2 PEM certificates, expected exactly one"):
        PeerIdentity.from_certificate(pem, consortium.anchor)


def test_the_fingerprint_is_the_hash_of_the_der_encoding(consortium: Consortium) -> None:
    anchor = TrustAnchor.load(consortium.pki("alpha") / "ca.pem")
    assert anchor.fingerprint == f"sha256:{anchor.certificate.fingerprint(hashes.SHA256()).hex()}"
    assert TrustAnchor.from_pem(anchor.certificate_pem) == anchor


def test_a_leaf_is_no_trust_anchor(consortium: Consortium, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    shutil.copy(consortium.pki("alpha") / "tls.pem", path)
    with pytest.raises(CertificateError, match="is not the certificate of a consortium CA"):
        TrustAnchor.load(path)


def test_a_private_key_does_not_show(consortium: Consortium) -> None:
    identity = Identity.load(consortium.pki("alpha"))
    assert repr(identity) == "Identity('tacit://demo/site/alpha')"
