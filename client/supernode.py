"""Flower's SuperNode as a child of the site agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from client.flower import LOOPBACK, flower_command, flower_environment, free_port, require_free_port
from tacit.errors import ConfigError
from tacit.supervisor import ChildSpec

#: Environment variable by which the shim (:mod:`client.app`) finds the site agent's Unix socket.
AGENT_SOCKET_VARIABLE = "TACIT_AGENT_SOCKET"


def supernode_child(
    flower_home: Path,
    *,
    superlink: str,
    log_path: Path,
    env: Mapping[str, str],
    port: int = 0,
    ready: Callable[[], bool] | None = None,
    task_poll_interval_s: float = 0.2,
) -> ChildSpec:
    """Return how to run a SuperNode that reaches the consortium through the site's tunnel.

    Args:
        flower_home: Flower's state, in the site's working folder.
        superlink: ``host:port`` of the site's :class:`client.tunnel.FleetProxy`.
        log_path: the SuperNode's log; its app processes write there too.
        env: more environment variables, inherited by the shim; must hold :data:`AGENT_SOCKET_VARIABLE`.
        port: loopback port of the SuperNode's own API; 0 picks a free one.
        ready: when the SuperNode is ready; give ``lambda: proxy.node_id is not None``.
        task_poll_interval_s: how often SuperExec asks for work.

    Raises:
        TransportError: ``port`` is in use.
        ConfigError: Flower is not installed, or the agent's socket is not in ``env``.
    """
    if AGENT_SOCKET_VARIABLE not in env:
        raise ConfigError(
            f"{AGENT_SOCKET_VARIABLE} is not in the SuperNode's environment",
            hint="the shim it starts could not find the site agent",
        )
    if port == 0:
        port = free_port()
    else:
        require_free_port(port)
    return ChildSpec(
        name="flower-supernode",
        argv=(
            flower_command("flower-supernode"),
            "--insecure",
            "--superlink",
            superlink,
            "--isolation",
            "subprocess",
            "--host",
            LOOPBACK,
            "--port",
            str(port),
        ),
        log_path=log_path,
        env={**flower_environment(flower_home, task_poll_interval_s=task_poll_interval_s), **env},
        cwd=flower_home,
        ready=ready,
        explain=explain_exit,
    )


def explain_exit(tail: Sequence[str]) -> str | None:
    """Say why a SuperNode that wrote ``tail`` must wait before it starts again; None when that is unknown."""
    text = "\n".join(tail)
    if "Exit Code: 305" not in text:
        return None
    if "412" in text or "Failed to activate SuperNode" in text or "already in use" in text:
        return "the SuperLink counts the previous SuperNode of this site as online until its heartbeat lapses"
    return "the gateway did not let the SuperNode register"
