"""What a run file must name to be simulated, and that it is looked at first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.run_spec import load_run_spec
from simulations.section import section_of
from tacit.errors import ConfigError

_RUN = """
[run]
name = "small"
rounds = 1
[model]
base = "package:none"
[lora]
rank = 0
alpha = 1.0
targets = []
[training]
local_steps = 1
sample_rate = 0.1
noise_multiplier = 1.0
l2_clip_norm = 1.0
learning_rate = 0.1
"""
_SECTION = """
[simulation]
agreement = "agreement.yaml"
[[simulation.sites]]
name = "alpha"
data = "alpha.csv"
[[simulation.sites]]
name = "beta"
data = "beta.csv"
"""
_PROGRAM = """
import sys
from tacit.cli.main import main
code = main(sys.argv[1:])
assert not {"torch", "flwr"} & set(sys.modules), "loaded before the run file was looked at"
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("section", "told"),
    [("", "error: the run file names no simulated consortium"), (_SECTION, "agreement.yaml")],
    ids=["no section", "no agreement"],
)
def test_what_is_missing_is_said_before_anything_is_loaded(tmp_path: Path, section: str, told: str) -> None:
    (tmp_path / "run.toml").write_text(_RUN + section)
    command = [sys.executable, "-c", _PROGRAM, "simulate", str(tmp_path / "run.toml"), "--out", str(tmp_path / "sim")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode in (2, 4), ended.stderr
    assert told in ended.stderr
    assert not (tmp_path / "sim").exists()


def test_the_readme_s_run_file_is_one_and_its_section_makes_it_a_simulation(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    run, section = re.findall(r"```toml\n(.*?)```", readme, re.S)
    path = tmp_path / "run.toml"
    path.write_text(run)
    with pytest.raises(ConfigError, match="names no simulated consortium"):
        section_of(load_run_spec(path))
    path.write_text(run + section + '[[simulation.sites]]\nname = "beta"\ndata = "beta.csv"\n')
    assert [site.name for site in section_of(load_run_spec(path)).sites] == ["alpha", "beta"]
