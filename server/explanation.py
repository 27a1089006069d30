"""What a run would cost in privacy, for each adversary and in each mode, before anything runs: ``privacy explain``.

Arithmetic on public numbers: a run file and an agreement, which nobody needs to have signed. Each figure comes from
the function that the ledger charges with or the report tells with, so that what was told before is what is told after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from privacy.accounting import (
    AdversaryBounds,
    adversary_bounds,
    agreement_between,
    calibrate_noise_multiplier,
    epsilon,
    epsilon_against,
)
from privacy.accounting.pld import has_trustworthy_pld
from privacy.accounting.spends import merge
from privacy.agreement import Agreement, VerifiedAgreement, load_bundle
from privacy.events import DpEvent, NoiseShares, PrivacyMode
from privacy.report.facts import SecondOpinionFacts
from privacy.secagg.threshold import survivors_required
from privacy.terms import parse_instant
from server.explanation_facts import (
    CoalitionEpsilon,
    EpsilonAfterRound,
    ExplainedAdversary,
    ExplainedAgreement,
    ExplainedMode,
    ExplainedRun,
    Explanation,
    ImpossibleMode,
    NoiseForTheSame,
)
from server.preflight import ask_every_gate, round_event, secagg_of
from server.run_spec import JOINT_STRATEGY, RunSection, RunSpec, load_run_spec
from tacit.errors import ConfigError, InputError, LedgerError, Refusal

_NO_RUN = "0" * 16
#: rounds at which the growth of epsilon is told, at most, beside the first
_MOST_POINTS = 40


@dataclass(frozen=True)
class _Mode:
    """What an explanation has to know of a mode; everything else follows from its event."""

    #: of a run file in this mode; the run's own is kept where the mode is the run's own
    strategy: str
    #: over how many sites' shares the noise of a sum is spread when they add them, from the mode's event
    shares: Callable[[DpEvent], int]
    #: and over how many what is left of them is, with nobody lost
    kept: Callable[[DpEvent], int]


def _added(event: NoiseShares) -> int:
    return event.honest_survivors


def _left(event: NoiseShares) -> int:
    return event.largest_sum - event.collusion_bound


#: The modes that are explained: one entry each. A mode without an entry is not listed, and the tests miss it.
MODES: Mapping[PrivacyMode, _Mode] = {
    PrivacyMode.LOCAL: _Mode(strategy="fedavg", shares=lambda _event: 1, kept=lambda _event: 1),
    PrivacyMode.JOINT: _Mode(strategy=JOINT_STRATEGY, shares=_added, kept=_left),
    PrivacyMode.SITE: _Mode(strategy="fedavg", shares=_added, kept=_left),
}


def explain_files(run_file: Path, agreement_file: Path | None, *, second_opinion: bool = False) -> Explanation:
    """Read a run file and its agreement, and explain the run.

    Args:
        run_file: ``run.toml``.
        agreement_file: signed or a draft; when None, the one that the run file's ``[simulation]`` names.
        second_opinion: ask the slow accountants too.

    Raises:
        ConfigError: a file cannot be read, no agreement is named, or sites and partners differ.
        AgreementError: the agreement cannot be read.
        Refusal, InputError: as :func:`explain`.
    """
    spec = load_run_spec(run_file)
    simulation = spec.simulation
    path = agreement_file or (simulation.agreement if simulation else None)
    if path is None:
        raise ConfigError(
            f"{run_file} names no agreement, and epsilon depends on its partners, collusion bound and delta",
            hint="name one with --agreement; a draft by `tacit agreement new` that nobody has signed is enough",
        )
    agreement = load_bundle(path).agreement
    named = {site.name for site in simulation.sites} if simulation else set()
    if named and named != set(agreement.partner_names()):
        raise ConfigError(
            f"[[simulation.sites]] names {', '.join(sorted(named))}, the partners in {path} are "
            f"{', '.join(sorted(agreement.partner_names()))}",
            hint="name the agreement this run file was written for, or each partner once",
        )
    return explain(spec, agreement, second_opinion=second_opinion)


def explain(spec: RunSpec, agreement: Agreement, *, second_opinion: bool = False) -> Explanation:
    """Work out what the run would cost under ``agreement``, in its own mode and in every other.

    Signatures and dates are not looked at; everything else is asked of the gate that decides at a site.

    Raises:
        Refusal: the sites' gates would refuse the run. Only its budget is not asked for: whether it fits is told.
        InputError: the run cannot be accounted for.
    """
    if spec.run.mode not in MODES:
        raise InputError(f"mode {spec.run.mode.value!r} is not explained; expected {' or '.join(MODES)}")
    _ask_gates(spec, agreement)
    modes: list[ExplainedMode] = []
    impossible: list[ImpossibleMode] = []
    testing = spec.testing is not None or agreement.testing
    own = _run_event(spec, agreement)
    target = epsilon([own], agreement.privacy.delta)
    for mode, entry in MODES.items():
        asked, event = spec, own
        if mode is not spec.run.mode:
            try:
                asked, terms = _in_mode(spec, mode, entry), _allowing(agreement, mode, entry)
                _ask_gates(asked, terms)
                event = _run_event(asked, terms)
            except (Refusal, InputError) as error:
                impossible.append(ImpossibleMode(mode=mode, reason=error.message))
                continue
        modes.append(
            _explained(
                mode,
                entry,
                event,
                asked,
                agreement,
                target,
                this_run=mode is spec.run.mode,
                testing=testing,
                second_opinion=second_opinion,
            )
        )
    # the run's own mode first
    modes.sort(key=lambda each: not each.this_run)
    secagg = secagg_of(spec, agreement)
    training, terms_of = spec.training, agreement.privacy
    return Explanation(
        tacit_explanation=1,
        testing=testing,
        run=ExplainedRun(
            name=spec.run.name,
            mode=spec.run.mode,
            rounds=spec.run.rounds,
            local_steps=training.local_steps,
            max_burnt_rounds=spec.run.max_burnt_rounds,
            sample_rate=training.sample_rate,
            noise_multiplier=training.noise_multiplier,
            l2_clip_norm=training.l2_clip_norm,
        ),
        agreement=ExplainedAgreement(
            title=agreement.title,
            digest=agreement.digest(),
            sites=len(secagg.cohort),
            smallest_sum=survivors_required(secagg.threshold, secagg.min_cohort),
            collusion_bound=agreement.secure_aggregation.collusion_bound,
            modes=terms_of.modes,
            adjacency=terms_of.adjacency,
            delta=terms_of.delta,
            epsilon_per_run=terms_of.epsilon_per_run,
            epsilon_lifetime=terms_of.epsilon_lifetime,
            min_noise_multiplier=terms_of.min_noise_multiplier,
            max_sample_rate=terms_of.max_sample_rate,
        ),
        modes=tuple(modes),
        impossible=tuple(impossible),
    )


def _explained(
    mode: PrivacyMode,
    entry: _Mode,
    event: DpEvent,
    spec: RunSpec,
    agreement: Agreement,
    target: float,
    *,
    this_run: bool,
    testing: bool,
    second_opinion: bool,
) -> ExplainedMode:
    terms, rounds = agreement.privacy, spec.run.rounds
    delta = terms.delta
    charged = epsilon([event], delta)
    burnt = _of_rounds(event, rounds, rounds + spec.run.max_burnt_rounds)
    return ExplainedMode(
        mode=mode,
        this_run=this_run,
        agreed=mode in terms.modes,
        unit=event.unit,
        noise_multiplier=event.noise_multiplier,
        steps=event.steps,
        adversaries=tuple(
            ExplainedAdversary(adversary=name, epsilon=_finite(bound.epsilon), assumptions=bound.assumptions)
            for name, bound in _bounds(event, agreement, noise_secret=not testing).items()
        ),
        epsilon_charged=_finite(charged),
        accountant=_accountant(event, delta),
        fits_run=charged <= terms.epsilon_per_run,
        fits_lifetime=charged <= terms.epsilon_lifetime,
        epsilon_with_burnt_rounds=_finite(epsilon([burnt], delta)),
        epsilon_at_limits=_finite(epsilon([_at_limits(event, agreement)], delta)),
        beyond_collusion_bound=_beyond(event, agreement, claimed=entry.shares(event) == 1 and not testing),
        growth=_growth(event, rounds, agreement),
        same_epsilon=_same_epsilon(entry, event, target, agreement),
        second_opinion=_second_opinion(event, delta) if second_opinion else None,
    )


def _ask_gates(spec: RunSpec, agreement: Agreement) -> None:
    """Ask the gates as if all partners had signed and the agreement had just begun; they guard no data here."""
    as_if_signed = VerifiedAgreement(agreement, agreement.digest(), agreement.partner_names())
    begun = parse_instant(agreement.valid_from)
    ask_every_gate(_NO_RUN, spec, as_if_signed, agreement.base_model.digest, now=begun)


def _in_mode(spec: RunSpec, mode: PrivacyMode, entry: _Mode) -> RunSpec:
    run = RunSection.model_validate({**spec.run.model_dump(), "mode": mode, "strategy": entry.strategy})
    try:
        spec.training.check_run(mode, run.rounds * spec.training.local_steps)
    except ValueError as error:
        raise InputError(str(error)) from error
    return spec.model_copy(update={"run": run})


def _allowing(agreement: Agreement, mode: PrivacyMode, entry: _Mode) -> Agreement:
    """The agreement, had the partners allowed ``mode``: everything else must fit as it is, the protected unit too."""
    privacy = agreement.privacy
    modes = tuple(dict.fromkeys((*privacy.modes, mode)))
    strategies = tuple(dict.fromkeys((*agreement.strategies, entry.strategy)))
    return agreement.model_copy(
        update={"privacy": privacy.model_copy(update={"modes": modes}), "strategies": strategies}
    )


def _run_event(spec: RunSpec, agreement: Agreement) -> DpEvent:
    """What the whole run spends at a site, no round burnt."""
    return _of_rounds(round_event(spec, agreement), 1, spec.run.rounds)


def _of_rounds(event: DpEvent, counted: int, rounds: int) -> DpEvent:
    """An event of ``counted`` rounds, for ``rounds`` of them."""
    return event.model_copy(update={"steps": event.steps // counted * rounds})


def _at_limits(event: DpEvent, agreement: Agreement) -> DpEvent:
    limits = {
        "noise_multiplier": agreement.privacy.min_noise_multiplier,
        "sample_rate": agreement.privacy.max_sample_rate,
    }
    return event.model_copy(update={name: limits[name] for name in limits if name in type(event).model_fields})


def _bounds(event: DpEvent, agreement: Agreement, *, noise_secret: bool) -> AdversaryBounds:
    return adversary_bounds(
        [event],
        agreement.privacy.delta,
        collusion_bound=agreement.secure_aggregation.collusion_bound,
        noise_secret=noise_secret,
    )


def _accountant(event: DpEvent, delta: float) -> Literal["pld", "rdp"]:
    return "pld" if has_trustworthy_pld(merge([event]), delta) else "rdp"


def _beyond(event: DpEvent, agreement: Agreement, *, claimed: bool) -> tuple[CoalitionEpsilon, ...]:
    sites = len(agreement.partners)
    return tuple(
        CoalitionEpsilon(
            colluding_sites=colluding,
            epsilon=_finite(
                epsilon_against([event], agreement.privacy.delta, cohort_size=sites, colluding_sites=colluding)
            ),
            claimed=claimed,
        )
        for colluding in range(agreement.secure_aggregation.collusion_bound + 1, sites)
    )


def _growth(event: DpEvent, rounds: int, agreement: Agreement) -> tuple[EpsilonAfterRound, ...]:
    points = sorted({1, *(round(rounds * point / _MOST_POINTS) or 1 for point in range(1, _MOST_POINTS + 1))})
    return tuple(
        EpsilonAfterRound(
            round=done,
            by_adversary={
                name: _finite(bound.epsilon)
                for name, bound in _bounds(_of_rounds(event, rounds, done), agreement, noise_secret=True).items()
            },
        )
        for done in points
    )


def _same_epsilon(entry: _Mode, event: DpEvent, target: float, agreement: Agreement) -> NoiseForTheSame | None:
    delta = agreement.privacy.delta
    noise_multiplier, spent = event.noise_multiplier, epsilon([event], delta)
    if spent != target:
        (spend,) = merge([event])
        try:
            noise_multiplier = calibrate_noise_multiplier(target, delta, spend.sample_rate, spend.steps)
        except InputError:
            return None
        spent = epsilon([event.model_copy(update={"noise_multiplier": noise_multiplier})], delta)
    if not math.isfinite(spent):
        return None
    sites = len(agreement.partners)
    left = noise_multiplier / math.sqrt(entry.kept(event))
    return NoiseForTheSame(
        epsilon=spent,
        noise_multiplier=noise_multiplier,
        stddev_one_site=noise_multiplier / math.sqrt(entry.shares(event)),
        stddev_sum=left * math.sqrt(sites),
        stddev_mean=left / math.sqrt(sites),
    )


def _second_opinion(event: DpEvent, delta: float) -> SecondOpinionFacts | None:
    try:
        opinion = agreement_between([event], delta)
    except LedgerError:
        return None  # Opacus cannot discretise what was asked for; the bound does not depend on it
    return SecondOpinionFacts(
        gradient_steps=event.steps,
        pld=opinion.pld,
        prv=opinion.prv,
        rdp=opinion.rdp,
        tolerance=opinion.tolerance,
        agrees=opinion.agrees,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
