"""How a SuperNode is run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from client import flower
from client.flower import answers_health, flower_command, flower_environment, free_port
from client.supernode import AGENT_SOCKET_VARIABLE, explain_exit, supernode_child
from server.superlink import superlink_child
from tacit.errors import ConfigError, TransportError

SOCKET = {AGENT_SOCKET_VARIABLE: "/run/agent.sock"}


def supernode(folder: Path, **options: object) -> object:
    return supernode_child(folder / "flower", superlink="127.0.0.1:1", log_path=folder / "log", env=SOCKET, **options)


def test_it_speaks_to_the_proxy_and_listens_on_loopback(tmp_path: Path) -> None:
    spec = supernode(tmp_path, port=0)
    options = dict(zip(spec.argv[2::2], spec.argv[3::2], strict=True))
    assert spec.argv[1] == "--insecure"
    assert options.pop("--port").isdecimal()
    assert options == {"--superlink": "127.0.0.1:1", "--isolation": "subprocess", "--host": "127.0.0.1"}
    assert Path(spec.argv[0]).name == "flower-supernode"
    assert spec.env[AGENT_SOCKET_VARIABLE] == "/run/agent.sock"


def test_nothing_calls_home_installs_or_writes_into_the_users_home(tmp_path: Path) -> None:
    for spec in (supernode(tmp_path), superlink_child(tmp_path / "flower", free_port(), tmp_path / "log")):
        assert spec.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert spec.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert spec.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert spec.env["HF_HUB_OFFLINE"] == "1"
        assert spec.env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] == "0.2"
        assert spec.env["FLWR_HOME"] == str(tmp_path / "flower")
        assert spec.cwd == tmp_path / "flower"
    assert (tmp_path / "flower").stat().st_mode & 0o777 == 0o700


def test_the_superlink_listens_on_loopback_and_installs_nothing(tmp_path: Path) -> None:
    port = free_port()
    spec = superlink_child(tmp_path / "flower", port, tmp_path / "log", {"MORE": "1"})
    assert spec.argv[1:] == (
        "--insecure",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--isolation",
        "subprocess",
        "--disable-runtime-dependency-installation",
    )
    assert spec.env["MORE"] == "1"
    assert spec.ready is not None
    assert not spec.ready()


def test_the_shim_must_be_able_to_find_the_agent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=AGENT_SOCKET_VARIABLE):
        supernode_child(tmp_path, superlink="x:1", log_path=tmp_path / "log", env={})


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"port {port} of 127.0.0.1 cannot be used") as caught:
            supernode(tmp_path, port=port)
        assert caught.value.hint
        with pytest.raises(TransportError, match=f"port {port}"):
            superlink_child(tmp_path / "flower", port, tmp_path / "log")
        assert not answers_health(port)


def test_flowers_programs_are_found_beside_python_and_come_first(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(flower_command("flower-superexec")).parent)
    with pytest.raises(ConfigError, match="flower-nothing is not installed"):
        flower_command("flower-nothing")


def test_the_packages_are_found_in_a_source_checkout_and_left_alone_when_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    root = Path(flower.tacit.__file__).resolve().parent.parent
    assert flower_environment(tmp_path)["PYTHONPATH"] == f"{root}{os.pathsep}/elsewhere"
    monkeypatch.setattr(flower.sysconfig, "get_path", lambda name: str(root if name == "purelib" else "bin"))
    assert "PYTHONPATH" not in flower_environment(tmp_path)


def test_why_a_supernode_must_wait() -> None:
    lapse = explain_exit(["Exit Code: 305", "Failed to initialize the connection", "Client error '412 ...'"])
    assert lapse is not None
    assert "heartbeat" in lapse
    assert explain_exit(["Exit Code: 305", "something else"]) == "the gateway did not let the SuperNode register"
    assert explain_exit(["Traceback", "412 lines"]) is None
