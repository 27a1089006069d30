"""The Flower ServerApp component, ``server.app:app``: finds its host process and hands over to the run loop.

Deployed, the host is the gateway, reached over the Unix socket in ``TACIT_GATEWAY_SOCKET``. In a simulation the
coordinator is an object in this process, registered under the run's id.
"""

from __future__ import annotations

import json
import os
import threading

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server.coordinator import CoordinatorLink
from server.run_spec import RunSpec
from tacit.errors import ConfigError

app = ServerApp()

_local: dict[str, CoordinatorLink] = {}
_lock = threading.Lock()


def register_local_coordinator(run_id: str, link: CoordinatorLink) -> None:
    """Make an in-process coordinator known to the ServerApp (simulation)."""
    with _lock:
        _local[run_id] = link


def forget_local_coordinator(run_id: str) -> None:
    """Undo :func:`register_local_coordinator`."""
    with _lock:
        _local.pop(run_id, None)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Drive the run named in the run configuration."""
    # imported here: Flower imports this module to check it, and torch takes seconds
    from server.run_loop import RunLoop

    submitted = json.loads(str(context.run_config["run-spec"]))
    run_id = submitted["run_id"]
    link = _connect(run_id)
    spec = RunSpec.model_validate(link.submission(run_id)["spec"])
    RunLoop(run_id, spec, link, grid).execute()


def _connect(run_id: str) -> CoordinatorLink:
    with _lock:
        local = _local.get(run_id)
    if local is not None:
        return local
    socket = os.environ.get("TACIT_GATEWAY_SOCKET")
    if not socket:
        raise ConfigError(
            "TACIT_GATEWAY_SOCKET is not set, so this ServerApp cannot find its gateway",
            hint="runs are submitted with `tacit run start`, which starts the ServerApp under the gateway",
        )
    from server.link import GatewayLink

    return GatewayLink(socket)
