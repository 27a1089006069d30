"""A group of processes notices every end that nobody asked for, also a polite one."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.process_group import ProcessGroup
from tacit.errors import ProcessError
from tacit.supervisor import ChildSpec

pytestmark = pytest.mark.processes


def check_until_it_fails(group: ProcessGroup) -> None:
    while True:
        group.check()


@pytest.mark.parametrize(("script", "ended"), [("exit 0", "exited with code 0"), ("echo why; exit 3", "code 3")])
def test_an_agent_that_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ended: str) -> None:
    def spec(name: str, arguments: list[str], home: Path) -> ChildSpec:
        return ChildSpec(name=name, argv=("sh", "-c", script), log_path=home / "console.log", restart=False)

    monkeypatch.setattr("simulations.process_group._spec", spec)
    with ProcessGroup(tmp_path / "hub", {"alpha": tmp_path / "alpha"}) as group:
        group.restart("alpha")
        with pytest.raises(ProcessError, match=f"site agent alpha .*{ended}") as caught:
            check_until_it_fails(group)
    assert str(tmp_path / "alpha" / "console.log") in str(caught.value.hint)
    assert ("why" in caught.value.message) == ("why" in script)
