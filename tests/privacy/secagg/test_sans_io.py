"""The machines touch the world only through effects."""

import ast
from pathlib import Path

import pytest

import privacy.secagg

FOLDER = Path(privacy.secagg.__file__).parent
WORLD = {"socket", "ssl", "time", "datetime", "asyncio", "threading", "subprocess", "select", "grpc", "torch", "flwr"}


def imported(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_no_module_opens_a_socket_reads_a_clock_or_starts_a_thread(path):
    text = path.read_text(encoding="utf-8")
    assert not imported(text) & WORLD
    assert not any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "print"}
        for node in ast.walk(ast.parse(text))
    )


def test_the_public_surface():
    assert sorted(privacy.secagg.__all__) == privacy.secagg.__all__
    for name in privacy.secagg.__all__:
        assert getattr(privacy.secagg, name).__doc__, name
