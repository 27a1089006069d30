"""``tacit pki`` as a person meets it: what is printed, what is written, and how it ends."""

from __future__ import annotations

import base64
import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import ConsortiumAuthority
from certs.credentials import check_validity
from certs.identity import Identity, TrustAnchor
from tacit.cli.main import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Shell:
    """Runs ``tacit pki ...`` and keeps what was printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, line: str) -> int:
        self._capsys.readouterr()
        code = main(["pki", *line.split()])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def pki(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def acme(pki: Shell) -> Shell:
    """A consortium with a coordinator and a site."""
    assert pki("init --folder ca --consortium acme") == 0
    assert pki("issue --ca ca --role coordinator --name hub --out hub --host hub.example.org --host 10.0.0.7") == 0
    assert pki("issue --ca ca --role site --name alpha --out alpha") == 0
    return pki


def test_from_nothing_to_a_site(pki: Shell) -> None:
    assert pki("init --folder ca --consortium acme") == 0
    assert TrustAnchor.load(Path("ca/ca.pem")).fingerprint in pki.out
    assert "next: tacit pki issue --ca ca" in pki.out
    assert pki("issue --ca ca --role site --name alpha --out alpha --days 30") == 0
    assert str(check_validity(Path("alpha"))) == "tacit://acme/site/alpha"
    assert "issued tacit://acme/site/alpha in alpha" in pki.out
    assert "keep identity.pem alone" in pki.out
    assert base64.b64encode(Identity.load(Path("alpha")).public_key_bytes).decode() in pki.out
    assert f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in pki.out


def test_a_coordinator_has_the_hosts_it_was_given(acme: Shell) -> None:
    assert acme("show hub") == 0
    assert re.search(r"^reached at +hub\.example\.org, 10\.0\.0\.7$", acme.out, re.MULTILINE)
    assert acme("issue --ca ca --role coordinator --name near --out near") == 0
    assert "localhost, 127.0.0.1" in acme.out


def test_show_a_peer(acme: Shell) -> None:
    assert acme("show alpha --json") == 0
    facts = json.loads(acme.out)
    assert facts["name"] == "tacit://acme/site/alpha"
    assert facts["ca_fingerprint"] == TrustAnchor.load(Path("ca/ca.pem")).fingerprint
    assert base64.b64decode(facts["identity_key"]) == Identity.load(Path("alpha")).public_key_bytes
    assert facts["hosts"] == []
    assert [(item["file"], item["status"]) for item in facts["certificates"]] == [
        ("tls.pem", "valid"),
        ("identity.pem", "valid"),
        ("ca.pem", "valid"),
    ]
    assert acme("show alpha") == 0
    for value in (facts["name"], facts["identity_key"], facts["certificates"][0]["fingerprint"]):
        assert value in acme.out


def test_show_a_ca(acme: Shell) -> None:
    assert acme("show ca") == 0
    assert "tacit://acme/coordinator/hub" in acme.out
    assert "tacit://acme/site/alpha" in acme.out
    assert acme("show ca --json") == 0
    assert [entry["uri"] for entry in json.loads(acme.out)["issued"]] == [
        "tacit://acme/coordinator/hub",
        "tacit://acme/site/alpha",
    ]


def test_rotate(acme: Shell) -> None:
    assert acme("issue --ca ca --role site --name alpha --out alpha-2 --rotate") == 0
    assert Identity.load(Path("alpha-2")).name == Identity.load(Path("alpha")).name
    assert acme("show ca") == 0
    assert "rotation" in acme.out


@pytest.mark.parametrize(
    ("line", "code", "error", "hint"),
    [
        ("init --folder ca --consortium acme", 2, "never overwritten", "choose another folder"),
        ("init --folder new --consortium ACME", 2, "'ACME' is not a valid name", "north-hospital"),
        ("init --folder new --consortium acme --days 0", 2, "valid for 0 days", ""),
        ("issue --ca ca --role site --name alpha --out new", 2, "two peers cannot have one name", "--rotate"),
        ("issue --ca ca --role site --name alpha --out alpha --rotate", 2, "never overwritten", "another folder"),
        ("issue --ca ca --role site --name beta --out new --rotate", 2, "never issued", "leave --rotate out"),
        ("issue --ca ca --role site --name beta --out new --host x", 2, "nobody connects to a site", "--host"),
        ("issue --ca ca --role site --name beta --out new --days 9999", 2, "the CA's own validity", "fewer days"),
        (
            "issue --ca nowhere --role site --name beta --out new",
            3,
            "nowhere/ca.pem",
            "--ca is the folder of `tacit pki init`",
        ),
        (
            "issue --ca alpha --role site --name beta --out new",
            3,
            "alpha/ca.key",
            "--ca is the folder of `tacit pki init`",
        ),
        ("show nowhere", 3, "nowhere/ca.pem", "tacit pki issue"),
    ],
)
def test_a_mistake_is_one_error_line_and_a_code(acme: Shell, line: str, code: int, error: str, hint: str) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert acme(line) == code
    first, *rest = acme.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert hint in " ".join(rest)
    assert all(item.startswith("hint: ") for item in rest)
    assert acme.out == ""
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_an_unknown_role_is_a_usage_error(acme: Shell) -> None:
    assert acme("issue --ca ca --role steward --name beta --out new") == 2
    assert "'site', 'coordinator'" in acme.err


def test_an_expired_peer_is_shown_and_then_an_error(pki: Shell) -> None:
    start = datetime.now(UTC) - timedelta(days=20)
    authority = ConsortiumAuthority.create(Path("ca"), "acme", valid_from=start)
    authority.issue("site", "alpha", Path("alpha"), valid_days=10, valid_from=start)
    assert pki("show alpha") == 3
    assert re.search(r"^tls\.pem +expired, ", pki.out, re.MULTILINE)
    assert "error: alpha/tls.pem has expired: valid from" in pki.err
    assert "hint: " in pki.err


def test_an_expired_ca_is_shown_and_then_an_error(pki: Shell) -> None:
    ConsortiumAuthority.create(Path("ca"), "acme", 10, valid_from=datetime.now(UTC) - timedelta(days=20))
    assert pki("show ca") == 3
    assert "expired" in pki.out
    assert "error: ca/ca.pem has expired" in pki.err


def test_a_foreign_certificate_is_an_error(acme: Shell) -> None:
    ConsortiumAuthority.create(Path("other"), "acme")
    shutil.copy("other/ca.pem", "alpha/ca.pem")
    assert acme("show alpha") == 3
    assert "error: alpha/tls.pem was not issued by the CA of consortium 'acme'" in acme.err


def test_a_key_others_can_read_is_an_error(acme: Shell) -> None:
    Path("alpha/tls.key").chmod(0o644)
    assert acme("show alpha") == 3
    assert "hint: chmod 600 alpha/tls.key" in acme.err


@pytest.mark.parametrize("command", ["init", "issue", "show"])
def test_help_ends_in_examples(pki: Shell, command: str) -> None:
    assert pki(f"{command} --help") == 0
    assert f"Examples:\n    tacit pki {command} " in pki.out
    assert "Error" not in pki.out
