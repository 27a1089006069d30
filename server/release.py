"""What a finished run hands out: the adapter in ``peft`` format, the report, and a summary for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy.report import ReportFacts, facts_from_run, render
from tacit.durable import write_atomic

if TYPE_CHECKING:
    from models.classifier import AdapterModel  # torch takes seconds, and a report needs none of it


def release_adapter(run_folder: Path, model: AdapterModel) -> Path:
    """Save the adapter under ``out/adapter`` so that plain ``peft`` loads it; returns that folder."""
    folder = run_folder / "out" / "adapter"
    model.save_peft(folder)
    return folder


def write_report(run_folder: Path) -> ReportFacts:
    """Write ``out/report.html``, ``out/report.json`` and ``out/summary.json`` from what the run recorded.

    The same folder always gives the same files, so it may be called again by anybody.

    Raises:
        InputError: the run's files are absent or do not belong together.
    """
    facts = facts_from_run(run_folder)
    out = run_folder / "out"
    write_atomic(out / "report.html", render(facts).encode())
    write_atomic(out / "report.json", facts.model_dump_json(indent=2).encode())
    write_atomic(out / "summary.json", json.dumps(summary_of(facts), indent=2).encode())
    return facts


def summary_of(facts: ReportFacts) -> dict[str, Any]:
    """Return the figures a script wants: accuracy, privacy per site and adversary, bytes, seconds, dropouts."""
    accuracies = {entry.round: entry.accuracy for entry in facts.accuracy}
    return {
        "run_id": facts.run.run_id,
        "status": facts.run.status,
        "rounds": facts.run.rounds_done,
        "seconds": facts.run.seconds,
        "accuracy_before": accuracies.get(0),
        "accuracy_after": accuracies.get(facts.run.rounds_done),
        "adversaries": {
            entry.adversary: {"epsilon": entry.epsilon, "delta": entry.delta} for entry in facts.adversaries
        },
        "sites": {
            site.site: {
                "epsilon": site.epsilon_run,
                "delta": facts.delta,
                "gradient_steps": site.gradient_steps,
                "bytes_sent": site.aggregation_bytes + site.receipt_bytes,
                "dropouts": site.dropouts,
                "refusals": site.refusals,
            }
            for site in facts.sites
        },
        "testing": facts.testing,
        "dropouts": sum(site.dropouts for site in facts.sites),
        "burnt_steps": sum(step.outcome == "burnt" for step in facts.steps),
        "versions": facts.parameters.versions,
    }
