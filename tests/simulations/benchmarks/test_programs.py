"""Each benchmark runs from the command line at its quick size, and writes what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from simulations.benchmarks import dp_step, gateway_memory, gpu_step, ledger_speed, secagg, step_latency, surplus_cost
from simulations.benchmarks.keystream_rate import KeystreamRate
from simulations.benchmarks.process_memory import read_memory

FIELDS = {"figure", "value", "unit", "target", "holds"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secagg, "QUICK", secagg.Plan("secagg-quick", (50, 100), (4,), 1, mask_length=1000))
    monkeypatch.setattr(secagg, "plain_rate", lambda: KeystreamRate(1e9, "a test"))


@pytest.mark.usefixtures("tiny")
def test_secagg_writes_figures_and_a_plot_and_takes_up_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secagg.main(["--quick", "--out", str(tmp_path)])
    figures = json.loads((tmp_path / "bench-secagg-quick.json").read_text())
    assert figures
    assert all(set(figure) == FIELDS for figure in figures)
    assert (tmp_path / "bench-secagg-quick.svg").read_text().startswith("<svg")
    assert "measured before" not in capsys.readouterr().out

    secagg.main(["--quick", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("measured before") == 4

    secagg.main(["--quick", "--out", str(tmp_path), "--fresh"])
    assert "measured before" not in capsys.readouterr().out


def test_no_second_pair_when_flower_takes_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    found = secagg.measure(secagg.Cell(50, 4, 0), repeats=3, limit_s=0.0)
    assert len(found.ours_client_s) == len(found.flower_client_s) == 1
    assert "1 of 3 pairs" in capsys.readouterr().out


@pytest.mark.processes
@pytest.mark.parametrize("program", [gateway_memory, ledger_speed, step_latency, surplus_cost])
def test_other_benchmarks_run(program, tmp_path: Path) -> None:
    program.main(["--quick", "--out", str(tmp_path)])
    [written] = tmp_path.glob("bench-*-quick.json")
    figures = json.loads(written.read_text())
    assert all(set(figure) == FIELDS and figure["value"] > 0 for figure in figures)


@pytest.mark.processes
def test_dp_step_writes_figures_and_takes_up_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dp_step.main(["--quick", "--out", str(tmp_path)])
    figures = json.loads((tmp_path / "bench-dp-quick.json").read_text())
    assert all(set(figure) == FIELDS for figure in figures)
    # Opacus's engines really run, so a new version in which one does not is seen
    assert sum(figure["figure"].startswith("Opacus") for figure in figures) == 4
    assert "measured before" not in capsys.readouterr().out

    dp_step.main(["--quick", "--out", str(tmp_path)])
    cells = len(dp_step.QUICK.sizes) + len(dp_step.QUICK.beside) + len(dp_step.QUICK.memory)
    assert capsys.readouterr().out.count("measured before") == cells


@pytest.mark.processes
def test_gpu_step_takes_its_steps_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_step.main(["--quick", "--device", "cpu", "--rounds", "1", "--out", str(tmp_path)])
    figures = {figure["figure"]: figure for figure in json.loads((tmp_path / "bench-gpu-quick.json").read_text())}
    assert all(set(figure) == FIELDS and figure["value"] > 0 for figure in figures.values())
    for precision in ("float32", "bfloat16"):
        assert figures[f"private, minilm attention B=2 T=4 {precision}"]["unit"] == "tokens/s"
    assert sum(name.startswith("Opacus") for name in figures) == 4
    assert "no GPU" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_step_without_a_gpu_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: device is 'cuda', but torch .* sees 0 CUDA devices"):
        gpu_step.main(["--out", str(tmp_path)])


def test_memory_is_read_from_what_linux_writes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    memory = read_memory(status)
    assert (memory.rss_bytes, memory.peak_bytes) == (2**20, 2**21)
    with pytest.raises(ValueError, match="Linux"):
        read_memory(tmp_path / "absent")
