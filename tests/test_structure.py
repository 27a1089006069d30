"""The house keeps its floors: who imports whom, and what a file may be called.

Imports are read with :mod:`ast`, everywhere in a file, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: From the ground up. A package imports itself, what stands before it, and the leaf modules of ``tacit``.
FLOORS = ("certs", "privacy", "models", "client", "strategies", "server", "simulations")

#: The top floor: the command line, and ``python -m tacit`` which starts it. Every other module of ``tacit`` is a
#: leaf: everybody may import it, and it imports nothing of the house but other leaves.
FRONT_DOOR = ("tacit.cli", "tacit.__main__")

#: What the lower floors must not know, however it is reached.
FOREIGN = {
    "certs": {"flwr", "transformers", "peft", "torch", "opacus", "grpc", "numpy"},
    "privacy": {"flwr", "transformers", "peft", "grpc"},
    "tacit leaves": {"flwr", "transformers", "peft", "torch", "opacus", "grpc", "numpy"},
}
EXCEPTIONS = {"certs/credentials.py": {"grpc"}}

#: Names that say nothing about what is inside.
NAMELESS = {"util", "utils", "helper", "helpers", "common", "misc", "shared", "tools", "stuff"}

PACKAGES = (*FLOORS, "tacit")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, text: str | None = None) -> Iterator[str]:
    """Every module a file imports, as an absolute dotted name; ``from a import b`` gives ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text, str(path))
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def within(module: str, ancestor: str) -> bool:
    return module == ancestor or module.startswith(f"{ancestor}.")


def is_leaf(module: str) -> bool:
    return within(module, "tacit") and not is_front_door(module)


def is_front_door(module: str) -> bool:
    return any(within(module, door) for door in FRONT_DOOR)


def floor_of(path: Path) -> str:
    """The package a file belongs to; ``tacit`` splits into its leaves and the rest, which is on top."""
    relative = path.relative_to(ROOT)
    if relative.parts[0] != "tacit":
        return relative.parts[0]
    module = ".".join(relative.with_suffix("").parts)
    return "tacit leaves" if is_leaf(module) else "tacit"


def allowed(floor: str, module: str) -> bool:
    """May a file on ``floor`` import ``module``? Modules that are not of the house always pass here."""
    if module.split(".")[0] not in PACKAGES:
        return True
    if floor == "tacit":
        return True
    if within(module, "tacit"):
        return is_leaf(module)
    if floor == "tacit leaves":
        return False
    return FLOORS.index(module.split(".")[0]) <= FLOORS.index(floor)


ALL_SOURCES = [path for package in PACKAGES for path in sources(package)]


def test_there_is_a_house() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in ALL_SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_the_floors_below_it(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module in imports(path)
        if not allowed(floor_of(path), module)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("floor", FOREIGN)
def test_the_lower_floors_know_no_flower_no_model_and_no_server(floor: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in ALL_SOURCES
        if floor_of(path) == floor
        for module in imports(path)
        if module.split(".")[0] in FOREIGN[floor] - EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_imports_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in ALL_SOURCES
        if not is_front_door(".".join(_stems(path)))
        for module in imports(path)
        if is_front_door(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_and_folders_are_named_by_what_they_hold() -> None:
    files = [*ALL_SOURCES, *sources("tests")]
    wrong = [
        str(path.relative_to(ROOT))
        for path in files
        if any(part.removeprefix("test_").strip("_") in NAMELESS for part in _stems(path))
    ]
    assert not wrong, wrong


def _stems(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


def test_tests_mirror_the_packages() -> None:
    """But for fuzzing, which holds the decoders of all packages to one promise."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert folders - {"fuzz"} <= set(PACKAGES)


# The rules above must be able to fail: files that break them, as text.


@pytest.mark.parametrize(
    ("path", "text", "module"),
    [
        ("certs/identity.py", "import privacy.order", "privacy.order"),
        ("privacy/order.py", "from client import gate", "client.gate"),
        ("privacy/secagg/x.py", "from ...server import x", "server.x"),
        ("client/gate.py", "def f():\n    import strategies.fedavg", "strategies.fedavg"),
        ("strategies/x.py", "from server.app import app", "server.app.app"),
        ("server/x.py", "import simulations", "simulations"),
        ("simulations/x.py", "from tacit.cli import main", "tacit.cli.main"),
        ("simulations/x.py", "from tacit import cli", "tacit.cli"),
        ("server/x.py", "import tacit.__main__", "tacit.__main__"),
        ("tacit/errors.py", "import certs", "certs"),
        ("tacit/logs.py", "from tacit.cli.pki import app", "tacit.cli.pki.app"),
    ],
)
def test_a_forbidden_import_is_seen(path: str, text: str, module: str) -> None:
    file = ROOT / path
    assert module in list(imports(file, text))
    assert not allowed(floor_of(file), module)


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("certs/identity.py", "tacit.errors.InputError"),
        ("privacy/order.py", "certs.identity.Identity"),
        ("server/app.py", "client.wire.tacit_pb2"),
        ("server/app.py", "strategies.fedavg"),
        ("simulations/grid.py", "server.app"),
        ("tacit/cli/pki.py", "certs.authority"),
        ("tacit/canonical.py", "tacit.errors.InputError"),
        ("client/gate.py", "tacit.__version__"),
        ("privacy/order.py", "errors.tacit"),
    ],
)
def test_an_allowed_import_passes(path: str, module: str) -> None:
    assert allowed(floor_of(ROOT / path), module)
