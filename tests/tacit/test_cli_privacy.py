"""``tacit privacy``: calibrate prints the number and what it spends, explain what a run would cost."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import tomli_w
from rich.console import Console

from privacy.accounting import epsilon
from privacy.agreement import draft, save_bundle
from privacy.events import Adjacency, PrivacyMode, PrivacyUnit, SubsampledGaussian
from privacy.report.figures import epsilon_text
from server.explanation import explain_files
from server.explanation_facts import CoalitionEpsilon
from simulations.demo_consortium import DELTA, EPSILON, RECIPE
from tacit.cli.explanation_page import coalitions, explanation_page
from tacit.cli.main import main

AGREEMENT_TERMS = runpy.run_path(str(Path(__file__).parents[1] / "privacy" / "report" / "conftest.py"))[
    "agreement_terms"
]
RUN_FIELDS = ("local_steps", "sample_rate", "noise_multiplier", "l2_clip_norm", "learning_rate")

PLAN = ["privacy", "calibrate", "--epsilon", "8", "--delta", "1e-5", "--sample-rate", "0.05", "--steps", "120"]


def spent(noise_multiplier: float, sample_rate: float = 0.05, steps: int = 120) -> float:
    event = SubsampledGaussian(
        mode=PrivacyMode.LOCAL,
        unit=PrivacyUnit.RECORD,
        adjacency=Adjacency.ADD_REMOVE,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )
    return epsilon([event], 1e-5)


def test_what_is_printed_meets_the_target_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PLAN) == 0
    out = capsys.readouterr().out
    printed = re.search(r"noise multiplier  (\d+\.\d{6})\n", out)
    assert printed
    value = spent(float(printed[1]))
    assert 0.999 * 8 <= value <= 8
    assert f"spends            epsilon {epsilon_text(value)} at delta 10⁻⁵\n" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["epsilon"] == spent(facts["noise_multiplier"]) <= 8
    assert (facts["delta"], facts["sample_rate"], facts["steps"]) == (1e-5, 0.05, 120)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--epsilon", "0", "epsilon is 0"), ("--delta", "1", "delta is 1"), ("--sample-rate", "2", "sample rate is 2")],
)
def test_impossible_requests(capsys: pytest.CaptureFixture[str], option: str, value: str, said: str) -> None:
    arguments = list(PLAN)
    arguments[arguments.index(option) + 1] = value
    assert main(arguments) == 2
    assert f"error: {said}" in capsys.readouterr().err


def test_help_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "calibrate", "--help"]) == 0
    assert "tacit privacy calibrate --epsilon 3" in capsys.readouterr().out.split("Examples:")[1]


def test_the_printed_number_is_rounded_to_more_noise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privacy.accounting.calibrate_noise_multiplier", lambda *_: 0.7172301)
    assert main(PLAN) == 0
    assert "noise multiplier  0.717231\n" in capsys.readouterr().out


RUN = """
[run]
name = "small"
rounds = 4

[model]
base = "package:none"

[lora]
rank = 8
alpha = 16.0
targets = ["query", "value"]

[training]
local_steps = 5
sample_rate = 0.1
noise_multiplier = 1.1
l2_clip_norm = 0.5
learning_rate = 0.5
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run file that names a draft agreement of three partners."""
    save_bundle(draft(AGREEMENT_TERMS()), tmp_path / "agreement.yaml")
    path = tmp_path / "run.toml"
    path.write_text(RUN + '\n[simulation]\nagreement = "agreement.yaml"\n')
    return path


def line_of(printed: str, head: str) -> list[str]:
    line = next(line for line in printed.splitlines() if line.strip().startswith(f"{head} "))
    return line.strip().removeprefix(head).split()


def test_explain_prints_a_row_for_each_adversary_and_a_column_for_each_mode(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["privacy", "explain", str(run_file)]) == 0
    printed = capsys.readouterr().out
    own, all_shares = spent(1.1, 0.1, 20), spent(1.1 * math.sqrt(3 / 2), 0.1, 20)
    one_share = spent(1.1 / math.sqrt(2), 0.1, 20)
    up = [f"{math.ceil(value * 1000) / 1000:.3f}" for value in (own, all_shares, one_share)]
    assert line_of(printed, "epsilon of the whole run") == ["this", "run", "not", "agreed"]
    assert line_of(printed, "The coordinator with c colluding sites") == [up[0], up[0]]
    assert line_of(printed, "Another site") == [up[0], up[0]]
    assert line_of(printed, "The public") == [up[0], up[1]]
    assert line_of(printed, "The coordinator with 2 sites (> c)") == [up[0], f"({up[2]})"]
    assert line_of(printed, "charged to each site") == [up[0], up[0]]
    assert line_of(printed, "budget of a run, 8") == ["fits", "fits"]
    noise = {mode: rest.split() for mode, rest in re.findall(r"^  (local|joint) +(\d.*)$", printed, re.MULTILINE)}
    assert noise["local"] == ["1.1000", "1.1000", "1.9053", "0.6351"]
    assert noise["joint"] == ["1.1000", "0.7778", "1.3472", "0.4491"]
    assert "mode joint puts 0.71 times the noise of mode local" in " ".join(printed.split())
    assert "nothing is promised once more than c = 1 sites collude" in " ".join(printed.split())
    assert "ask a second one with --second-opinion" in printed


@pytest.mark.parametrize("columns", [80, 120])
def test_explain_fits_the_terminal(
    run_file: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["privacy", "explain", str(run_file), "--second-opinion"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    assert "…" not in printed
    assert "they agree" in printed


def test_a_third_mode_fits_an_old_terminal(run_file: Path) -> None:
    facts = explain_files(run_file, None)
    wide = facts.model_copy(update={"modes": (*facts.modes, facts.modes[1])})
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(explanation_page(wide))
    printed = capture.get()
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert (printed.count("not agreed"), len(re.findall(r"\bfits\b", printed))) == (2, 6)


def test_the_document_shows_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's run file; a consortium's digest is its own."""
    privacy = {
        **AGREEMENT_TERMS()["privacy"],
        "delta": DELTA,
        "epsilon_per_run": EPSILON,
        "epsilon_lifetime": 3 * EPSILON,
        "max_l2_clip_norm": RECIPE.l2_clip_norm,
        "public_dataset_size": RECIPE.public_dataset_size,
    }
    save_bundle(draft(AGREEMENT_TERMS(privacy=privacy)), tmp_path / "agreement.yaml")
    section = {name: getattr(RECIPE, name) for name in RUN_FIELDS}
    run = {
        "run": {"name": "demo", "rounds": RECIPE.rounds},
        "model": {"base": "package:none"},
        "lora": {"rank": 8, "alpha": 16.0, "targets": ["query", "value"]},
        "training": section,
    }
    (tmp_path / "run.toml").write_text(tomli_w.dumps(run))
    paths = [str(tmp_path / name) for name in ("run.toml", "agreement.yaml")]
    assert main(["privacy", "explain", paths[0], "--agreement", paths[1]]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d", line) and "sha256" not in line]
    documented = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    shown = documented.split("$ tacit privacy explain demo/run.toml\n")[1].split("\n\n#")[0]
    told = [line.strip() for line in printed[: 1 + next(i for i, line in enumerate(printed) if "joint  " in line[:9])]]
    assert len(told) > 15
    for line in told:
        assert line in shown, line


def test_explain_as_json(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields that docs/privacy.md promises."""
    assert main(["privacy", "explain", str(run_file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["tacit_explanation", "testing", "run", "agreement", "modes", "impossible"]
    assert (facts["tacit_explanation"], facts["testing"]) == (1, False)
    assert [each["mode"] for each in facts["impossible"]] == ["site"]
    own = facts["modes"][0]
    assert (own["mode"], own["this_run"], own["agreed"], own["steps"]) == ("local", True, True, 20)
    documented = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    for name in own:
        assert f"`{name}`" in documented, name
    charged = spent(1.1, 0.1, 20)
    assert own["epsilon_charged"] == charged
    assert {each["adversary"]: each["epsilon"] for each in own["adversaries"]} == dict.fromkeys(
        ("coordinator", "coordinator+c sites", "site", "public"), charged
    )
    assert facts["agreement"]["smallest_sum"] == 3


def test_explain_draws_a_line_for_each_mode_and_adversary(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plots" / "epsilon.svg"
    assert main(["privacy", "explain", str(run_file), "--plot", str(out)]) == 0
    assert f"plot: {out}" in capsys.readouterr().out
    texts = [element.text for element in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-3:] == [
        "local: every adversary; joint: coordinator with c sites, another site",
        "joint: coordinator, public",
        "budget of a run, 8",
    ]
    tips = [element.text for element in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}title")]
    assert any(tip and tip.endswith(f"round 4: {math.ceil(spent(1.1, 0.1, 20) * 1000) / 1000:.3f}") for tip in tips)


def test_explain_says_so_when_no_privacy_is_claimed(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agreement = tmp_path / "testing.yaml"
    save_bundle(draft(AGREEMENT_TERMS(testing=True)), agreement)
    out = tmp_path / "epsilon.svg"
    assert main(["privacy", "explain", str(run_file), "--agreement", str(agreement), "--plot", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "NO PRIVACY IS CLAIMED" in printed
    assert line_of(printed, "The public") == ["none", "claimed", "none", "claimed"]
    assert "NO PRIVACY IS CLAIMED" in out.read_text()


def test_many_sites_make_few_rows() -> None:
    """The first beyond c, the last, and never a smaller epsilon than the worst of a row."""

    def mode(*epsilons: float) -> Any:
        cells = [
            CoalitionEpsilon(colluding_sites=2 + index, epsilon=value, claimed=False)
            for index, value in enumerate(epsilons)
        ]
        return SimpleNamespace(beyond_collusion_bound=tuple(cells))

    falling = mode(*(float(value) for value in range(1, 31)))
    rows = coalitions([falling, mode(*([7.0] * 30))])
    assert len(rows) == 5
    assert (rows[0][0], rows[-1][0]) == ("2", "31")
    spans = [[int(part) for part in numbers.split(" to ")] for numbers, _ in rows]
    assert [span[0] for span in spans[1:]] == [span[-1] + 1 for span in spans[:-1]]
    assert [cells[0].epsilon for _, cells in rows] == [span[-1] - 1 for span in spans]
    assert [numbers for numbers, _ in coalitions([mode(1.0, 2.0, 2.0, 2.0)])] == ["2", "3 to 5"]
    assert coalitions([mode()]) == []


def test_explain_refuses_what_it_cannot_explain(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    save_bundle(draft(AGREEMENT_TERMS()), folder / "agreement.yaml")

    def asked(change: tuple[str, str], *options: str) -> tuple[int, str]:
        path = folder / "run.toml"
        path.write_text(run_file.read_text().replace(*change))
        code = main(["privacy", "explain", str(path), *options])
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert [line.split(":")[0] for line in lines] == ["error", "hint"], printed.err
        return code, printed.err

    same = ("", "")
    assert main(["privacy", "explain", str(tmp_path / "none.toml")]) == 2
    assert "does not exist" in capsys.readouterr().err
    for change, options, code, told in (
        (("rounds = 4", "roundz = 4"), (), 2, "run.roundz is not a field"),
        (("noise_multiplier = 1.1", "noise_multiplier = 0.0"), (), 2, "training.noise_multiplier"),
        (("\n[simulation]\nagreement", "\n#"), (), 2, "names no agreement"),
        (same, ("--agreement", str(folder / "none.yaml")), 4, "none.yaml"),
        (same, ("--agreement", str(run_file)), 4, "run.toml"),
        (same, ("--plot", str(run_file)), 2, "does not end in .svg"),
        (same, ("--plot", "/proc/none/e.svg"), 2, "cannot be written"),
        (("noise_multiplier = 1.1", "noise_multiplier = 0.4"), (), 5, "agreed: at least 0.5"),
        (("rounds = 4", 'rounds = 4\nmode = "joint"\nstrategy = "joint-dp-sgd"'), (), 5, "'joint-dp-sgd'"),
        (("rounds = 4", 'rounds = 4\nmode = "central"'), (), 2, "run.mode"),
        (("rounds = 4", 'rounds = 4\nmode = "site"'), (), 5, "'site' is asked for by the run file"),
        (
            ('"agreement.yaml"\n', '"agreement.yaml"\nsites = [{ name = "omega", data = "x.csv" }]\n'),
            (),
            2,
            "names omega, the partners in",
        ),
    ):
        received, err = asked(change, *options)
        assert (received, told in err) == (code, True), err
    assert run_file.read_text().startswith(RUN)


def test_explain_s_help_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["privacy", "explain", "--help"]) == 0
    assert "tacit privacy explain run.toml --plot epsilon.svg" in capsys.readouterr().out.split("Examples:")[1]
