"""The gate's rules about privacy: the guarantee, noise, clip, sampling, the secure sum, de-identification."""

from __future__ import annotations

import math

from client.gate_situation import Situation
from privacy.events import PrivacyMode, check_guarantee, kept_by
from privacy.noise_shares import ShareGrid
from privacy.order import Order, WeightSpec
from privacy.secagg.encoding import check_range
from privacy.secagg.threshold import check_threshold
from tacit.errors import InputError, Refusal, RefusalReason, SecAggError, TrainingError


def guarantee_is_the_agreed_one(order: Order, at: Situation) -> None:
    terms = at.agreement.privacy
    if order.mode not in terms.modes:
        raise _privacy(f"mode {order.mode.value!r} was ordered, agreed: {', '.join(terms.modes)}")
    if order.unit != terms.unit:
        raise _privacy(f"privacy unit {order.unit.value!r} was ordered, agreed: {terms.unit.value!r}")
    if order.adjacency != terms.adjacency:
        raise _privacy(f"adjacency {order.adjacency.value!r} was ordered, agreed: {terms.adjacency.value!r}")
    try:
        check_guarantee(order.mode, order.unit, order.adjacency)
    except InputError as error:
        raise Refusal(RefusalReason.PRIVACY_PARAMETERS, error.message, hint=error.hint) from error


def contributions_are_bounded(order: Order, at: Situation) -> None:
    ordered, agreed = order.training.max_records_per_user, at.agreement.privacy.max_records_per_user
    if ordered != agreed:
        raise _privacy(f"max_records_per_user {ordered} was ordered, agreed: {agreed}")


def data_are_kept_by_the_unit(_order: Order, at: Situation) -> None:
    agreed = at.agreement.privacy.unit
    if at.data_unit is not kept_by(agreed):
        raise Refusal(
            RefusalReason.DATA,
            f"the agreement protects each {agreed.value}, and this site's data are kept by {at.data_unit.value}",
            hint="the site's key column says whose a record is: key_column in [data] of site.toml",
        )


def noise_is_enough(order: Order, at: Situation) -> None:
    noise, agreed = order.training.noise_multiplier, at.agreement.privacy.min_noise_multiplier
    if noise < agreed:
        raise _privacy(f"noise_multiplier {noise:g} was ordered, agreed: at least {agreed:g}")
    if noise < at.policy.min_noise_multiplier:
        raise Refusal(
            RefusalReason.POLICY,
            f"noise_multiplier {noise:g} was ordered, this site asks for at least {at.policy.min_noise_multiplier:g}",
        )


def clip_is_tight_enough(order: Order, at: Situation) -> None:
    clip, agreed = order.training.l2_clip_norm, at.agreement.privacy.max_l2_clip_norm
    if clip > agreed:
        raise _privacy(f"l2_clip_norm {clip:g} was ordered, agreed: at most {agreed:g}")
    adaptive = order.training.adaptive_clipping
    if adaptive is not None and adaptive.max_l2_clip_norm > agreed:
        raise _privacy(
            f"clipping that adapts up to {adaptive.max_l2_clip_norm:g} was ordered, agreed: at most {agreed:g}"
        )


def sampling_is_sparse_enough(order: Order, at: Situation) -> None:
    rate, agreed = order.training.sample_rate, at.agreement.privacy.max_sample_rate
    if rate > agreed:
        raise _privacy(f"sample_rate {rate:g} was ordered, agreed: at most {agreed:g}")


def normaliser_is_public(order: Order, at: Situation) -> None:
    # Any other normaliser could only have come from somewhere that is not agreed, such as a site's true size.
    batch = order.training.expected_batch_size
    expected = order.training.sample_rate * at.agreement.privacy.public_dataset_size
    if not math.isclose(batch, expected, rel_tol=1e-9):
        raise _privacy(
            f"expected_batch_size {batch!r} was ordered, expected {expected!r}, "
            "which is sample_rate * public_dataset_size"
        )


def cohort_is_agreed(order: Order, at: Situation) -> None:
    cohort = order.secagg.cohort
    strangers = sorted(set(cohort) - set(at.agreement.partner_names()))
    if strangers:
        raise Refusal(RefusalReason.COHORT, f"not partners of the agreement: {', '.join(strangers)}")
    if at.site not in cohort:
        raise Refusal(RefusalReason.COHORT, f"the cohort {', '.join(cohort)} does not contain this site, {at.site!r}")


def cohort_is_large_enough(order: Order, at: Situation) -> None:
    ordered, agreed = order.secagg.min_cohort, at.agreement.secure_aggregation.min_cohort
    if ordered < agreed:
        raise Refusal(RefusalReason.COHORT, f"min_cohort {ordered} was ordered, agreed: at least {agreed}")
    if ordered < at.policy.min_cohort:
        raise Refusal(
            RefusalReason.POLICY,
            f"min_cohort {ordered} was ordered, this site asks for at least {at.policy.min_cohort}",
        )
    if len(order.secagg.cohort) < ordered:
        raise Refusal(
            RefusalReason.COHORT,
            f"the cohort has {len(order.secagg.cohort)} sites, fewer than its own min_cohort {ordered}",
        )


def threshold_protects(order: Order, at: Situation) -> None:
    try:
        check_threshold(
            len(order.secagg.cohort),
            order.secagg.threshold,
            at.agreement.secure_aggregation.collusion_bound,
        )
    except SecAggError as error:
        raise Refusal(RefusalReason.THRESHOLD, error.message, hint=error.hint) from error


def ring_does_not_wrap(order: Order, at: Situation) -> None:
    if order.secagg.ring_bits != at.agreement.secure_aggregation.ring_bits:
        raise _privacy(
            f"ring_bits {order.secagg.ring_bits} was ordered, agreed: {at.agreement.secure_aggregation.ring_bits}"
        )
    secagg = order.secagg
    try:
        check_range(secagg.scale, secagg.value_bound, len(secagg.cohort), secagg.ring_bits)
    except SecAggError as error:
        raise Refusal(RefusalReason.ORDER_MALFORMED, error.message, hint=error.hint) from error


def weights_are_agreed(order: Order, at: Situation) -> None:
    ordered, agreed = order.secagg.weights, at.agreement.secure_aggregation.weights
    if ordered != agreed:
        raise _privacy(f"weights {_in_words(ordered)} were ordered, agreed: {_in_words(agreed)}")
    if ordered is not None and at.policy.weight is None:
        raise Refusal(
            RefusalReason.POLICY,
            "sums are weighted, and this site's policy declares no weight",
            hint="the data steward writes weight: NUMBER into policy.yaml",
        )


def steps_are_those_of_the_mode(order: Order, _at: Situation) -> None:
    # in mode joint every gradient is summed, in the others only what came of all local steps
    expected = order.training.local_steps if order.mode is PrivacyMode.JOINT else 1
    if order.secagg.steps != expected:
        raise Refusal(
            RefusalReason.ORDER_MALFORMED,
            f"{order.secagg.steps} secure steps were ordered for {order.training.local_steps} steps of training in "
            f"mode {order.mode.value}, which has {expected} in a round",
        )


def noise_shares_fit_the_grid(order: Order, at: Situation) -> None:
    if order.mode is PrivacyMode.LOCAL:
        return
    if order.secagg.weights is not None:
        raise Refusal(RefusalReason.ORDER_MALFORMED, f"weighted sums were ordered in mode {order.mode}, which has none")
    try:
        grid = ShareGrid.of(order, at.agreement.secure_aggregation.collusion_bound)
        grid.sum_bound(order.training)
    except TrainingError as error:
        raise Refusal(RefusalReason.ORDER_MALFORMED, error.message, hint=error.hint) from error


def _in_words(weights: WeightSpec | None) -> str:
    return "none" if weights is None else f"up to {weights.cap} in steps of {weights.bin}"


def noise_is_secret(order: Order, at: Situation) -> None:
    if order.test_noise_seed is None:
        return
    if not at.agreement.testing:
        raise Refusal(
            RefusalReason.NOISE_SEED,
            "the order gives a seed for the noise, and the agreement is not for testing",
            hint="leave the test seed out; noise that can be reproduced protects nothing",
        )
    if not at.policy.allow_testing:
        raise Refusal(
            RefusalReason.NOISE_SEED,
            "the order gives a seed for the noise, and this site's policy does not allow testing",
        )


def texts_are_deidentified(_order: Order, at: Situation) -> None:
    if at.policy.require_deidentification and at.agreement.deidentification.profile == "none":
        raise Refusal(
            RefusalReason.POLICY,
            "the agreement has no de-identification, and this site requires it",
        )


def _privacy(message: str) -> Refusal:
    return Refusal(RefusalReason.PRIVACY_PARAMETERS, message)
