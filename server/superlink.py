"""Flower's SuperLink as a child of the gateway, on the loopback interface only.

The open-source SuperLink serves its Fleet, Control and Runtime APIs on one port, does not authorise the last
two and offers no client certificates: it must not face a network. Its state is in memory; a run that outlives
a crash continues from Tacit's own checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.flower import (
    LOOPBACK,
    answers_health,
    flower_command,
    flower_environment,
    require_free_port,
)
from tacit.supervisor import ChildSpec


def superlink_child(
    flower_home: Path,
    port: int,
    log_path: Path,
    env: Mapping[str, str] | None = None,
    *,
    task_poll_interval_s: float = 0.2,
) -> ChildSpec:
    """Return how to run a SuperLink.

    Args:
        flower_home: Flower's state, in the coordinator's working folder.
        port: loopback port, as chosen by :class:`server.control.FlowerControl`.
        log_path: the SuperLink's log. What a ServerApp logs is not in it: see
            :meth:`server.control.FlowerControl.log_of`.
        env: more environment variables, inherited by the ServerApp's process.
        task_poll_interval_s: how often SuperExec asks for work.

    Raises:
        TransportError: ``port`` is in use.
        ConfigError: Flower is not installed.
    """
    require_free_port(port)
    return ChildSpec(
        name="flower-superlink",
        argv=(
            flower_command("flower-superlink"),
            "--insecure",
            "--host",
            LOOPBACK,
            "--port",
            str(port),
            "--isolation",
            "subprocess",
            "--disable-runtime-dependency-installation",
        ),
        log_path=log_path,
        env={**flower_environment(flower_home, task_poll_interval_s=task_poll_interval_s), **(env or {})},
        cwd=flower_home,
        ready=lambda: answers_health(port),
    )
