"""The same consortium as real operating-system processes: gateway, SuperLink, site agents, SuperNodes, mutual TLS."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from client.config import SiteHome
from privacy.events import PrivacyMode
from privacy.ledger import Ledger
from server.checkpoint import latest_checkpoint
from server.config import CoordinatorHome
from server.release import write_report
from server.run_spec import load_run_spec
from simulations.local_consortium import ConsortiumPlan, LocalConsortium, assign_ports, make_consortium
from simulations.process_group import ProcessGroup
from simulations.simulate import prepare
from tacit.errors import ConfigError

pytestmark = pytest.mark.processes
Plan = Callable[..., ConsortiumPlan]


@contextmanager
def deployed(made: LocalConsortium, plan: ConsortiumPlan) -> Iterator[ProcessGroup]:
    assign_ports(made, plan.sites)
    with ProcessGroup(made.coordinator, {site: made.site(site) for site in plan.sites}) as group:
        group.start()
        yield group


@pytest.mark.parametrize("mode", list(PrivacyMode))
def test_a_deployed_run_gives_the_bits_of_its_simulation_and_leaves_nothing_behind(
    tmp_path: Path, small_plan: Plan, monkeypatch: pytest.MonkeyPatch, mode: PrivacyMode
) -> None:
    home = tmp_path / "user-home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    # one mode by user, and with a site more than a sum needs, so that surplus noise is taken off; the others by record
    changes = {"records_per_user": 4, "sites": 4} if mode is PrivacyMode.JOINT else {}
    plan = replace(small_plan(rounds=2, noise_seed=11, **changes), mode=mode)
    made = make_consortium(tmp_path / "made", plan)
    spec = load_run_spec(made.run_file)
    with deployed(made, plan) as group:
        run_id = group.link().submit(spec)
        events = list(group.events(run_id))
        assert events[-1]["status"] == "completed", events[-1]
        sockets = [CoordinatorHome(made.coordinator).socket, *(SiteHome(made.site(s)).socket for s in plan.sites)]
        assert {stat.S_IMODE(os.stat(path).st_mode) for path in sockets} == {0o600}
    ours = str(tmp_path)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if any(ours in part for part in p.info["cmdline"] or ())]
    assert left == []
    assert list(home.iterdir()) == []
    with prepare(spec, tmp_path / "sim") as consortium:
        run_folder = consortium.run(consortium.submit())
    simulated = latest_checkpoint(run_folder / "checkpoints")
    real = latest_checkpoint(CoordinatorHome(made.coordinator).runs / run_id / "checkpoints")
    assert simulated is not None
    assert real is not None
    assert np.array_equal(simulated.vector, real.vector)
    receipts = [event["receipt"] for event in events if event["event"] == "site-receipt"]
    assert len(receipts) == 2 * len(plan.sites)
    assert all(receipt["bytes_sent"] > 4 * real.vector.size for receipt in receipts)
    run_folder = CoordinatorHome(made.coordinator).runs / run_id
    write_report(run_folder)
    summary = json.loads((run_folder / "out" / "summary.json").read_bytes())
    assert summary["rounds"] == 2
    assert {entry["epsilon"] for entry in summary["adversaries"].values()} == {None}, "a test seed claims no privacy"


def test_a_killed_site_burns_the_step_and_comes_back_without_losing_its_account(
    tmp_path: Path, small_plan: Plan
) -> None:
    plan = small_plan(rounds=2, local_steps=20)
    made = make_consortium(tmp_path / "made", plan)
    with deployed(made, plan) as group:
        run_id = group.link().submit(load_run_spec(made.run_file))
        killed = False
        burnt: list[dict[str, Any]] = []
        last: dict[str, Any] = {}
        for event in group.events(run_id):
            last = event
            if not killed and event.get("site") == "beta" and event.get("phase") == "training":
                group.kill("beta")
                killed = True
            if event["event"] == "round-burnt":
                burnt.append(event)
                if len(burnt) == 1:
                    group.restart("beta")
        assert killed
        # the next round waits for beta instead of being begun, and burnt, without it
        (reason,) = [each["reason"] for each in burnt]
        assert "beta" in reason
        assert last["status"] == "completed", last
    with Ledger.open_readonly(SiteHome(made.site("beta")).ledger) as ledger:
        kinds = [entry.body.kind for entry in ledger.entries()]
        # three draws of noise: the killed one counts, and no step was drawn twice
        assert kinds.count("reserve") == 3
        assert kinds.count("forfeit") == 1
        assert kinds.count("commit") == 2
        ledger.verify(None)


def test_a_stopped_run_goes_on_from_its_checkpoint_and_never_reuses_a_step(tmp_path: Path, small_plan: Plan) -> None:
    plan = small_plan(rounds=3, records_per_user=4)
    made = make_consortium(tmp_path / "made", plan)
    spec = load_run_spec(made.run_file)
    with deployed(made, plan) as group:
        link = group.link()
        run_id = link.submit(spec)
        for event in group.events(run_id):
            if event["event"] == "round-started" and event["round"] == 2:
                link.stop(run_id)
        assert link.runs()[0]["status"] == "stopped"
        with pytest.raises(ConfigError, match="not running"):
            link.stop(run_id)
        seen = len(link.events(run_id))
        assert link.submit(spec, resume=run_id) == run_id
        events = list(group.events(run_id, after=seen))
        assert events[-1]["status"] == "completed", events[-1]
        events = link.events(run_id)
        assert link.runs()[0]["status"] == "completed"
    rounds = [event["round"] for event in events if event["event"] == "round-finished"]
    steps = [event["step"] for event in events if event["event"] == "round-started"]
    assert rounds == [1, 2, 3]
    assert len(set(steps)) == len(steps) == 4
