"""Certificates and agreements that cannot be used: at the site, at the coordinator, and when they are made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from certs.authority import ConsortiumAuthority
from certs.identity import Identity
from privacy.agreement import draft, load_bundle, save_bundle, sign
from privacy.terms import format_instant
from simulations.local_consortium import LocalConsortium

Shell = Callable[..., Any]
Edit = Callable[[Path, str, str], None]
LONG_AGO = datetime.now(UTC) - timedelta(days=500)


@pytest.fixture(params=["site", "coordinator"])
def home(request: pytest.FixtureRequest) -> Path:
    """A folder that a long-lived command serves: its name tells which."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


def serve(tacit: Shell, home: Path) -> Any:
    if home.name == "hub":
        return tacit("coordinator", "serve", "--home", home)
    return tacit("site", "serve", "--check", "--home", home)


def replace_pki(home: Path, issued: Path) -> None:
    shutil.rmtree(home / "pki")
    shutil.copytree(issued, home / "pki")


def test_an_expired_certificate(tacit: Shell, home: Path, tmp_path: Path) -> None:
    authority = ConsortiumAuthority.create(tmp_path / "ca", "tests", valid_from=LONG_AGO)
    role, name = ("coordinator", "hub") if home.name == "hub" else ("site", "alpha")
    authority.issue(role, name, tmp_path / "issued", valid_days=365, valid_from=LONG_AGO)
    replace_pki(home, tmp_path / "issued")
    answer = serve(tacit, home)
    answer.fails(3, "tls.pem", "expired", f"{LONG_AGO + timedelta(days=365):%Y-%m-%d}")


def test_a_certificate_of_another_ca_beside_the_consortiums_own(
    tacit: Shell, home: Path, strangers: LocalConsortium
) -> None:
    name = "hub" if home.name == "hub" else "alpha"
    anchor = (home / "pki" / "ca.pem").read_bytes()
    replace_pki(home, strangers.folder / "issued" / name)
    (home / "pki" / "ca.pem").write_bytes(anchor)
    serve(tacit, home).fails(3, "tls.pem", "CA")


def test_certificates_of_another_consortium(tacit: Shell, home: Path, strangers: LocalConsortium) -> None:
    replace_pki(home, strangers.folder / "issued" / ("hub" if home.name == "hub" else "alpha"))
    serve(tacit, home).fails(4, "the agreement")


def test_an_unsigned_agreement(tacit: Shell, home: Path) -> None:
    path = home / "agreement.yaml"
    path.write_text(path.read_text().split("signatures:")[0] + "signatures: []\n")
    serve(tacit, home).fails(4, "0 of the 3 signatures", "not signed by: alpha, beta, gamma", "tacit agreement sign")


def test_an_agreement_that_was_edited_after_signing(tacit: Shell, home: Path, edit: Edit) -> None:
    edit(home / "agreement.yaml", "epsilon_lifetime: 40.0", "epsilon_lifetime: 400.0")
    serve(tacit, home).fails(4, "changed after signing")


def test_an_expired_agreement(tacit: Shell, home: Path, made: LocalConsortium) -> None:
    path = home / "agreement.yaml"
    terms = load_bundle(path).agreement.model_dump(mode="json")
    now = datetime.now(UTC)
    terms["valid_from"] = format_instant(now - timedelta(days=2))
    terms["valid_until"] = format_instant(now - timedelta(days=1))
    bundle = draft(terms)
    for site in ("alpha", "beta", "gamma"):
        bundle = sign(bundle, Identity.load(made.folder / "issued" / site), now - timedelta(days=1, hours=1))
    path.unlink()
    save_bundle(bundle, path)
    serve(tacit, home).fails(4, f"the agreement expired at {terms['valid_until']}", "sign a new agreement")


@pytest.mark.parametrize("part", ["agreement.yaml", "pki/ca.pem", "pki/tls.key", "pki/identity.key"])
def test_a_paper_that_is_not_there(tacit: Shell, home: Path, part: str) -> None:
    (home / part).unlink()
    answer = serve(tacit, home)
    answer.fails(answer.code, part)
    assert answer.code in (3, 4)


def test_a_private_key_that_others_can_read(tacit: Shell, home: Path) -> None:
    (home / "pki" / "tls.key").chmod(0o644)
    serve(tacit, home).fails(3, "has mode 0644, expected 0600", "chmod 600")


def test_two_sites_with_one_name(tacit: Shell, tmp_path: Path) -> None:
    ca, first, second = (tmp_path / name for name in ("ca", "first", "second"))
    tacit("pki", "init", "--folder", ca, "--consortium", "acme")
    tacit("pki", "issue", "--ca", ca, "--role", "site", "--name", "alpha", "--out", first)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    answer = tacit("pki", "issue", "--ca", ca, "--role", "site", "--name", "alpha", "--out", second)
    answer.fails(2, "was issued already", "two peers cannot have one name", "--rotate")
    assert not second.exists()
    assert before == {path.name: path.read_bytes() for path in first.iterdir()}


def test_a_folder_is_not_made_with_papers_that_do_not_fit(
    tacit: Shell, made: LocalConsortium, strangers: LocalConsortium, tmp_path: Path
) -> None:
    issued, agreement = made.folder / "issued", made.agreement
    data = tmp_path / "records.csv"
    data.write_text("text,label\nan old plum,fruit\n")
    as_site = (
        "site", "init", "--home", tmp_path / "new", "--coordinator", "localhost:9400",
        "--data", data, "--base-model", str(made.folder),
    )  # fmt: skip
    as_hub = ("coordinator", "init", "--home", tmp_path / "new")
    for command, pki, agreed, code, part in (
        (as_site, issued / "hub", agreement, 3, "expected those of a site"),
        (as_hub, issued / "alpha", agreement, 3, "expected those of a coordinator"),
        (as_site, issued / "alpha", strangers.agreement, 4, "the agreement"),
        (as_hub, issued / "hub", strangers.agreement, 4, "the agreement"),
        (as_hub, tmp_path / "nowhere", agreement, 2, "does not exist"),
        (as_site, issued / "alpha", tmp_path / "nowhere.yaml", 2, "does not exist"),
    ):
        tacit(*command, "--pki", pki, "--agreement", agreed).fails(code, part)
        assert not (tmp_path / "new").exists()
