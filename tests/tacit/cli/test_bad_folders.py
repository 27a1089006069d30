"""Folders, settings, ledgers and run files that cannot be used."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from simulations.local_consortium import LocalConsortium

Shell = Callable[..., Any]
Edit = Callable[[Path, str, str], None]


def check(tacit: Shell, site: Path) -> Any:
    return tacit("site", "serve", "--check", "--home", site)


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: how a full disk looks to a process, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_lost_ledger_is_not_begun_again(tacit: Shell, site: Path) -> None:
    ledger = site / "state" / "ledger.sqlite"
    ledger.unlink()
    check(tacit, site).fails(6, "there is no ledger", "restore the newest copy")
    assert not ledger.exists()


@pytest.mark.parametrize("content", [b"", b"not a database" * 100], ids=["emptied", "overwritten"])
def test_a_ledger_that_is_no_ledger_any_more(tacit: Shell, site: Path, content: bytes) -> None:
    ledger = site / "state" / "ledger.sqlite"
    ledger.write_bytes(content)
    check(tacit, site).fails(6, "ledger.sqlite", "restore the newest copy")
    assert ledger.read_bytes() == content


def test_a_disk_that_is_full_at_the_ledger(tacit: Shell, site: Path) -> None:
    with files_limited_to(4096):
        answer = check(tacit, site)
    answer.fails(6, "disk", "free some space")
    assert tacit("ledger", "verify", site).code == 0
    assert check(tacit, site).code == 0, "with room again, all is well"


def test_a_disk_that_fills_up_during_a_run(tacit: Shell, made: LocalConsortium, tmp_path: Path) -> None:
    with files_limited_to(90_000):
        answer = tacit("simulate", made.run_file, "--out", tmp_path / "sim")
    answer.fails(6, "the disk refused to write", "ledger.sqlite", "free some space")
    assert "run failed after" in answer.out
    for name in ("alpha", "beta", "gamma"):
        ledger = tmp_path / "sim" / "sites" / name / "ledger.sqlite"
        assert tacit("ledger", "verify", ledger, "--hashes-only").code == 0


def test_a_disk_that_is_full_when_the_folder_is_made(
    tacit: Shell, made: LocalConsortium, plan: Any, tmp_path: Path
) -> None:
    with files_limited_to(8192):
        answer = tacit(*init_site(made, plan, tmp_path / "new"))
    answer.fails(6, "disk", "free some space")
    assert not (tmp_path / "new").exists()
    assert tacit(*init_site(made, plan, tmp_path / "new")).code == 0


def test_a_folder_that_is_not_a_sites_or_a_coordinators(tacit: Shell, site: Path, coordinator: Path) -> None:
    tacit("site", "serve", "--home", coordinator).fails(2, "is not a site's folder", "tacit site init")
    tacit("coordinator", "serve", "--home", site).fails(2, "is not a coordinator's folder", "tacit coordinator init")
    tacit("site", "status", "--home", coordinator).fails(2, "is not a site's folder")
    tacit("run", "status", "--home", site).fails(2, "is not a coordinator's folder")


def test_settings_with_a_misspelt_field(tacit: Shell, site: Path, edit: Edit) -> None:
    edit(site / "site.toml", "torch_threads", "torch_thread")
    check(tacit, site).fails(2, "site.toml: torch_thread is not a field known here")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("site: alpha", "site: beta", "is the policy of beta, this site is alpha"),
        ("accept_runs: true", "accept_runs: yes", "accept_runs: received 'yes'"),
        ("accept_runs: true\n", "", "accept_runs is missing"),
        ("accept_runs:", "accept_run:", "accept_run is not a field known here"),
    ],
)
def test_a_policy_that_cannot_be_used(tacit: Shell, site: Path, edit: Edit, old: str, new: str, part: str) -> None:
    edit(site / "policy.yaml", old, new)
    check(tacit, site).fails(2, part)


def init_site(made: LocalConsortium, plan: Any, home: Path, **changes: object) -> list[object]:
    options: dict[str, object] = {
        "home": home,
        "pki": made.folder / "issued" / "alpha",
        "agreement": made.agreement,
        "coordinator": "localhost:9400",
        "data": plan.sites["alpha"],
        "base_model": plan.base_model,
        **changes,
    }
    given = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return ["site", "init", *(part for pair in given for part in pair)]


def test_a_site_is_made_once_and_serves(tacit: Shell, made: LocalConsortium, plan: Any, tmp_path: Path) -> None:
    home = tmp_path / "new"
    home.mkdir()
    (home / "notes.txt").write_text("mine")
    answer = tacit(*init_site(made, plan, home))
    assert (answer.code, answer.err) == (0, "")
    assert f"runs are refused until {home / 'policy.yaml'} says" in answer.out
    assert "starts a new ledger: never make a second one for a site that has trained" in answer.out
    assert {path.name for path in home.iterdir()} == {
        "agreement.yaml", "notes.txt", "pki", "policy.yaml", "site.toml", "state",
    }  # fmt: skip
    assert check(tacit, home).code == 0
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    again = init_site(made, plan, home, data="nowhere.csv", base_model="nowhere")
    tacit(*again).fails(2, "exists already", "choose another folder")
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"coordinator": "hub.example.org"}, "coordinator: received 'hub.example.org', expected host:port"),
        ({"label_column": "kind"}, "has no column 'kind'; columns found: 'text', 'label'"),
        ({"label_column": "text", "text_column": "label"}, "unknown label 'the old animal is here'"),
        # the data before the model, which takes longer to look at
        ({"data": "nowhere.csv", "base_model": "nowhere"}, "the data file nowhere.csv does not exist"),
        ({"data": "nowhere.csv"}, "the data file nowhere.csv does not exist"),
        ({"base_model": "nowhere"}, "is not a folder; expected one with config.json"),
        ({"base_model": "package:no_such_package"}, "'no_such_package' of 'package:no_such_package' is not installed"),
        ({"torch_threads": 0}, "torch-threads"),
        ({"device": "gpu"}, "device: received 'gpu'"),
        ({"precision": "float16"}, "precision: received 'float16'"),
    ],
)
def test_a_site_that_cannot_be_made_leaves_nothing(
    tacit: Shell, made: LocalConsortium, plan: Any, tmp_path: Path, changes: dict[str, object], part: str
) -> None:
    tacit(*init_site(made, plan, tmp_path / "new", **changes)).fails(2, part)
    assert not (tmp_path / "new").exists()


def test_a_coordinator_that_cannot_be_made_leaves_nothing(tacit: Shell, made: LocalConsortium, tmp_path: Path) -> None:
    papers = ("--pki", made.folder / "issued" / "hub", "--agreement", made.agreement)
    answer = tacit("coordinator", "init", "--home", tmp_path / "new", *papers, "--listen", "9400")
    answer.fails(2, "listen: received '9400'")
    assert not (tmp_path / "new").exists()
    assert tacit("coordinator", "init", "--home", tmp_path / "new", *papers).code == 0
    tacit("coordinator", "init", "--home", tmp_path / "new", *papers).fails(2, "exists already")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("rounds = 2", "rouns = 2", "run.rouns is not a field known here; run.rounds is missing"),
        ("rounds = 2", "rounds = 0", "run.rounds: received 0"),
        ("rounds = 2", "rounds = two", "is not valid TOML"),
        ("rounds = 2", "", "run.rounds is missing"),
    ],
)
def test_a_bad_run_file(
    tacit: Shell, made: LocalConsortium, tmp_path: Path, edit: Edit, old: str, new: str, part: str
) -> None:
    run_file = Path(shutil.copy(made.run_file, tmp_path / "run.toml"))
    edit(run_file, old, new)
    tacit("run", "start", run_file, "--home", made.coordinator).fails(2, part)
    tacit("simulate", run_file, "--out", tmp_path / "sim").fails(2, part)
    assert not (tmp_path / "sim").exists()


def test_a_run_file_that_is_not_there(tacit: Shell, made: LocalConsortium, tmp_path: Path) -> None:
    tacit("run", "start", tmp_path / "run.toml", "--home", made.coordinator).fails(2, "run.toml does not exist")


@pytest.mark.parametrize("command", [["watch"], ["watch", "0123456789abcdef"], ["status"], ["stop", "0123"]])
def test_no_gateway(tacit: Shell, coordinator: Path, command: list[str]) -> None:
    tacit("run", *command, "--home", coordinator).fails(
        8, "no gateway answers", f"start it with `tacit coordinator serve --home {coordinator}`"
    )


def test_a_missing_option(tacit: Shell) -> None:
    tacit("site", "serve").fails(2, "Missing option '--home'", "tacit site serve --help")
