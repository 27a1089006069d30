"""``tacit demo`` that is interrupted, or loses a process: nothing keeps running, and the account is kept."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.processes
Shell = Callable[..., Any]

#: ``tacit demo`` with a consortium that is quick to make and a round that takes long
SMALL_DEMO = """
import sys
from dataclasses import replace
from pathlib import Path
import simulations.demo as demo
from simulations.demo_consortium import demo_plan
from tacit.cli.main import main

model, *arguments = sys.argv[1:]

def small_plan(folder, *, rounds):
    plan = demo_plan(folder, rounds=rounds)
    recipe = replace(plan.recipe, local_steps=2000, sample_rate=0.01, noise_multiplier=2.0, lora_rank=2, max_tokens=16)
    return replace(plan, base_model=model, base_model_name="tiny", recipe=recipe)

demo.demo_plan = small_plan
sys.exit(main(["demo", "--short", *arguments]))
"""


@pytest.fixture
def demo(launch: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> Callable[[], Any]:
    """Start a small demo in the folder ``demo``."""
    return lambda: launch(tiny_model, "--home", tmp_path / "demo", program=("-c", SMALL_DEMO))


def training_sites(home: Path) -> set[str]:
    """Return who has said that it is training, in the newest run."""
    runs = list((home / "coordinator" / "state" / "runs").glob("*/events.jsonl"))
    events = [json.loads(line) for path in runs for line in path.read_text().splitlines()]
    return {event["site"] for event in events if event["event"] == "site-phase" and event["phase"] == "training"}


def agent_of(home: Path, site: str) -> psutil.Process:
    """Return the agent's process: the one that ``site serve`` with this folder became."""
    wanted = ["site", "serve", "--home", str(home / site)]
    found = [each for each in psutil.process_iter(["cmdline"]) if (each.info["cmdline"] or [])[-4:] == wanted]
    assert len(found) == 1, found
    return found[0]


def spent_at(tacit: Shell, site: Path) -> tuple[float, dict[str, int]]:
    """Return the epsilon that a site's ledger shows, and how many entries of each kind it has."""
    assert tacit("ledger", "verify", site).code == 0
    shown = json.loads(tacit("ledger", "show", site, "--json").out)
    assert shown["open_reservations"] == []
    (dataset,) = shown["datasets"]
    return dataset["epsilon"], shown["entries"]


def test_ctrl_c_in_the_middle_of_training(
    demo: Callable[[], Any], tacit: Shell, tmp_path: Path, no_process_is_left: Callable[[Path], None]
) -> None:
    home = tmp_path / "demo"
    running = demo()
    running.until(lambda: len(training_sites(home)) == 3, "all sites training")
    running.signal(signal.SIGINT)
    running.signal(signal.SIGINT)  # impatience must not cut the clean stop short
    assert running.ends() == 130
    assert running.err == "interrupted\n"
    no_process_is_left(home)
    for site in ("alpha", "beta", "gamma"):
        epsilon, entries = spent_at(tacit, home / site)
        assert epsilon > 0
        assert (entries["reserve"], entries["forfeit"]) == (1, 1), "the noise was drawn: it counts"


def test_a_killed_agent_ends_the_demo_by_name_and_stays_charged(
    demo: Callable[[], Any], tacit: Shell, tmp_path: Path, no_process_is_left: Callable[[Path], None]
) -> None:
    home = tmp_path / "demo"
    running = demo()
    running.until(lambda: len(training_sites(home)) == 3, "all sites training")
    agent_of(home, "beta").kill()
    assert running.ends() == 9
    first, *log, hint = running.err.splitlines()
    assert first.startswith("error: site agent beta was killed by SIGKILL after ")
    assert first.endswith("the end of its log:")
    assert any(line.startswith("  | ") and "site agent beta is serving" in line for line in log)
    assert hint == f"hint: the whole log is in {home / 'beta' / 'logs' / 'console.log'}"
    no_process_is_left(home)
    answer = tacit("site", "serve", "--check", "--home", home / "beta")
    assert answer.code == 0
    assert "an interrupted step was charged: run " in answer.out
    epsilon, entries = spent_at(tacit, home / "beta")
    assert epsilon > 0
    assert (entries["reserve"], entries["forfeit"]) == (1, 1)


def test_a_gateway_that_cannot_start_ends_the_demo_with_its_own_words(
    demo: Callable[[], Any], tmp_path: Path, no_process_is_left: Callable[[Path], None]
) -> None:
    home = tmp_path / "demo"
    running = demo()
    running.until(lambda: (home / "coordinator" / "coordinator.toml").exists(), "the coordinator's folder")
    (home / "coordinator" / "agreement.yaml").write_text("not the agreement\n")
    assert running.ends() == 9
    assert running.err.startswith("error: gateway exited with code 4 after ")
    assert "  | error: " in running.err
    assert "agreement.yaml" in running.err
    no_process_is_left(home)
