"""The first half of the page: what the run cost in privacy, against whom, what it learned, what left each site."""

from __future__ import annotations

from privacy.events import PrivacyUnit
from privacy.report import charts
from privacy.report.facts import ReportFacts, SiteFacts
from privacy.report.figures import accuracy_text, adjacency_text, bytes_text, delta_text, epsilon_text
from privacy.report.markup import Child, Html, element, join
from privacy.report.statements import WHO, split_shared
from privacy.report.tables import Number, Value, section, table


def summary(facts: ReportFacts) -> Html:
    """The guarantee in a sentence, and the figures everybody asks for."""
    worst = max(facts.sites, key=lambda site: site.epsilon_run)
    sent = sum(site.aggregation_bytes + site.receipt_bytes for site in facts.sites)
    cards = [
        _card(
            "Privacy spent, worst site",
            join("ε ", epsilon_text(worst.epsilon_run), " ", element("small", f"of {facts.epsilon_budget:g}")),
            _bar(worst.epsilon_run / facts.epsilon_budget),
            f"at δ = {delta_text(facts.delta)}, per {facts.agreement.unit.value}"
            + (", if the noise were secret" if facts.testing else ""),
        ),
        _accuracy_card(facts),
        _card(
            "Rounds",
            join(str(facts.run.rounds_done), " ", element("small", f"of {facts.run.rounds_planned}")),
            None,
            _faults_in_short(facts),
        ),
        _card(
            "Sent by the sites",
            bytes_text(sent),
            None,
            f"{len(facts.sites)} sites, masked updates and protocol; no record left a site",
        ),
    ]
    return element(
        "section",
        _guarantee(facts),
        element("ul", cards, class_="cards"),
        aria_label="Summary",
    )


def findings(facts: ReportFacts) -> Html:
    """What a reader must not miss; absent when there is nothing."""
    if not facts.findings:
        return join()
    items = [
        element(
            "li", element("span", finding.severity.capitalize(), class_="kind"), finding.text, class_=finding.severity
        )
        for finding in facts.findings
    ]
    return section("What to notice", element("ul", items, class_="findings"))


def privacy_spent(facts: ReportFacts) -> Html:
    """Epsilon per round and site against the budget, and what other accountants say."""
    rows = [
        (
            site.site,
            Number(epsilon_text(site.epsilon_run), strong=True),
            Number(epsilon_text(site.epsilon_run_by_receipt) if site.epsilon_run_by_receipt is not None else "none"),
            Number(str(site.gradient_steps)),
            Number(
                epsilon_text(site.epsilon_lifetime_by_receipt)
                if site.epsilon_lifetime_by_receipt is not None
                else "none"
            ),
        )
        for site in facts.sites
    ]
    return section(
        "Privacy spent",
        element(
            "p",
            "Each round costs every site that took part some of its budget. The figures are recomputed for this report "
            "from the recorded parameters; a step whose end is unknown counts as spent.",
        ),
        charts.epsilon_figure(facts),
        table(
            f"Epsilon of this run at δ = {delta_text(facts.delta)}, rounded up. Lifetime is over all runs on a site's "
            "data, by its own word.",
            ("Site", "ε, recomputed", "ε, by receipt", "Noisy steps", "ε, lifetime"),
            rows,
            stack=True,
        ),
        _second_opinion(facts),
    )


def adversaries(facts: ReportFacts) -> Html:
    """One epsilon for each adversary, with the assumptions it rests on."""
    own, shared = split_shared([adversary.assumptions for adversary in facts.adversaries])
    rows = [
        (
            WHO.get(adversary.adversary, adversary.adversary),
            Number(epsilon_text(adversary.epsilon), strong=True, bad=adversary.epsilon is None),
            Number(delta_text(adversary.delta)),
            text_,
        )
        for adversary, text_ in zip(facts.adversaries, own, strict=True)
    ]
    unit, how = facts.agreement.unit, adjacency_text(facts.agreement.adjacency.value)
    if unit is PrivacyUnit.SITE:
        about, differ = "about one site", f"Neighbouring runs have the same cohort and differ in one site, {how}."
    else:
        about, differ = f"about one {unit} of one site", f"Neighbouring data sets differ in one {unit}, {how}."
    return section(
        "One epsilon for each adversary",
        element(
            "p",
            f"How much an adversary can learn {about} from everything this run gave out: the largest ε over the sites. "
            f"{differ}",
        ),
        table("Worst case over the sites.", ("Adversary", "ε", "δ", "What it sees"), rows, wide=(3,), stack=True),
        element("p", element("strong", "What all of them rest on. "), shared) if shared else None,
    )


def learning(facts: ReportFacts) -> Html:
    """Accuracy on the public test set."""
    if not facts.accuracy:
        return section("What was learned", element("p", "No public test set was given."))
    return section("What was learned", charts.accuracy_figure(facts))


def egress(facts: ReportFacts) -> Html:
    """What left each site, in words and bytes."""
    kinds = [(item.kind, item.channel, item.content, item.protection) for item in facts.egress]
    totals = [
        (
            site.site,
            Number(bytes_text(site.aggregation_bytes)),
            Number(bytes_text(site.receipt_bytes)),
            Number(str(sum(step.aggregation_bytes > 0 for step in site.steps))),
            Number(bytes_text(_mean_bytes(site))),
        )
        for site in facts.sites
    ]
    per_step: list[tuple[Value, ...]] = [
        (Number(str(step.round)), Number(str(step.step)), *(_step_bytes(site, step.step) for site in facts.sites))
        for step in facts.steps
    ]
    return section(
        "What left each site",
        element(
            "p",
            "Nothing that depends on data leaves a site outside the masked, noised update. Losses, counts of records "
            "and metrics are not sent. Each site lists everything it sent in its own ledger.",
        ),
        table(
            "Kinds of things that leave a site.",
            ("What", "Channel", "Holds", "Protected by"),
            kinds,
            wide=(2, 3),
            stack=True,
        ),
        table(
            "Bytes sent in this run, as the receipts say, without the framing of gRPC and TLS.",
            ("Site", "Secure sums", "Receipts", "Steps", "Mean per step"),
            totals,
            stack=True,
        ),
        element(
            "details",
            element("summary", "Bytes in each round"),
            table(
                "Bytes of the secure sum by round, step and site.",
                ("Round", "Step", *(site.site for site in facts.sites)),
                per_step,
            ),
        ),
    )


def _guarantee(facts: ReportFacts) -> Html:
    if facts.testing:
        return element("p", "A test of the machinery. It protects nobody.", class_="lede")
    unit = facts.agreement.unit
    whether = f"Whether or not any one {unit} was in a site's data"
    if unit is PrivacyUnit.SITE:
        whether = "Whether any one site contributed what it learned or nothing at all"
    claimed = [adversary.epsilon for adversary in facts.adversaries if adversary.epsilon is not None]
    return element(
        "p",
        f"{whether}, whatever anybody makes of this run comes out almost equally likely: within a factor of e",
        element("sup", "ε"),
        f" with ε = {epsilon_text(max(claimed, default=None))}, but for a probability of {delta_text(facts.delta)}. "
        "No record left a site, and of the sites' updates only sums were opened."
        + (" Nothing is claimed for single records beyond what hides their whole site." * (unit is PrivacyUnit.SITE)),
        class_="lede",
    )


def _card(what: str, figure: Child, bar: Html | None, more: str) -> Html:
    return element(
        "li",
        element("p", what, class_="what"),
        element("p", figure, class_="figure"),
        bar,
        element("p", more, class_="more"),
        class_="card",
    )


def _accuracy_card(facts: ReportFacts) -> Html:
    if not facts.accuracy:
        return _card("Accuracy", "not measured", None, "no public test set was given")
    first, last = facts.accuracy[0], facts.accuracy[-1]
    before = f"{accuracy_text(first.accuracy)} before training; " if first.round == 0 and last.round > 0 else ""
    return _card("Accuracy", accuracy_text(last.accuracy), None, f"{before}{last.examples:,} public test examples")


def _bar(share: float) -> Html:
    width = f"width:{min(max(share, 0.0), 1.0) * 100:.1f}%"
    return element("div", element("span", style=width), class_="bar over" if share > 1 else "bar", aria_hidden="true")


def _faults_in_short(facts: ReportFacts) -> str:
    counts = (
        (sum(step.outcome == "burnt" for step in facts.steps), "burnt step", "burnt steps"),
        (sum(site.dropouts for site in facts.sites), "dropout", "dropouts"),
        (sum(site.refusals for site in facts.sites), "refusal", "refusals"),
    )
    told = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    return ", ".join(told) or "no dropouts, no refusals"


def _second_opinion(facts: ReportFacts) -> Html:
    opinion = facts.second_opinion
    if opinion is None:
        return element("p", "Nothing was spent, so there is nothing for a second accountant to confirm.", class_="note")
    verdict = "The accountants agree." if opinion.agrees else "THE ACCOUNTANTS DISAGREE."
    return element(
        "p",
        element("strong", verdict, class_=None if opinion.agrees else "bad"),
        f" For {opinion.gradient_steps} noisy steps, privacy loss distributions (dp-accounting, the bound reported "
        f"here) give {epsilon_text(opinion.pld)}; privacy random variables (Opacus, independent) give "
        f"{epsilon_text(opinion.prv)}; the looser Rényi bound gives {epsilon_text(opinion.rdp)}. A difference of up to "
        f"{opinion.tolerance:.2g} between the first two comes from discretisation alone.",
        class_="note",
    )


def _mean_bytes(site: SiteFacts) -> int:
    sent = [step.aggregation_bytes for step in site.steps if step.aggregation_bytes]
    return round(sum(sent) / len(sent)) if sent else 0


def _step_bytes(site: SiteFacts, step: int) -> Number:
    part = next((item for item in site.steps if item.step == step), None)
    return Number(f"{part.aggregation_bytes:,}" if part is not None else "none")
