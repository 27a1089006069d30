"""The bundle without code: what is built, and everything a site refuses."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.cli.config_utils import get_fab_metadata
from flwr.common.config import get_fused_config_from_fab, validate_config
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from hypothesis import given, settings
from hypothesis import strategies as st

import tacit
from client.fab import CLIENTAPP, RUN_SPEC_KEY, SERVERAPP, build_fab, check_fab, check_run
from tacit.errors import Refusal, RefusalReason

FAB = build_fab()


def unpacked(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_project(change: Callable[[dict], None]) -> bytes:
    """The bundle with another pyproject.toml and a list of contents that fits it."""
    project = tomllib.loads(unpacked(FAB)["pyproject.toml"].decode())
    change(project)
    document = tomli_w.dumps(project).encode()
    return packed([("pyproject.toml", document), (".info/CONTENT", manifest(document))])


def manifest(document: bytes) -> bytes:
    return f"pyproject.toml,{hashlib.sha256(document).hexdigest()},{8 * len(document)}".encode()


def refused(bundle: bytes, match: str) -> None:
    with pytest.raises(Refusal, match=match) as caught:
        check_fab(bundle)
    assert caught.value.reason is RefusalReason.POLICY
    assert caught.value.hint


def test_the_bundle_holds_no_code_and_is_always_the_same() -> None:
    assert set(unpacked(FAB)) == {"pyproject.toml", ".info/CONTENT"}
    assert build_fab() == FAB
    check_fab(FAB)


def test_flower_reads_the_bundle_as_it_is_meant() -> None:
    project = tomllib.loads(unpacked(FAB)["pyproject.toml"].decode())
    assert validate_config(project, check_module=False)[:2] == (True, [])
    fab_id, version = get_fab_metadata(FAB)
    assert (fab_id, version) == ("tacit/tacit", tacit.__version__)
    check_run(fab_id, version, hashlib.sha256(FAB).hexdigest(), "flwr-serverapp")
    run = Run.create_empty(run_id=1)
    run.override_config = {RUN_SPEC_KEY: '{"run_id":"x"}'}
    assert get_fused_config_from_fab(FAB, run) == {RUN_SPEC_KEY: '{"run_id":"x"}'}


def test_the_same_components_are_named_in_the_source_tree() -> None:
    declared = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert declared["components"] == {"serverapp": SERVERAPP, "clientapp": CLIENTAPP}
    assert declared["config"] == {RUN_SPEC_KEY: ""}


def test_flower_loads_the_component_from_the_installed_package(tmp_path: Path) -> None:
    """Flower puts the unpacked bundle first on the path; with nothing in it, the installed package is found."""
    (tmp_path / "pyproject.toml").write_bytes(unpacked(FAB)["pyproject.toml"])
    program = (
        "import sys; from flwr.supercore.object_ref import load_app;"
        f"app = load_app({CLIENTAPP!r}, Exception, {str(tmp_path)!r});"
        "import client.app; print(sys.path[0], client.app.__file__, app is client.app.app)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, file, same = done.stdout.split()
    assert (first, file, same) == (str(tmp_path), str(Path("client/app.py").resolve()), "True")
    assert callable(load_app)


def test_another_version_of_tacit_is_accepted() -> None:
    for version in ("0.2.0", "1.10.3", "0.1.0.dev1", "2.0rc1"):
        check_fab(with_project(lambda p, version=version: p["project"].update(version=version)))


@pytest.mark.parametrize("name", ["client/app.py", "client.py", "flwr/__init__.py", "x.so", "README.md", "a/"])
def test_any_further_file_is_refused(name: str) -> None:
    entries = list(unpacked(FAB).items())
    refused(packed([*entries, (name, b"print('hello')")]), f"{name!r}.*nothing else")


def test_the_bundle_of_a_normal_flower_app_is_refused() -> None:
    document = unpacked(FAB)["pyproject.toml"]
    bundle, _ = build_fab_from_files({"pyproject.toml": document, "client/app.py": b"app = 1"})
    refused(bundle, "client/app.py")


def test_a_missing_or_repeated_file_is_refused() -> None:
    files = unpacked(FAB)
    refused(packed([("pyproject.toml", files["pyproject.toml"])]), "nothing else")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = packed([*files.items(), ("pyproject.toml", files["pyproject.toml"])])
    refused(twice, "nothing else")


def change(*path: str, to: object) -> Callable[[dict], None]:
    def apply(project: dict) -> None:
        for key in path[:-1]:
            project = project.setdefault(key, {})
        project[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    "changed",
    [
        change("project", "name", to="other"),
        change("project", "dependencies", to=["evil"]),
        change("project", "scripts", to={"x": "y:z"}),
        change("build-system", to={"requires": ["evil"], "build-backend": "evil"}),
        change("tool", "other", to={"a": 1}),
        change("tool", "flwr", "app", "publisher", to="somebody"),
        change("tool", "flwr", "app", "components", "clientapp", to="os:system"),
        change("tool", "flwr", "app", "components", "serverapp", to="other:app"),
        change("tool", "flwr", "app", "components", "agentapp", to="agent:app"),
        change("tool", "flwr", "app", "config", "more", to=1),
        change("tool", "flwr", "app", "config", "run-spec", to="{}"),
        change("tool", "flwr", "app", "fab-format-version", to=1),
    ],
    ids=lambda changed: str(changed.__closure__[0].cell_contents),
)
def test_any_other_setting_is_refused(changed: Callable[[dict], None]) -> None:
    refused(with_project(changed), r"not Tacit's")


@pytest.mark.parametrize("version", ["../../x", "1", "", "1.0/..", "1.0 ", "1.0\n", 1.0, "9" * 50])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    refused(with_project(change("project", "version", to=version)), "expected a plain version number")


def test_a_bundle_that_is_none_is_refused() -> None:
    refused(b"", "not a readable zip")
    refused(b"PK\x03\x04 but no more", "not a readable zip")
    refused(FAB[:-30], "not a readable zip")
    refused(bytes(64 * 1024 + 1), "expected at most")
    refused(packed([("pyproject.toml", b"\xff\xfe"), (".info/CONTENT", b"")]), "not TOML")
    refused(packed([("pyproject.toml", b"[project"), (".info/CONTENT", b"")]), "not TOML")
    refused(packed([("pyproject.toml", b""), (".info/CONTENT", b"")]), "version")
    refused(packed([("pyproject.toml", b"project = 1"), (".info/CONTENT", b"")]), "version")


def test_a_list_of_contents_that_does_not_fit_is_refused() -> None:
    document = unpacked(FAB)["pyproject.toml"]
    for content in (b"", manifest(document) + b"\nclient/app.py,00,8", manifest(document + b"#")):
        refused(packed([("pyproject.toml", document), (".info/CONTENT", content)]), "list of contents")


def test_a_bomb_a_link_and_an_encrypted_file_are_refused() -> None:
    document = unpacked(FAB)["pyproject.toml"]
    bomb = packed([("pyproject.toml", bytes(10_000_000)), (".info/CONTENT", b"")])
    assert len(bomb) < 64 * 1024
    refused(bomb, "oversized or special")
    link = zipfile.ZipInfo("pyproject.toml")
    link.external_attr = 0o120777 << 16
    refused(packed([(link, document), (".info/CONTENT", manifest(document))]), "oversized or special")
    flagged = bytearray(FAB)
    flagged[FAB.rindex(b"PK\x01\x02") + 8] |= 1  # the encryption bit of one entry of the central directory
    refused(bytes(flagged), "oversized or special")


def test_the_ground_of_a_refusal_cannot_flood_the_log() -> None:
    entries = [(f"{number}" * 100, b"") for number in range(10, 60)]
    with pytest.raises(Refusal) as caught:
        check_fab(packed(entries))
    assert len(caught.value.message) < 1200


@given(position=st.integers(0, len(FAB) - 1), value=st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_is_refused_or_changes_nothing_that_is_unpacked(position: int, value: int) -> None:
    changed = bytearray(FAB)
    changed[position] ^= value
    try:
        check_fab(bytes(changed))
    except Refusal:
        return
    # what is left are dates, attributes, versions and comments of the zip format itself
    assert unpacked(bytes(changed)) == unpacked(FAB)


HASH = "0f" * 32


def test_runs_of_tacit_are_accepted() -> None:
    check_run("tacit/tacit", "0.1.0", HASH, "flwr-serverapp")
    check_run("tacit/tacit", "0.1.0", HASH, "")


@pytest.mark.parametrize(
    ("fab_id", "version", "fab_hash", "task_type"),
    [
        ("evil/tacit", "0.1.0", HASH, ""),
        ("tacit/../../x", "0.1.0", HASH, ""),
        ("", "0.1.0", HASH, ""),
        ("tacit/tacit", "../x", HASH, ""),
        ("tacit/tacit", "0.1.0", "../" * 10, ""),
        ("tacit/tacit", "0.1.0", HASH[:-1], ""),
        ("tacit/tacit", "0.1.0", HASH.upper(), ""),
        ("tacit/tacit", "0.1.0", HASH, "flwr-agentapp"),
        ("tacit/tacit", "0.1.0", HASH, "flwr-connector"),
    ],
)
def test_other_runs_are_refused(fab_id: str, version: str, fab_hash: str, task_type: str) -> None:
    with pytest.raises(Refusal):
        check_run(fab_id, version, fab_hash, task_type)
