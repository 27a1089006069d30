"""``tacit agreement`` as partners meet it: what is printed, what is written, and how it ends."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from typer.testing import CliRunner

from certs.anchor import TrustAnchor
from certs.authority import ConsortiumAuthority
from models.base import base_model_digest
from privacy.agreement import load_bundle, verify
from tacit.cli.agreement import app
from tacit.cli.main import main
from tacit.errors import AgreementError, CertificateError, InputError, ModelError, TacitError

PARTNERS = ("alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, three sites, a coordinator, a model folder and a public file."""
    root = tmp_path_factory.mktemp("issued")
    authority = ConsortiumAuthority.create(root / "ca", "demo")
    authority.issue("coordinator", "hub", root / "hub")
    for name in (*PARTNERS, "other"):
        authority.issue("site", name, root / name)
    foreign = ConsortiumAuthority.create(root / "foreign-ca", "demo")
    foreign.issue("site", "alpha", root / "foreign-alpha")
    (root / "tiny").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (root / "tiny" / name).write_text(f"{{}} {name}")
    (root / "public.csv").write_text("text,intent\nhello,transfer\nbye,card lost\nagain,transfer\n")
    return root


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


class Tacit:
    """Runs ``tacit agreement ...`` in process."""

    def __init__(self, issued: Path) -> None:
        self.issued = issued
        self.runner = CliRunner()

    def __call__(self, *arguments: object) -> str:
        result = self.runner.invoke(app, [str(each) for each in arguments], catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def new_arguments(self, out: str = "agreement.yaml", **changes: object) -> list[object]:
        options: dict[str, object] = {
            "--out": out,
            "--consortium": "demo",
            "--ca": self.issued / "ca" / "ca.pem",
            "--partner": [self.issued / name / "identity.pem" for name in PARTNERS],
            "--coordinator": self.issued / "hub" / "identity.pem",
            "--title": "Customer intents",
            "--purpose": "Recognise what customers ask for",
            "--legal-basis": "GDPR Art. 6(1)(f)",
            "--labels-from": self.issued / "public.csv",
            "--label-column": "intent",
            "--base-model": self.issued / "tiny",
            "--public-dataset-size": 1200,
            "--residency": "EU",
        }
        options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        arguments: list[object] = []
        for name, value in options.items():
            if value is True:
                arguments.append(name)
                continue
            for each in value if isinstance(value, list) else [] if value is None else [value]:
                arguments += [name, each]
        return arguments

    def new(self, out: str = "agreement.yaml", **changes: object) -> str:
        return self("new", *self.new_arguments(out, **changes))

    def sign(self, name: str, file: str = "agreement.yaml") -> str:
        return self("sign", file, "--pki", self.issued / name)


@pytest.fixture
def tacit(issued: Path) -> Tacit:
    return Tacit(issued)


def content(file: str = "agreement.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path(file).read_text())
    return loaded


def test_an_agreement_about_users_needs_their_contribution_bound(tacit: Tacit) -> None:
    tacit.new("users.yaml", unit="user", max_records_per_user=8)
    privacy = content("users.yaml")["agreement"]["privacy"]
    assert (privacy["unit"], privacy["max_records_per_user"]) == ("user", 8)
    with pytest.raises(AgreementError, match="unit user needs max_records_per_user"):
        tacit.new("unbounded.yaml", unit="user")
    with pytest.raises(AgreementError, match="goes with unit user, received unit record"):
        tacit.new("bounded.yaml", max_records_per_user=8)
    assert not Path("unbounded.yaml").exists()


def test_three_partners_sign_at_their_own_sites_and_everybody_can_check(tacit: Tacit) -> None:
    assert "next: each partner signs with: tacit agreement sign agreement.yaml" in tacit.new()
    for count, name in enumerate(PARTNERS, start=1):
        # the file travels from site to site, each has only its own keys
        os.makedirs(name)
        Path("agreement.yaml").rename(f"{name}/agreement.yaml")
        output = tacit.sign(name, f"{name}/agreement.yaml")
        assert f"{name} signed sha256:" in output
        assert f"{count} of 3 required signatures: {', '.join(PARTNERS[:count])}" in output
        Path(f"{name}/agreement.yaml").rename("agreement.yaml")
    assert "next: tacit agreement verify" in output
    checked = tacit("verify", "agreement.yaml", "--ca", tacit.issued / "beta" / "ca.pem")
    assert "signed by  alpha, beta, gamma" in checked
    assert load_bundle(Path("agreement.yaml")).agreement.digest() in checked
    assert "next: tacit coordinator init --home hub --pki FOLDER --agreement agreement.yaml" in checked


def test_new_writes_what_was_asked_and_sane_limits_for_the_rest(tacit: Tacit) -> None:
    tacit.new()
    written = content()
    assert written["signatures"] == []
    terms = written["agreement"]
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert terms == {
        "tacit_agreement": 1,
        "consortium": "demo",
        "title": "Customer intents",
        "purpose": "Recognise what customers ask for",
        "legal_basis": "GDPR Art. 6(1)(f)",
        "ca_fingerprint": TrustAnchor.load(tacit.issued / "ca" / "ca.pem").fingerprint,
        "partners": terms["partners"],
        "coordinator": terms["coordinator"],
        "task": {"kind": "sequence-classification", "labels": ["card lost", "transfer"]},
        "base_model": {"name": "tiny", "digest": base_model_digest(tacit.issued / "tiny")},
        "adapter": {"kind": "lora", "targets": ["query", "key", "value"], "max_rank": 8},
        "strategies": ["fedavg"],
        "privacy": {
            "modes": ["local"],
            "unit": "record",
            "adjacency": "add-remove",
            "delta": 1e-5,
            "epsilon_per_run": 8.0,
            "epsilon_lifetime": 8.0,
            "min_noise_multiplier": 0.5,
            "max_l2_clip_norm": 1.0,
            "max_sample_rate": 0.2,
            "public_dataset_size": 1200,
        },
        "secure_aggregation": {"min_cohort": 3, "collusion_bound": 1, "ring_bits": 32, "weights": None},
        "deidentification": {"profile": "standard-v1"},
        "residency": ["EU"],
        "retention_days": 90,
        "release": {"scope": "partners"},
        "valid_from": f"{today:%Y-%m-%dT%H:%M:%SZ}",
        "valid_until": f"{today + timedelta(days=365):%Y-%m-%dT%H:%M:%SZ}",
        "approvals": {"required": 3},
        "testing": False,
    }
    assert [partner["name"] for partner in terms["partners"]] == list(PARTNERS)
    assert terms["coordinator"]["name"] == "hub"


def test_every_term_can_be_given(tacit: Tacit) -> None:
    tacit.new(
        partner=[tacit.issued / name / "identity.pem" for name in (*PARTNERS, "other")],
        labels_from=None,
        label=["yes", "no", "perhaps"],
        base_model_name="our encoder",
        lora_target=["q_proj", "v_proj"],
        max_rank=4,
        strategy=["fedavg", "fedprox"],
        mode="local",
        unit="record",
        adjacency="add-remove",
        delta=1e-6,
        epsilon_per_run=2,
        epsilon_lifetime=6,
        min_noise_multiplier=0.9,
        max_l2_clip_norm=0.7,
        max_sample_rate=0.05,
        min_cohort=2,
        collusion_bound=2,
        deidentification="none",
        residency=["DE", "FR"],
        retention_days=10,
        release="public",
        valid_from="2026-01-01T00:00:00Z",
        valid_days=10,
        approvals=2,
        testing=True,
    )
    terms = content()["agreement"]
    assert len(terms["partners"]) == 4
    assert terms["task"]["labels"] == ["yes", "no", "perhaps"]
    assert terms["base_model"]["name"] == "our encoder"
    assert terms["adapter"] == {"kind": "lora", "targets": ["q_proj", "v_proj"], "max_rank": 4}
    assert terms["strategies"] == ["fedavg", "fedprox"]
    assert terms["privacy"] == {
        "modes": ["local"],
        "unit": "record",
        "adjacency": "add-remove",
        "delta": 1e-6,
        "epsilon_per_run": 2.0,
        "epsilon_lifetime": 6.0,
        "min_noise_multiplier": 0.9,
        "max_l2_clip_norm": 0.7,
        "max_sample_rate": 0.05,
        "public_dataset_size": 1200,
    }
    assert terms["secure_aggregation"] == {"min_cohort": 2, "collusion_bound": 2, "ring_bits": 32, "weights": None}
    assert terms["deidentification"] == {"profile": "none"}
    assert terms["residency"] == ["DE", "FR"]
    assert terms["retention_days"] == 10
    assert terms["release"] == {"scope": "public"}
    assert (terms["valid_from"], terms["valid_until"]) == ("2026-01-01T00:00:00Z", "2026-01-11T00:00:00Z")
    assert terms["approvals"] == {"required": 2}
    assert terms["testing"] is True


def test_the_same_options_give_the_same_file(tacit: Tacit) -> None:
    one, two = tacit.new("one.yaml"), tacit.new("two.yaml")
    assert Path("one.yaml").read_bytes() == Path("two.yaml").read_bytes()
    assert one.replace("one.yaml", "") == two.replace("two.yaml", "")


def test_a_draft_file_gives_the_same_agreement(tacit: Tacit) -> None:
    tacit.new("first.yaml")
    tacit.sign("alpha", "first.yaml")
    bare = content("first.yaml")["agreement"]
    Path("bare.yaml").write_text(yaml.safe_dump(bare))
    for draft in ("first.yaml", "bare.yaml"):
        tacit("new", "--from", draft, "--out", f"from-{draft}")
        assert content(f"from-{draft}") == {"agreement": bare, "signatures": []}


def test_nothing_is_overwritten(tacit: Tacit) -> None:
    Path("agreement.yaml").write_text("precious")
    for arguments in (tacit.new_arguments(), ["--from", "x.yaml", "--out", "agreement.yaml"]):
        with pytest.raises(InputError, match=r"agreement\.yaml exists already and is never overwritten"):
            tacit("new", *arguments)
    assert Path("agreement.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"consortium": "other"}, InputError, "--consortium other was given, and .* of consortium demo"),
        ({"purpose": None}, InputError, "nothing was given for: --purpose"),
        ({"ca": None, "residency": None}, InputError, "nothing was given for: --ca, --residency"),
        ({"labels_from": None}, InputError, "--label or --labels-from"),
        ({"label": ["a", "b"]}, InputError, "--label and --labels-from were both given"),
        ({"label_column": "text2"}, InputError, r"no column 'text2'; columns found: 'text', 'intent'"),
        ({"labels_from": "absent.csv"}, InputError, r"cannot read absent\.csv"),
        ({"base_model": "no-such-folder"}, ModelError, "no-such-folder"),
        ({"base_model": "package:no_such_package"}, ModelError, "no_such_package"),
        ({"ca": "absent.pem"}, CertificateError, r"absent\.pem"),
        ({"coordinator": "absent.pem"}, InputError, r"cannot read absent\.pem"),
        ({"epsilon_per_run": 9}, AgreementError, "must not exceed epsilon_lifetime"),
        ({"delta": 0.001}, AgreementError, "below 1/public_dataset_size"),
        ({"approvals": 0}, AgreementError, "required"),
        ({"min_cohort": 0}, AgreementError, "min_cohort"),
        ({"collusion_bound": 0}, AgreementError, "collusion_bound"),
        ({"release": "everybody"}, AgreementError, "scope"),
        ({"deidentification": "strict"}, AgreementError, "profile"),
        ({"valid_from": "2026-01-01"}, InputError, "2026-01-01 for 365 days makes no date"),
        ({"valid_from": "2026-01-01T00:00:00Z", "valid_until": "2025-01-01T00:00:00Z"}, AgreementError, "after valid"),
        ({"valid_days": 10**9}, InputError, "makes no date"),
    ],
)
def test_a_wrong_option_writes_nothing(
    tacit: Tacit, changes: dict[str, object], error: type[TacitError], match: str
) -> None:
    with pytest.raises(error, match=match):
        tacit.new(**changes)
    assert not Path("agreement.yaml").exists()


def test_wrong_certificates_are_refused(tacit: Tacit) -> None:
    pem = {name: tacit.issued / name / "identity.pem" for name in (*PARTNERS, "hub", "foreign-alpha")}
    with pytest.raises(InputError, match="of tacit://demo/coordinator/hub, expected one of role site"):
        tacit.new(partner=[pem["alpha"], pem["beta"], pem["hub"]])
    with pytest.raises(InputError, match="tacit://demo/site/alpha, expected one of role coordinator"):
        tacit.new(coordinator=pem["alpha"])
    with pytest.raises(CertificateError, match="was not issued by the CA"):
        tacit.new(partner=[pem["foreign-alpha"], pem["beta"], pem["gamma"]])
    with pytest.raises(CertificateError, match="identity"):
        tacit.new(partner=[pem["alpha"], pem["beta"], tacit.issued / "gamma" / "tls.pem"])
    with pytest.raises(AgreementError, match="different names"):
        tacit.new(partner=[pem["alpha"], pem["alpha"], pem["beta"]])
    with pytest.raises(InputError, match=r"^1 partner was given, expected 2 or more$"):
        tacit.new(partner=[pem["alpha"]])
    assert not Path("agreement.yaml").exists()


def test_from_takes_no_other_terms(tacit: Tacit) -> None:
    with pytest.raises(InputError, match="takes all terms from the file, but --delta, --testing was given too"):
        tacit("new", "--from", "draft.yaml", "--out", "a.yaml", "--delta", "1e-6", "--testing")


@pytest.mark.parametrize(
    ("draft", "match"),
    [
        ("", "is empty"),
        ("[]", "expected the fields of an agreement"),
        ("title: x\n", "consortium is missing"),
        ("agreement: {title: x}\nmore: 1\n", "agreement is not a field known here; more is not a field"),
        ("title: x\ntitle: y\n", "a second time"),
    ],
)
def test_a_draft_that_is_no_agreement_is_refused(tacit: Tacit, draft: str, match: str) -> None:
    Path("draft.yaml").write_text(draft)
    with pytest.raises(AgreementError, match=match):
        tacit("new", "--from", "draft.yaml", "--out", "a.yaml")
    assert not Path("a.yaml").exists()


# --- sign --------------------------------------------------------------------------------------------------------


def test_signing_twice_changes_nothing(tacit: Tacit) -> None:
    tacit.new()
    tacit.sign("alpha")
    before = Path("agreement.yaml").read_bytes()
    with pytest.raises(AgreementError, match=r"'alpha' already signed this agreement .* nothing was changed"):
        tacit.sign("alpha")
    assert Path("agreement.yaml").read_bytes() == before


def test_a_refused_signature_leaves_the_file_as_it_was(tacit: Tacit) -> None:
    tacit.new()
    tacit.sign("alpha")
    before = Path("agreement.yaml").read_bytes()
    for name, error, match in [
        ("hub", AgreementError, "tacit://demo/coordinator/hub is not a partner"),
        ("other", AgreementError, "tacit://demo/site/other is not a partner"),
        ("foreign-alpha", AgreementError, "expected 'demo' with CA"),
        ("no-such-folder", CertificateError, "no-such-folder"),
    ]:
        with pytest.raises(error, match=match):
            tacit.sign(name)
    assert Path("agreement.yaml").read_bytes() == before
    edited = before.replace(b"retention_days: 90", b"retention_days: 91")
    assert edited != before
    Path("agreement.yaml").write_bytes(edited)
    with pytest.raises(AgreementError, match="'alpha' does not fit this agreement"):
        tacit.sign("beta")
    assert Path("agreement.yaml").read_bytes() == edited


def test_a_missing_file_is_not_made(tacit: Tacit) -> None:
    with pytest.raises(AgreementError, match=r"cannot read absent\.yaml"):
        tacit.sign("alpha", "absent.yaml")
    assert not Path("absent.yaml").exists()


def test_an_interrupted_signature_leaves_the_old_file(tacit: Tacit, monkeypatch: pytest.MonkeyPatch) -> None:
    tacit.new()
    before = Path("agreement.yaml").read_bytes()

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(TacitError, match="no room left"):
        tacit.sign("alpha")
    assert Path("agreement.yaml").read_bytes() == before
    assert sorted(os.listdir()) == ["agreement.yaml"]


# --- verify ------------------------------------------------------------------------------------------------------


def test_verify_refuses_what_is_not_fully_signed_or_foreign(tacit: Tacit) -> None:
    tacit.new()
    ca = tacit.issued / "ca" / "ca.pem"
    with pytest.raises(AgreementError, match="0 of the 3 signatures"):
        tacit("verify", "agreement.yaml", "--ca", ca)
    for name in PARTNERS:
        tacit.sign(name)
    with pytest.raises(AgreementError, match="expected 'demo' with CA"):
        tacit("verify", "agreement.yaml", "--ca", tacit.issued / "foreign-ca" / "ca.pem")
    assert (
        verify(load_bundle(Path("agreement.yaml")), TrustAnchor.load(ca), now=datetime.now(UTC)).approved_by == PARTNERS
    )


def test_verify_ends_with_the_codes_of_the_error_tree(tacit: Tacit, capsys: pytest.CaptureFixture[str]) -> None:
    tacit.new()
    ca = str(tacit.issued / "ca" / "ca.pem")
    capsys.readouterr()
    assert main(["agreement", "verify", "agreement.yaml", "--ca", ca]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: the agreement has 0 of the 3 signatures")
    assert "\nhint: each partner signs with" in captured.err
    assert main(["agreement", "verify", "agreement.yaml", "--ca", "absent.pem"]) == 3
    assert main(["agreement", "verify", "absent.yaml", "--ca", ca]) == 4
    assert main(["agreement", "new", "--out", "agreement.yaml"]) == 2


def test_an_agreement_for_whole_sites_says_so_to_its_signers(tacit: Tacit) -> None:
    page = unwrapped(tacit.new(mode="site", unit="site", adjacency="zero-out"))
    for told in (
        "How a site is protected",
        "replacing by zero all that one site contributes (that it takes part is no secret)",
        "a record is protected only as part of its site",
        "the most one site can move a step",
        "each step sees a record with probability",
    ):
        assert told in page
    for changes in ({"mode": "site"}, {"unit": "site"}, {"mode": ["site", "local"], "unit": "site"}):
        result = tacit.runner.invoke(app, [str(each) for each in tacit.new_arguments("other.yaml", **changes)])
        assert result.exception is not None
    assert not Path("other.yaml").exists()


# --- show --------------------------------------------------------------------------------------------------------


def unwrapped(page: str) -> str:
    return " ".join(page.split())


def test_the_page_says_in_plain_words_what_is_agreed(tacit: Tacit) -> None:
    printed = tacit.new()
    tacit.sign("beta")
    page = unwrapped(tacit("show", "agreement.yaml"))
    for sentence in [
        "Customer intents",
        load_bundle(Path("agreement.yaml")).agreement.digest(),
        "Recognise what customers ask for",
        "GDPR Art. 6(1)(f)",
        "alpha, beta, gamma",
        "hub (has no data)",
        "sequence-classification into 2 labels",
        "card lost, transfer",
        "lora adapters up to rank 8 on query, key, value",
        "delta = 10⁻⁵",
        "at most 8, over all runs on a site's data",
        "at least 0.5 times the clip norm",
        "over at least 3 sites, never one site's update",
        "even if the coordinator and 1 partner work together",
        "email, iban, cn_resident_id, cn_uscc, card, ip, us_ssn, phone; the texts are still not anonymous",
        "kept for 90 days",
        "the partners, and nobody else",
        "3 of 3; 1 so far",
        "alpha has not signed",
        "beta signed at 20",
        "no: give --ca to check the signatures",
    ]:
        assert sentence in page, sentence
    assert "TESTING" not in page
    # what `new` printed is the same page, before anybody signed
    assert unwrapped(printed).split("Signatures")[0] == page.split("Signatures")[0]


def test_a_page_with_a_ca_says_whether_the_signatures_hold(tacit: Tacit) -> None:
    tacit.new()
    ca = tacit.issued / "ca" / "ca.pem"
    runner = CliRunner().invoke(app, ["show", "agreement.yaml", "--ca", str(ca)])
    assert isinstance(runner.exception, AgreementError)
    assert "NOT VALID: the agreement has 0 of the 3 signatures" in unwrapped(runner.output)
    for name in PARTNERS:
        tacit.sign(name)
    assert "yes: valid, approved by alpha, beta, gamma" in unwrapped(tacit("show", "agreement.yaml", "--ca", ca))


def test_a_page_warns_of_testing_and_of_texts_left_as_they_are(tacit: Tacit) -> None:
    tacit.new(testing=True, deidentification="none", collusion_bound=1)
    page = unwrapped(tacit("show", "agreement.yaml"))
    assert "FOR TESTING ONLY: noise may be reproducible, so nothing is protected." in page
    assert "none: texts are used as they are" in page


def test_what_an_agreement_says_cannot_format_itself_away(tacit: Tacit) -> None:
    tacit.new(purpose="[red]Sell the data[/red] [link=x]y", label=["[dim]a", "b[/]"], labels_from=None)
    page = unwrapped(tacit("show", "agreement.yaml"))
    assert "[red]Sell the data[/red] [link=x]y" in page
    assert "[dim]a, b[/]" in page


def test_json_holds_everything(tacit: Tacit) -> None:
    tacit.new()
    tacit.sign("alpha")
    facts = json.loads(tacit("show", "agreement.yaml", "--json"))
    assert facts["digest"] == load_bundle(Path("agreement.yaml")).agreement.digest()
    assert facts["agreement"] == content()["agreement"]
    assert [signature["signer"] for signature in facts["signatures"]] == ["alpha"]


def test_help_ends_in_examples(tacit: Tacit) -> None:
    for command in ("new", "sign", "verify", "show"):
        help_text = click.unstyle(tacit(command, "--help"))
        assert f"tacit agreement {command}" in help_text.split("Examples:")[1]


def test_the_file_is_readable_by_others(tacit: Tacit) -> None:
    tacit.new()
    assert stat.S_IMODE(Path("agreement.yaml").stat().st_mode) == 0o644
