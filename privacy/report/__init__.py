"""A run's report: the facts, and the page made from them."""

from privacy.report.build import facts_from_run
from privacy.report.facts import ReportFacts
from privacy.report.html import render

__all__ = ["ReportFacts", "facts_from_run", "render"]
