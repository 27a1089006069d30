"""Issuing: what is written, that nothing is overwritten, and that a name is given once."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import ConsortiumAuthority
from certs.identity import Identity, TrustAnchor
from certs.names import PeerName, Role
from certs.profiles import IDENTITY_SIGNING
from tacit.errors import CertificateError, InputError

if TYPE_CHECKING:
    from tests.certs.conftest import Consortium

KEYS = ("tls.key", "identity.key")
CERTIFICATES = ("ca.pem", "tls.pem", "identity.pem")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def usages(path: Path) -> set[x509.ObjectIdentifier]:
    return set(certificate(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_folder_holds_five_files_and_only_its_owner_reads_the_keys(consortium: Consortium) -> None:
    folder = consortium.pki("alpha")
    assert sorted(path.name for path in folder.iterdir()) == sorted(KEYS + CERTIFICATES)
    for name in KEYS:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((consortium.root / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "ca.pem").read_bytes() == (consortium.root / "ca" / "ca.pem").read_bytes()


def test_the_ca_may_sign_leaves_and_nothing_below_them(consortium: Consortium) -> None:
    extensions = consortium.anchor.certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert consortium.authority.consortium == "demo"


def test_the_two_leaves_of_a_site(consortium: Consortium) -> None:
    tls, identity = (consortium.pki("alpha") / name for name in ("tls.pem", "identity.pem"))
    key = certificate(tls).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert isinstance(certificate(identity).public_key(), ed25519.Ed25519PublicKey)
    assert usages(tls) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert usages(identity) == {IDENTITY_SIGNING}
    for path in (tls, identity):
        names = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier("tacit://demo/site/alpha")]


def test_only_a_coordinator_serves_and_has_hosts(own_consortium: Consortium) -> None:
    own_consortium.authority.issue(
        "coordinator", "second", own_consortium.root / "second", hosts=("Gate.example.org", "10.0.0.7", "::1")
    )
    tls = own_consortium.pki("second") / "tls.pem"
    assert usages(tls) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    names = certificate(tls).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gate.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "::1"]


def test_an_independent_verifier_accepts_tls_leaves_and_refuses_identity_leaves(
    consortium: Consortium,
) -> None:
    """cryptography's path validation (RFC 5280, CA/B profile) as the second opinion."""
    builder = verification.PolicyBuilder().store(verification.Store([consortium.anchor.certificate]))
    client = builder.build_client_verifier()
    server = builder.build_server_verifier(x509.DNSName("localhost"))
    assert client.verify(certificate(consortium.pki("alpha") / "tls.pem"), []).subjects is not None
    assert server.verify(certificate(consortium.pki("hub") / "tls.pem"), [])
    for verifier in (client, server):
        with pytest.raises(verification.VerificationError):
            verifier.verify(certificate(consortium.pki("hub") / "identity.pem"), [])
    with pytest.raises(verification.VerificationError):
        server.verify(certificate(consortium.pki("alpha") / "tls.pem"), [])


def test_the_default_validity_begins_a_little_earlier_and_ends_after_the_days(
    own_consortium: Consortium,
) -> None:
    before = datetime.now(UTC)
    issued = own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma", valid_days=30)
    assert before - timedelta(minutes=6) < issued.not_before < before - timedelta(minutes=4)
    assert abs(issued.not_after - before - timedelta(days=30)) < timedelta(seconds=60)
    assert certificate(issued.folder / "tls.pem").not_valid_after_utc == issued.not_after
    assert Identity.load(issued.folder).public_key_bytes == issued.identity_key


def test_a_loaded_authority_goes_on_where_the_first_stopped(own_consortium: Consortium) -> None:
    authority = ConsortiumAuthority.load(own_consortium.root / "ca")
    with pytest.raises(InputError, match="issued already"):
        authority.issue("site", "alpha", own_consortium.root / "again")
    issued = authority.issue("site", "gamma", own_consortium.root / "gamma")
    assert Identity.load(issued.folder).name == issued.name
    assert TrustAnchor.load(issued.folder / "ca.pem") == own_consortium.anchor


def test_two_sites_cannot_have_one_name(own_consortium: Consortium) -> None:
    with pytest.raises(InputError, match="two peers cannot have one name") as caught:
        own_consortium.authority.issue("site", "alpha", own_consortium.root / "alpha-2")
    assert "tacit://demo/site/alpha" in caught.value.message
    assert "--rotate" in (caught.value.hint or "")
    assert not (own_consortium.root / "alpha-2").exists()


def test_rotation_gives_the_name_new_keys_in_a_new_folder(own_consortium: Consortium) -> None:
    old = Identity.load(own_consortium.pki("alpha"))
    issued = own_consortium.authority.issue("site", "alpha", own_consortium.root / "alpha-2", rotate=True)
    new = Identity.load(issued.folder)
    assert new.name == old.name
    assert new.public_key_bytes != old.public_key_bytes
    latest = own_consortium.authority.register.holds(old.name)
    assert latest is not None
    assert latest.rotation
    assert latest.identity_key == new.public_key_bytes.hex()


def test_only_an_issued_name_can_be_rotated(own_consortium: Consortium) -> None:
    with pytest.raises(InputError, match="never issued") as caught:
        own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma", rotate=True)
    assert "tacit://demo/site/alpha" in caught.value.message
    assert not (own_consortium.root / "gamma").exists()


def test_keys_are_never_overwritten_not_even_by_a_rotation(own_consortium: Consortium) -> None:
    folder = own_consortium.pki("alpha")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    register = (own_consortium.root / "ca" / "issued.json").read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        own_consortium.authority.issue("site", "alpha", folder, rotate=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (own_consortium.root / "ca" / "issued.json").read_bytes() == register


def test_one_old_file_is_enough_to_leave_a_folder_alone(own_consortium: Consortium, tmp_path: Path) -> None:
    folder = tmp_path / "gamma"
    folder.mkdir()
    (folder / "identity.key").write_text("precious")
    with pytest.raises(InputError, match=r"identity\.key"):
        own_consortium.authority.issue("site", "gamma", folder)
    assert [path.name for path in folder.iterdir()] == ["identity.key"]
    assert (folder / "identity.key").read_text() == "precious"


def test_a_dangling_link_is_not_followed(own_consortium: Consortium, tmp_path: Path) -> None:
    folder = tmp_path / "gamma"
    folder.mkdir()
    (folder / "tls.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="never overwritten"):
        own_consortium.authority.issue("site", "gamma", folder)
    assert not (tmp_path / "elsewhere").exists()
    assert own_consortium.authority.register.holds(PeerName("demo", Role.SITE, "gamma")) is None


def test_a_second_ca_in_one_folder_is_refused(own_consortium: Consortium) -> None:
    folder = own_consortium.root / "ca"
    before = (folder / "ca.key").read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        ConsortiumAuthority.create(folder, "demo")
    assert (folder / "ca.key").read_bytes() == before


@pytest.mark.parametrize("name", ["ca.pem", "issued.json"])
def test_what_is_left_of_a_ca_is_not_built_upon(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="never overwritten"):
        ConsortiumAuthority.create(tmp_path, "demo")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_without_a_ca_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        ConsortiumAuthority.load(tmp_path)


def test_a_ca_key_of_another_ca_is_refused(own_consortium: Consortium, tmp_path: Path) -> None:
    ConsortiumAuthority.create(tmp_path / "other", "demo")
    folder = own_consortium.root / "ca"
    (folder / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(CertificateError, match="is not the key of"):
        ConsortiumAuthority.load(folder)


def test_a_ca_key_others_can_read_is_refused(own_consortium: Consortium) -> None:
    (own_consortium.root / "ca" / "ca.key").chmod(0o644)
    with pytest.raises(CertificateError, match="0644"):
        ConsortiumAuthority.load(own_consortium.root / "ca")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tacit_issued": 2, "entries": []}', '{"entries": []}'])
def test_without_a_readable_register_nothing_is_issued(own_consortium: Consortium, content: str) -> None:
    (own_consortium.root / "ca" / "issued.json").write_text(content)
    with pytest.raises(CertificateError, match=r"issued\.json cannot be read"):
        own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma")
    assert not (own_consortium.root / "gamma").exists()


@pytest.mark.parametrize("damage", [{"uri": "alpha"}, {"uri": 7}, {"rotation": "no"}, {"unknown": "key"}])
def test_an_entry_that_is_not_one_is_refused(own_consortium: Consortium, damage: dict[str, object]) -> None:
    path = own_consortium.root / "ca" / "issued.json"
    content = json.loads(path.read_text())
    content["entries"][0].update(damage)
    path.write_text(json.dumps(content))
    with pytest.raises(CertificateError, match="cannot be read"):
        own_consortium.authority.register.entries()


@pytest.mark.parametrize(
    ("role", "name", "hosts", "valid_days", "message"),
    [
        ("steward", "alpha", ("localhost",), 10, "is not a role, expected one of: site, coordinator"),
        ("site", "Alpha Hospital", ("localhost",), 10, "not a valid name"),
        ("site", "delta", ("localhost",), 0, "valid for 0 days"),
        ("site", "delta", ("localhost",), 36_500, "outside the CA's own validity"),
        ("site", "delta", ("localhost",), 10**9, "beyond the calendar"),
        ("coordinator", "delta", (), 10, "no host given"),
        ("coordinator", "delta", ("https://gate.example.org",), 10, "neither a host name nor an IP"),
        ("coordinator", "delta", ("gate.example.org:9400",), 10, "neither a host name nor an IP"),
        ("coordinator", "delta", ("gate_1",), 10, "neither a host name nor an IP"),
        ("coordinator", "delta", ("*.example.org",), 10, "neither a host name nor an IP"),
    ],
)
def test_a_wrong_request_leaves_no_trace(
    own_consortium: Consortium, role: str, name: str, hosts: tuple[str, ...], valid_days: int, message: str
) -> None:
    register = (own_consortium.root / "ca" / "issued.json").read_bytes()
    with pytest.raises(InputError, match=message):
        own_consortium.authority.issue(role, name, own_consortium.root / "delta", hosts, valid_days)
    assert not (own_consortium.root / "delta").exists()
    assert (own_consortium.root / "ca" / "issued.json").read_bytes() == register


def test_an_expired_ca_issues_nothing(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=20)
    authority = ConsortiumAuthority.create(tmp_path / "ca", "demo", valid_days=10, valid_from=long_ago)
    with pytest.raises(CertificateError, match=r"ca\.pem has expired"):
        authority.issue("site", "alpha", tmp_path / "alpha", valid_days=1)


def test_a_time_without_a_zone_is_refused(own_consortium: Consortium) -> None:
    with pytest.raises(InputError, match="no time zone"):
        own_consortium.authority.issue("site", "gamma", own_consortium.root / "gamma", valid_from=datetime(2026, 1, 1))


ISSUE_GAMMA = """
import sys
from pathlib import Path
from certs.authority import ConsortiumAuthority
from tacit.errors import InputError

authority = ConsortiumAuthority.load(Path(sys.argv[1]))
print("loaded", flush=True)
sys.stdin.readline()
try:
    authority.issue("site", "gamma", Path(sys.argv[2]))
except InputError as error:
    print(error.message)
else:
    print("issued")
"""


def test_of_processes_issuing_one_name_at_once_one_wins(own_consortium: Consortium) -> None:
    folder = own_consortium.root / "ca"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ISSUE_GAMMA, str(folder), str(own_consortium.root / f"gamma-{number}")],
            cwd=Path(__file__).resolve().parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
    for process in processes:  # all are loaded: let them go together
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0].strip() for process in processes)
    assert answers[0] == "issued"
    assert all("two peers cannot have one name" in answer for answer in answers[1:])
    assert len([entry for entry in own_consortium.authority.register.entries() if "gamma" in entry.uri]) == 1


def test_a_site_and_a_coordinator_may_share_a_name(own_consortium: Consortium) -> None:
    issued = own_consortium.authority.issue("coordinator", "alpha", own_consortium.root / "alpha-hub")
    assert issued.name.role is Role.COORDINATOR
