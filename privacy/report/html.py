"""The report as one HTML page: no network, no script, no fonts but the reader's own.

:func:`render` shows :class:`~privacy.report.facts.ReportFacts` and nothing else. The page's own policy forbids it
everything but its inline style, so it stays that way.
"""

from __future__ import annotations

from privacy.report import appendix, sections
from privacy.report.facts import ReportFacts
from privacy.report.figures import duration_text, moment_text
from privacy.report.markup import Html, element, join, verbatim
from privacy.report.style import CSS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(facts: ReportFacts) -> str:
    """Return the whole page. The same facts give the same page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{facts.run.run_name}: privacy report"),
        element("style", verbatim(CSS)),
    )
    body = element(
        "body",
        element(
            "div",
            element("header", _header(facts)),
            element(
                "main",
                sections.summary(facts),
                sections.findings(facts),
                sections.privacy_spent(facts),
                sections.adversaries(facts),
                sections.learning(facts),
                sections.egress(facts),
                appendix.trust(facts),
                appendix.faults(facts),
                appendix.ledgers(facts),
                appendix.agreement(facts),
                appendix.parameters(facts),
                appendix.verification(facts),
            ),
            element("footer", _footer(facts)),
            class_="page",
        ),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _header(facts: ReportFacts) -> Html:
    run = facts.run
    style = {"completed": "pill", "unfinished": "pill wait"}.get(run.status, "pill bad")
    return join(
        element("p", "Tacit · privacy report", class_="eyebrow"),
        element("h1", run.run_name),
        element(
            "p",
            element("span", run.status, class_=style),
            f"  {moment_text(run.started)} · {duration_text(run.seconds)} · run {run.run_id}",
            class_="note",
        ),
        _no_claim() if facts.testing else None,
    )


def _no_claim() -> Html:
    return element(
        "div",
        element("strong", "No privacy is claimed for this run."),
        element(
            "p",
            "Reproducible noise was allowed, for testing. Whoever knows its seed can subtract it, so it hides nothing. "
            "The epsilons below only show what the same run would cost with secret noise. Do not use this run's "
            "adapter as if it protected anybody.",
        ),
        class_="claimless",
        role="alert",
    )


def _footer(facts: ReportFacts) -> Html:
    version = facts.parameters.versions.get("tacit", "unknown")
    return element(
        "p",
        f"Written by Tacit {version} from the run's own record. The same facts, for machines, are in report.json. "
        "This page loads nothing and runs nothing.",
    )
