"""How Flower's own processes are run: their command, their environment, a free port.

Everything that could call home, install packages or write into the user's home is off; everything else is
left as Flower's authors ship it.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import sysconfig
from pathlib import Path

import tacit
from tacit.errors import ConfigError, TransportError

LOOPBACK = "127.0.0.1"


def flower_command(name: str) -> str:
    """Return the path of one of Flower's console scripts, next to the Python that is running.

    Raises:
        ConfigError: it is not there.
    """
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return str(folder / name)
    raise ConfigError(
        f"the program {name} is not installed next to {sys.executable}",
        hint="install Tacit with its dependencies into one environment, and run it from there",
    )


def flower_environment(flower_home: Path, *, task_poll_interval_s: float = 0.2) -> dict[str, str]:
    """Return the environment of a Flower process, to be added to this process's own.

    Args:
        flower_home: where Flower keeps its state; created with mode 0700.
        task_poll_interval_s: how often SuperExec asks for work (Flower's default is 1 s).
    """
    flower_home.mkdir(parents=True, exist_ok=True, mode=0o700)
    scripts = str(Path(flower_command("flower-superexec")).parent)
    environment = {
        "FLWR_HOME": str(flower_home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": f"{task_poll_interval_s:g}",
        "HF_HUB_OFFLINE": "1",
        # SuperExec and the app processes find each other's console scripts by name
        "PATH": os.pathsep.join(part for part in (scripts, os.environ.get("PATH", "")) if part),
    }
    # The app processes import `server.app` and `client.app` from the installed package. In a source checkout
    # that is the folder above `tacit`, which a console script does not have on its path.
    root = Path(tacit.__file__).resolve().parent.parent
    if root != Path(sysconfig.get_path("purelib")).resolve():
        parts = (str(root), os.environ.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(part for part in parts if part)
    return environment


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free_port(port: int) -> None:
    """Check that ``port`` of the loopback interface can be listened on.

    Raises:
        TransportError: something else listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise TransportError(
                f"port {port} of {LOOPBACK} cannot be used: {error.strerror}",
                hint="stop the program that uses it, or choose another port",
            ) from error


def answers_health(port: int) -> bool:
    """Whether the Flower process at this loopback port answers ``GET /health`` with 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
