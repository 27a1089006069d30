"""A gateway and site agents as real processes: who waits, who is turned away, and how they stop."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.config import SiteHome
from client.flower import free_port
from server.config import CoordinatorHome
from simulations.local_consortium import LocalConsortium

pytestmark = pytest.mark.processes
Shell = Callable[..., Any]
Edit = Callable[[Path, str, str], None]


def point_at(port: int, *, hub: Path | None = None, sites: tuple[Path, ...] = ()) -> None:
    """Let a gateway listen, and agents connect, at a loopback port."""
    if hub is not None:
        CoordinatorHome(hub).change_settings(listen=f"127.0.0.1:{port}")
    for site in sites:
        SiteHome(site).change_settings(coordinator=f"localhost:{port}")


@dataclass(frozen=True)
class Serving:
    """An agent that was started before its gateway, and the gateway."""

    folder: Path
    hub: Path
    site: Path
    agent: Any
    gateway: Any
    said_while_alone: str
    status_while_alone: str


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, made: LocalConsortium, launch: Callable[..., Any]) -> Serving:
    folder = tmp_path_factory.mktemp("serving")
    hub = Path(shutil.copytree(made.coordinator, folder / "hub"))
    site = Path(shutil.copytree(made.site("alpha"), folder / "alpha"))
    point_at(free_port(), hub=hub, sites=(site,))
    agent = launch("site", "serve", "--home", site)
    supernode = site / "logs" / "supernode.log"
    # the SuperNode has tried more than once, and the agent has said so once
    agent.until(lambda: supernode.exists() and supernode.read_text().count("retrying") > 1, "a second attempt")
    alone = agent.out
    asked = launch("site", "status", "--home", site)
    assert asked.ends() == 0
    gateway = launch("coordinator", "serve", "--home", hub)
    gateway.until_it_says("gateway ready")
    agent.until_it_says("connected to the coordinator")
    return Serving(folder, hub, site, agent, gateway, alone, asked.out)


def test_an_agent_waits_for_its_coordinator_and_says_so_once(serving: Serving, tacit: Shell) -> None:
    waiting = [line for line in serving.said_while_alone.splitlines() if "cannot be reached" in line]
    assert len(waiting) == 1
    assert "nothing listens there" in waiting[0]
    assert waiting[0].endswith("trying again")
    assert "coordinator: not reachable" in serving.status_while_alone
    assert "coordinator: connected" in tacit("site", "status", "--home", serving.site).out


def test_a_connected_site_is_listed(serving: Serving, tacit: Shell) -> None:
    def listed() -> bool:
        answer = tacit("run", "status", "--home", serving.hub)
        assert answer.code == 0
        return bool(answer.out.splitlines()[0] == "connected sites: alpha")

    # a site is connected once its SuperNode has a node, which comes after the link
    serving.agent.until(listed, "the site among the connected")
    assert "agent:      serving" in tacit("site", "status", "--home", serving.site).out


def test_a_second_agent_in_one_folder(serving: Serving, tacit: Shell) -> None:
    tacit("site", "serve", "--home", serving.site).fails(8, "a site agent is already serving", "stop it first")
    assert "agent:      serving" in tacit("site", "status", "--home", serving.site).out


def test_a_second_gateway_in_one_folder(serving: Serving, tacit: Shell) -> None:
    tacit("coordinator", "serve", "--home", serving.hub).fails(8, "a gateway is already serving", "stop it first")
    assert tacit("run", "status", "--home", serving.hub).code == 0


def test_a_port_in_use(serving: Serving, made: LocalConsortium, launch: Callable[..., Any], tmp_path: Path) -> None:
    hub = Path(shutil.copytree(made.coordinator, tmp_path / "hub"))
    port = int(CoordinatorHome(serving.hub).settings.listen.rsplit(":")[-1])
    point_at(port, hub=hub)
    # a process of its own: gRPC writes past Python
    second = launch("coordinator", "serve", "--home", hub)
    assert second.ends() == 8
    error, hint = second.err.splitlines()
    assert error == f"error: cannot listen on 127.0.0.1:{port}: the address is in use or not this host's"
    assert hint.startswith("hint: stop the other process")
    assert not (hub / "state" / "gateway.sock").exists()


def test_runs_that_cannot_be_followed_or_started(
    serving: Serving, tacit: Shell, made: LocalConsortium, tmp_path: Path, edit: Edit
) -> None:
    home = ("--home", serving.hub)
    tacit("run", "watch", *home).fails(2, "there is no run yet", "tacit run start")
    tacit("run", "watch", "deadbeef", *home).fails(2, "there is no run deadbeef", "tacit run status")
    tacit("run", "stop", "deadbeef", *home).fails(2, "there is no run deadbeef", "tacit run status")
    for command in ("watch", "stop"):
        tacit("run", command, "../deadbeef", *home).fails(2, "is not a run id")
    tacit("run", "start", made.run_file, *home, "--resume", "deadbeef").fails(2, "there is no run deadbeef")
    run_file = Path(shutil.copy(made.run_file, tmp_path / "run.toml"))
    edit(run_file, "rounds = 2", "rounds = 2000")
    tacit("run", "start", run_file, *home).fails(
        5, "in 2000 rounds, the agreement allows 20 per run", "raise noise_multiplier"
    )
    edit(run_file, "l2_clip_norm = 1.0", "l2_clip_norm = 100.0")
    tacit("run", "start", run_file, *home).fails(
        5, "l2_clip_norm 100 was ordered, agreed: at most 1", "correct the run file"
    )
    assert list((serving.hub / "state" / "runs").glob("*")) == []


def test_a_second_agent_with_one_identity_is_turned_away_until_the_first_is_gone(
    serving: Serving, made: LocalConsortium, launch: Callable[..., Any], tmp_path: Path, tacit: Shell
) -> None:
    twin = Path(shutil.copytree(made.site("alpha"), tmp_path / "twin"))
    point_at(int(CoordinatorHome(serving.hub).settings.listen.rsplit(":")[-1]), sites=(twin,))
    second = launch("site", "serve", "--home", twin)
    second.until_it_says("turned this site away")
    assert "cannot be reached" not in second.out
    assert "another agent with the identity of alpha is connected" in second.out
    assert "connected to the coordinator" not in second.out
    assert "cannot be reached" not in serving.agent.out.replace(serving.said_while_alone, "")
    second.signal(signal.SIGTERM)
    assert second.ends() == 0


def test_a_site_of_another_consortium_gets_nowhere_and_is_told_why(
    serving: Serving, strangers: LocalConsortium, launch: Callable[..., Any], tmp_path: Path, tacit: Shell
) -> None:
    stranger = Path(shutil.copytree(strangers.site("beta"), tmp_path / "stranger"))
    point_at(int(CoordinatorHome(serving.hub).settings.listen.rsplit(":")[-1]), sites=(stranger,))
    agent = launch("site", "serve", "--home", stranger)
    agent.until_it_says("cannot be reached")
    assert "its certificate is not of this site's consortium" in agent.out
    assert agent.err == ""
    agent.signal(signal.SIGINT)
    assert agent.ends() == 0
    assert "connected to the coordinator" not in agent.out
    assert tacit("run", "status", "--home", serving.hub).out.startswith("connected sites: alpha\n")


def test_ctrl_c_stops_both_and_everything_below_them(
    serving: Serving, no_process_is_left: Callable[[Path], None], tacit: Shell
) -> None:
    serving.agent.signal(signal.SIGINT)
    assert serving.agent.ends() == 0
    serving.gateway.signal(signal.SIGINT)
    assert serving.gateway.ends() == 0
    assert serving.agent.out.endswith("site agent stopped\n")
    assert serving.gateway.out.endswith("gateway stopped\n")
    assert (serving.agent.err, serving.gateway.err) == ("", "")
    no_process_is_left(serving.folder)
    assert not SiteHome(serving.site).socket.exists()
    assert not CoordinatorHome(serving.hub).socket.exists()
    assert tacit("ledger", "verify", serving.site).code == 0
