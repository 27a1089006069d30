"""The second half of the page: trust, faults, ledgers, the agreement, parameters, and how to check all of it."""

from __future__ import annotations

from collections.abc import Iterable

from privacy.events import PrivacyMode
from privacy.order import TrainingSpec
from privacy.report.facts import ReportFacts, SiteStepFacts
from privacy.report.figures import adjacency_text, delta_text, moment_text, scale_text, sentence
from privacy.report.markup import Html, element
from privacy.report.tables import Number, Value, definitions, section, table


def trust(facts: ReportFacts) -> Html:
    """Who is assumed to do what, and what is not covered."""
    told = facts.trust
    return section(
        "Trust, and its limits",
        element(
            "div",
            element("div", element("h3", "Adversaries considered"), _list(told.adversaries)),
            element("div", element("h3", "Out of scope"), _list(told.out_of_scope)),
            element("div", element("h3", "A site trusts"), _list(told.sites_trust)),
            element("div", element("h3", "A site does not trust"), _list(told.sites_do_not_trust)),
            class_="columns",
        ),
    )


def faults(facts: ReportFacts) -> Html:
    """Refusals, dropouts and burnt steps."""
    rows: list[tuple[Value, ...]] = []
    current = facts.step_in_progress
    for step in facts.steps:
        if step.outcome == "burnt":
            rows.append((Number(str(step.round)), Number(str(step.step)), "all", "burnt", sentence(step.reason)))
        elif step.outcome == "unfinished":
            why = "The run ended first." if step.step != current else "It is still in progress; it counts as spent."
            rows.append((Number(str(step.round)), Number(str(step.step)), "all", "unfinished", why))
        for site in facts.sites:
            before = 0
            for part in site.steps:
                awaited = part.step == current and part.status == "no receipt"
                if part.step == step.step and not awaited and (part.status != "completed" or site.site in step.dropped):
                    told = _part(part, before)
                    rows.append((Number(str(step.round)), Number(str(step.step)), site.site, *told))
                before = part.charged_so_far
    if not rows:
        return section(
            "Refusals and dropouts",
            element("p", "None: every site took part in every step, and every step gave a sum."),
        )
    return section(
        "Refusals and dropouts",
        table(
            "Steps that did not go as ordered. A step costs a site nothing when it ended before any noise was drawn.",
            ("Round", "Step", "Site", "What", "Why"),
            rows,
            wide=(4,),
            stack=True,
        ),
    )


def ledgers(facts: ReportFacts) -> Html:
    """The last tree head of each site's ledger."""
    rows = [
        (
            site.site,
            Number(str(site.tree_head.size)),
            site.tree_head.timestamp,
            element("span", site.tree_head.root, class_="hash"),
            element("span", site.tree_head.signature, class_="hash"),
        )
        if site.tree_head is not None
        else (site.site, Number("none"), "none", "none", "none")
        for site in facts.sites
    ]
    return section(
        "Ledgers",
        element(
            "p",
            "Each site keeps a tamper-evident log of what it spent and sent (RFC 6962). These are the last signed "
            "states it reported. A ledger that no longer contains one of them was rolled back or replaced.",
        ),
        table("Tree heads.", ("Site", "Entries", "Signed", "Root", "Signature"), rows, wide=(3,), stack=True),
    )


def agreement(facts: ReportFacts) -> Html:
    """What the partners agreed."""
    agreed = facts.agreement
    return section(
        "The agreement",
        definitions(
            ("Title", agreed.title),
            ("Purpose", agreed.purpose),
            ("Legal basis", agreed.legal_basis),
            ("Consortium", agreed.consortium),
            ("Partners", ", ".join(agreed.partners)),
            ("Coordinator", agreed.coordinator),
            ("Carries signatures of", ", ".join(agreed.signed_by) or "nobody"),
            ("Privacy unit", f"{agreed.unit.value}, {adjacency_text(agreed.adjacency.value)}"),
            *(
                [("Records of a user in a step", f"at most {agreed.max_records_per_user}, clipped together")]
                if agreed.max_records_per_user is not None
                else []
            ),
            ("Budget of a run", f"ε {agreed.epsilon_per_run:g} at δ = {delta_text(agreed.delta)}"),
            ("Budget of a lifetime", f"ε {agreed.epsilon_lifetime:g} at δ = {delta_text(agreed.delta)}"),
            ("Collusion bound c", str(agreed.collusion_bound)),
            ("Smallest sum", f"{agreed.min_cohort} sites"),
            ("De-identification", f"{agreed.deidentification_profile}; a reduction of risk, not anonymity"),
            ("Residency", ", ".join(agreed.residency)),
            ("Retention", f"{agreed.retention_days} days"),
            ("Release to", agreed.release_scope),
            ("Valid", f"{moment_text(agreed.valid_from)} to {moment_text(agreed.valid_until)}"),
            ("Digest", element("span", agreed.digest, class_="hash")),
        ),
    )


def _options(training: TrainingSpec) -> list[tuple[str, str]]:
    """What was switched on beyond plain DP-SGD with momentum."""
    rows = []
    if training.schedule != "constant" or training.warmup_steps:
        rows.append(("Schedule", f"{training.schedule}, {training.warmup_steps} steps of warm-up"))
    if (adam := training.adam) is not None:
        rows.append(
            (
                "Optimiser",
                f"Adam without the noise's variance: beta {adam.beta1:g} and {adam.beta2:g}, "
                f"floor {adam.variance_floor:g}, weight decay {adam.weight_decay:g}",
            )
        )
    if training.clipping != "flat":
        weights = ", ".join(f"{each.layer} {each.weight:g}" for each in training.layer_weights)
        rows.append(("Clipping", f"each layer by itself, weights: {weights or 'equal'}"))
    if (adaptive := training.adaptive_clipping) is not None:
        rows.append(
            (
                "Clip norm follows",
                f"the {adaptive.quantile:g} quantile, from {adaptive.min_l2_clip_norm:g} to "
                f"{adaptive.max_l2_clip_norm:g}; noise on the count {adaptive.count_noise_stddev:g} records, paid for "
                "by the noise multiplier above",
            )
        )
    return rows


def parameters(facts: ReportFacts) -> Html:
    """What decided the computation."""
    used, training, secagg = facts.parameters, facts.parameters.training, facts.parameters.secagg
    length = f"{used.adapter_length:,} values" if used.adapter_length is not None else "not recorded"
    return section(
        "Parameters and versions",
        element(
            "div",
            element(
                "div",
                element("h3", "Training at each site"),
                definitions(
                    ("Mode, strategy", f"{used.mode.value}, {used.strategy}"),
                    ("Privacy unit", facts.agreement.unit.value),
                    ("Steps a round", str(training.local_steps)),
                    ("Sample rate", f"{training.sample_rate:g}"),
                    ("Noise multiplier", f"{training.noise_multiplier:g}"),
                    ("Clip norm (L2)", f"{training.l2_clip_norm:g}"),
                    ("Expected batch", f"{training.expected_batch_size:g} {facts.agreement.unit.value}s, agreed"),
                    ("Learning rate", f"{training.learning_rate:g}"),
                    ("Momentum", f"{training.momentum:g}"),
                    *_options(training),
                    ("Longest text", f"{training.max_tokens} tokens"),
                ),
            ),
            element(
                "div",
                element("h3", "Secure aggregation"),
                definitions(
                    ("Cohort", ", ".join(secagg.cohort)),
                    ("Threshold", f"{secagg.threshold} of {len(secagg.cohort)}"),
                    ("Smallest sum", f"{secagg.min_cohort} sites"),
                    ("Ring", scale_text(2.0**secagg.ring_bits)),
                    ("Scale", f"{scale_text(secagg.scale)} steps a unit"),
                    ("Value bound", f"{secagg.value_bound:g}"),
                ),
                element("h3", "Model"),
                definitions(
                    ("Base model", used.base_model_name),
                    ("Digest", element("span", used.base_model_digest, class_="hash")),
                    ("Labels", str(used.labels_count)),
                    ("Adapter", length),
                ),
            ),
            element(
                "div",
                element("h3", "Versions"),
                definitions(*((name, version) for name, version in used.versions.items())),
            ),
            class_="columns",
        ),
    )


def verification(facts: ReportFacts) -> Html:
    """What an auditor does next, offline."""
    training = facts.parameters.training
    steps = max(site.gradient_steps for site in facts.sites)
    # a site's whole update is not sampled
    sample_rate = 1.0 if facts.parameters.mode is PrivacyMode.SITE else training.sample_rate
    history = f"[({training.noise_multiplier!r}, {sample_rate!r}, {steps})]"
    program = (
        "from opacus.accountants import PRVAccountant\n\n"
        "accountant = PRVAccountant()\n"
        f"accountant.history = {history}  # noise multiplier, sample rate, steps\n"
        f"print(accountant.get_epsilon(delta={facts.delta!r}))"
    )
    return section(
        "How to check this report",
        element("h3", "The figures"),
        element("p", "Another accountant on the same parameters, for the site that spent most:"),
        element("pre", element("code", program)) if steps else element("p", "Nothing was spent."),
        element("p", "From the run's record in HOME, the coordinator's folder, all of it again:"),
        element("pre", element("code", f"tacit report HOME/state/runs/{facts.run.run_id}")),
        element("h3", "The ledgers"),
        element("p", "At a site, or on a copy of its ledger; the tree head above must be part of it:"),
        element("pre", element("code", "tacit ledger verify SITE_FOLDER\ntacit ledger show SITE_FOLDER")),
        element("h3", "The agreement"),
        element("p", "This page does not check signatures. This does:"),
        element("pre", element("code", "tacit agreement verify --help")),
    )


def _part(part: SiteStepFacts, charged_before: int) -> tuple[str, str]:
    told = sentence(": ".join(item for item in (part.reason, part.message) if item))
    what = {"completed": "dropped out", "no receipt": "lost"}.get(part.status, part.status)
    cost = "Counts as spent." if part.charged_so_far > charged_before else "Cost nothing."
    return what, f"{told} {cost}".strip()


def _list(items: Iterable[str]) -> Html:
    return element("ul", [element("li", item) for item in items], class_="plain")
