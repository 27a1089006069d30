"""``tacit ledger`` as a steward and an auditor meet it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from certs.authority import ConsortiumAuthority
from certs.identity import Identity
from privacy.accounting import epsilon
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.ledger import Budget, Ledger, StepKey
from tacit.cli.ledger import _left, _spent
from tacit.cli.main import main

AGREEMENT = "sha256:" + "a" * 64
RUN = "0123456789abcdef"
EVENT = SubsampledGaussian(
    mode=PrivacyMode.LOCAL,
    unit=PrivacyUnit.RECORD,
    adjacency=Adjacency.ADD_REMOVE,
    noise_multiplier=1.0,
    sample_rate=0.05,
    steps=10,
)
SPENT = epsilon([EVENT.model_copy(update={"steps": 30})], 1e-5)


class Shell:
    """Runs ``tacit ledger ...`` and keeps what was printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, line: str) -> int:
        self._capsys.readouterr()
        code = main(["ledger", *line.split()])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def tacit_ledger(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's folder ``alpha`` in the working directory: two steps committed, one open."""
    monkeypatch.chdir(tmp_path)
    ConsortiumAuthority.create(Path("ca"), "acme").issue("site", "alpha", Path("alpha/pki"))
    with Ledger.open(Path("alpha/state/ledger.sqlite"), Identity.load(Path("alpha/pki"))) as ledger:
        ledger.accept_agreement(AGREEMENT, {"title": "intents [bold]together[/bold]"})
        budget = Budget(epsilon_per_run=8.0, epsilon_lifetime=20.0, delta=1e-5)
        for step in (1, 2, 3):
            reservation = ledger.reserve(
                StepKey(RUN, step, step), "messages", AGREEMENT, EVENT, budget, noise_secret=True
            )
            if step < 3:
                ledger.commit(reservation, ctx=b"", bytes_sent=1000)
    return Path("alpha")


def test_show_as_a_table(tacit_ledger: Shell, site: Path) -> None:
    assert tacit_ledger("show alpha") == 0
    assert "6 entries" in tacit_ledger.out
    assert "intents [bold]together[/bold] (in force)" in tacit_ledger.out
    assert "dataset messages (epsilon for one record, at delta 10⁻⁵)" in tacit_ledger.out
    rows = [line.replace("│", " ").split() for line in tacit_ledger.out.splitlines()]
    assert ["run", "spent", "limit", "left", "rounds", "done", "lost", "open"] in rows
    assert [RUN, f"{SPENT:.3f}", "8.000", f"{8 - SPENT:.3f}", "3", "2", "0", "1"] in rows
    assert ["lifetime", f"{SPENT:.3f}", "20.000", f"{20 - SPENT:.3f}", "3", "2", "0", "1"] in rows
    assert f"open: run {RUN} round 3 step 3 on messages (entry 5)" in tacit_ledger.out


def test_what_was_spent_is_rounded_up_and_what_is_left_down() -> None:
    assert (_spent(7.9921), _left(0.0079)) == ("7.993", "0.007")
    assert (_spent(8.0), _left(0.0)) == ("8.000", "0.000")
    assert (_spent(None), _left(None)) == ("unbounded", "unbounded")


def test_show_as_json(tacit_ledger: Shell, site: Path) -> None:
    assert tacit_ledger("show alpha/state/ledger.sqlite --json") == 0
    facts = json.loads(tacit_ledger.out)
    assert facts["tree_head"]["size"] == 6
    assert facts["entries"] == {"agreement-accepted": 1, "reserve": 3, "commit": 2}
    (dataset,) = facts["datasets"]
    assert dataset["epsilon"] == pytest.approx(SPENT)
    assert dataset["epsilon_left"] == pytest.approx(20 - SPENT)
    assert dataset["runs"][0]["open"] == 1
    assert facts["open_reservations"] == [{"entry": 5, "run_id": RUN, "round": 3, "step": 3, "dataset": "messages"}]


def test_show_while_the_agent_runs(tacit_ledger: Shell, site: Path) -> None:
    with Ledger.open(site / "state/ledger.sqlite", Identity.load(site / "pki")) as ledger:
        ledger.recover()
        assert tacit_ledger("show alpha") == 0
        assert "7 entries" in tacit_ledger.out
        assert tacit_ledger("verify alpha") == 0


def test_show_says_when_no_privacy_is_claimed(tacit_ledger: Shell, site: Path) -> None:
    with Ledger.open(site / "state/ledger.sqlite", Identity.load(site / "pki")) as ledger:
        ledger.reserve(StepKey(RUN, 4, 4), "messages", AGREEMENT, EVENT, Budget(50.0, 50.0, 1e-5), noise_secret=False)
    assert tacit_ledger("show alpha") == 0
    assert "NO PRIVACY IS CLAIMED" in tacit_ledger.out


def test_a_ledger_in_which_nothing_was_spent(tacit_ledger: Shell, site: Path) -> None:
    Ledger.open(Path("new.sqlite"), Identity.load(site / "pki")).close()
    assert tacit_ledger("show new.sqlite") == 0
    assert "nothing has been spent" in tacit_ledger.out


def test_verify_prints_the_tree_head_and_who_signed_it(tacit_ledger: Shell, site: Path) -> None:
    with Ledger.open_readonly(site / "state/ledger.sqlite") as ledger:
        head = ledger.tree_head()
    assert tacit_ledger("verify alpha") == 0
    assert "entries   6" in tacit_ledger.out
    assert head.root in tacit_ledger.out
    assert head.timestamp in tacit_ledger.out
    assert "signed    by tacit://acme/site/alpha" in tacit_ledger.out


def test_verify_a_copy_outside_the_sites_folder(tacit_ledger: Shell, site: Path) -> None:
    Path("audit/copies").mkdir(parents=True)
    shutil.copy(site / "state/ledger.sqlite", "audit/copies/alpha.sqlite")
    assert tacit_ledger("verify audit/copies/alpha.sqlite") == 6
    assert "cannot be checked without --certificate and --ca" in tacit_ledger.err
    assert "--hashes-only" in tacit_ledger.err
    assert tacit_ledger("verify audit/copies/alpha.sqlite --hashes-only") == 0
    assert "not checked" in tacit_ledger.out
    line = "verify audit/copies/alpha.sqlite --certificate alpha/pki/identity.pem --ca alpha/pki/ca.pem"
    assert tacit_ledger(line) == 0
    assert "signed    by tacit://acme/site/alpha" in tacit_ledger.out


def test_verify_with_another_sites_certificate(tacit_ledger: Shell, site: Path) -> None:
    ConsortiumAuthority.load(Path("ca")).issue("site", "beta", Path("beta"))
    assert tacit_ledger("verify alpha --certificate beta/identity.pem") == 6
    assert "error: the signature of the tree head over 6 entries does not verify" in tacit_ledger.err
    assert "verified" not in tacit_ledger.out


def test_verify_refuses_a_changed_entry_by_name(tacit_ledger: Shell, site: Path) -> None:
    connection = sqlite3.connect(site / "state/ledger.sqlite", isolation_level=None)
    connection.execute("DROP TRIGGER entry_no_update")
    connection.execute("UPDATE entry SET content = replace(content, '1000', '1001') WHERE position = 2")
    connection.close()
    for command in ("verify alpha", "show alpha", "verify alpha --hashes-only"):
        assert tacit_ledger(command) == 6
        assert "error: ledger entry 2 " in tacit_ledger.err
        assert "hint:" in tacit_ledger.err


@pytest.mark.parametrize("place", ["nowhere", "ca"])
def test_no_ledger_there(tacit_ledger: Shell, site: Path, place: str) -> None:
    assert tacit_ledger(f"show {place}") == 6
    assert "error: there is no ledger at" in tacit_ledger.err
    assert "hint: name a site folder" in tacit_ledger.err


def test_prove_an_entry_and_verify_it_elsewhere(tacit_ledger: Shell, site: Path) -> None:
    assert tacit_ledger("prove alpha --entry 2") == 0
    Path("audit").mkdir()
    Path("audit/proof.json").write_text(tacit_ledger.out)
    told = json.loads(tacit_ledger.out)
    assert (told["inclusion"]["entry"]["body"]["kind"], told["consistency"]) == ("commit", None)
    trust = "--certificate alpha/pki/identity.pem --ca alpha/pki/ca.pem"
    assert tacit_ledger(f"verify --proof audit/proof.json {trust}") == 0
    assert "proves    entry 2 (commit, " in tacit_ledger.out
    assert "signed    by tacit://acme/site/alpha" in tacit_ledger.out
    assert tacit_ledger("verify --proof audit/proof.json") == 6  # nobody to ask for the signature
    told["inclusion"]["entry"]["body"]["bytes_sent"] = 999
    Path("audit/proof.json").write_text(json.dumps(told))
    for options in (trust, "--hashes-only"):
        assert tacit_ledger(f"verify --proof audit/proof.json {options}") == 6
        assert "error: the inclusion proof of entry 2 does not lead to the tree head's root" in tacit_ledger.err


@pytest.mark.parametrize(
    ("options", "sizes"), [("--from 2", (2, 6)), ("--from 1 --to 4", (1, 4)), ("--from 0", (0, 6))]
)
def test_prove_that_the_log_only_grew(tacit_ledger: Shell, site: Path, options: str, sizes: tuple[int, int]) -> None:
    assert tacit_ledger(f"prove alpha {options}") == 0
    Path("proof.json").write_text(tacit_ledger.out)
    told = json.loads(tacit_ledger.out)["consistency"]
    assert (told["old_size"], told["size"]) == sizes
    line = "verify --proof proof.json --certificate alpha/pki/identity.pem --ca alpha/pki/ca.pem"
    assert tacit_ledger(line) == 0
    assert f"the log of {sizes[1]} entries continues that of {sizes[0]} with root" in tacit_ledger.out


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("prove alpha", 2, "give --entry NUMBER, or --from SIZE"),
        ("prove alpha --entry 1 --from 2", 2, "give --entry NUMBER, or --from SIZE"),
        ("prove alpha --entry 1 --to 2", 2, "give --entry NUMBER, or --from SIZE"),
        ("prove alpha --entry 6", 6, "there is no entry 6; the ledger has 6 entries"),
        ("prove alpha --entry -1", 6, "there is no entry -1"),
        ("prove alpha --from 7", 6, "no log of 6 entries continues one of 7"),
        ("prove alpha --from 3 --to 2", 6, "no log of 2 entries continues one of 3"),
        ("prove alpha --from 3 --to 7", 6, "no log of 7 entries continues one of 3"),
        ("verify", 2, "give a ledger, or a proof"),
        ("verify alpha --proof alpha/pki/identity.pem", 2, "give a ledger, or a proof"),
        ("verify --proof nowhere.json", 2, "cannot be read"),
        ("verify --proof alpha/pki/identity.pem", 2, "alpha/pki/identity.pem: not valid JSON"),
        ("export alpha --out alpha/pki/identity.pem", 2, "name another file with --out"),
    ],
)
def test_what_cannot_be_proved(tacit_ledger: Shell, site: Path, line: str, code: int, said: str) -> None:
    assert tacit_ledger(line) == code
    assert said in tacit_ledger.err
    assert [part.split(":")[0] for part in tacit_ledger.err.splitlines()] == ["error", "hint"]


def test_an_export_or_a_proof_asks_for_the_certificates_it_lacks(tacit_ledger: Shell, site: Path) -> None:
    """No path is guessed: nothing says that an export lies in a site's folder."""
    assert tacit_ledger("export alpha --out alpha/state/alpha.jsonl") == 0
    assert tacit_ledger("prove alpha --entry 1") == 0
    Path("alpha/state/proof.json").write_text(tacit_ledger.out)
    for line in ("verify alpha/state/alpha.jsonl", "verify --proof alpha/state/proof.json"):
        assert tacit_ledger(line) == 6
        assert "cannot be checked without --certificate and --ca\nhint: " in tacit_ledger.err
        assert "there is no" not in tacit_ledger.err


def test_export_and_verify_it_elsewhere(tacit_ledger: Shell, site: Path) -> None:
    assert tacit_ledger("export alpha --out alpha.jsonl") == 0
    assert "alpha.jsonl: 6 entries and the tree head" in tacit_ledger.out
    data = Path("alpha.jsonl").read_text()
    assert tacit_ledger("export alpha") == 0
    assert tacit_ledger.out == data
    lines = data.splitlines()
    assert len(lines) == 7
    assert [json.loads(line)["index"] for line in lines[:-1]] == list(range(6))
    trust = "--certificate alpha/pki/identity.pem --ca alpha/pki/ca.pem"
    assert tacit_ledger(f"verify alpha.jsonl {trust}") == 0
    assert "entries   6" in tacit_ledger.out
    assert "signed    by tacit://acme/site/alpha" in tacit_ledger.out
    for changed in (lines[:-1], [*lines[:3], *lines[4:]], [*lines[:5], lines[-1]], [lines[1], lines[0], *lines[2:]]):
        Path("alpha.jsonl").write_text("\n".join(changed) + "\n")
        assert tacit_ledger(f"verify alpha.jsonl {trust}") == 6
        assert "error:" in tacit_ledger.err
        assert "verified" not in tacit_ledger.out


@pytest.mark.parametrize("command", ["show", "verify", "prove", "export"])
def test_help_ends_in_examples(tacit_ledger: Shell, command: str) -> None:
    assert tacit_ledger(f"{command} --help") == 0
    assert f"tacit ledger {command} sites/alpha" in tacit_ledger.out.split("Examples:")[1]
