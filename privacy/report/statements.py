"""The sentences of a report that are the same for every run: trust model, limits, what leaves a site.

After sections 2 and 4 of the design. They belong to the facts, so that the JSON report carries them too.
"""

from __future__ import annotations

from privacy.accounting import COLLUDING_SITES, COORDINATOR, PUBLIC, SITE
from privacy.events import PrivacyMode
from privacy.report.facts import EgressFacts, TrustFacts

WHO = {
    COORDINATOR: "The coordinator",
    COLLUDING_SITES: "The coordinator with c colluding sites",
    SITE: "Another site",
    PUBLIC: "The public",
}

TRUST = TrustFacts(
    adversaries=(
        "The coordinator, curious or malicious: it sees the whole transcript and learns sums over at least the agreed "
        "minimum cohort. It may lie about keys, cohorts, models and survivors.",
        "Up to c colluding sites, possibly together with the coordinator. One curious partner is c = 1.",
        "The public: whoever receives the released adapter.",
    ),
    sites_trust=(
        "its own machine",
        "the package version its steward installed",
        "the consortium CA's binding of names to keys",
    ),
    sites_do_not_trust=("the coordinator", "code shipped by the coordinator"),
    out_of_scope=(
        "A site that lies about its own data (poisoning), beyond what clipping limits.",
        "Side channels on a site's own machine. How long a site takes for a round is visible to the coordinator.",
        "The privacy of the public base model's own training data.",
    ),
)

_PROTECTION = {
    PrivacyMode.LOCAL: (
        "Only the sum over enough sites can be opened. The noise inside protects the data even if it were."
    ),
    PrivacyMode.JOINT: (
        "Only the sum over enough sites can be opened, which carries the whole noise. One site's share alone would "
        "protect less: the claim rests on no more than the agreed number of sites colluding."
    ),
    PrivacyMode.SITE: (
        "Only the sum over enough sites can be opened, which carries the whole noise. It hides what a site contributed "
        "from whoever sees no more than sums; a site's update itself was not noised for its records."
    ),
}
_UPDATE = {
    PrivacyMode.LOCAL: "The noised adapter update",
    PrivacyMode.JOINT: "The clipped gradient sum of every step with a share of its noise",
    PrivacyMode.SITE: "The adapter update, clipped as a whole, with a share of the sum's noise",
}


def egress_of(mode: PrivacyMode, ring_bits: int) -> tuple[EgressFacts, ...]:
    """Return what ever leaves a site in a run of ``mode`` whose sums are taken mod 2^``ring_bits``."""
    return (
        EgressFacts(
            kind="Keys for this round",
            channel="aggregation",
            content="Public keys and key encapsulations, signed by the site's identity key.",
            protection="Nothing in them depends on data.",
        ),
        EgressFacts(
            kind="Masked update",
            channel="aggregation",
            content=f"{_UPDATE[mode]}, encoded in a {ring_bits}-bit ring and masked: by far the largest part.",
            protection=_PROTECTION[mode],
        ),
        EgressFacts(
            kind="Lock and reveal",
            channel="aggregation",
            content="A signature on the list of survivors, then mask seeds, and shares of vanished sites' seeds.",
            protection="They open the sum of the locked survivors and nothing else. Nothing in them depends on data.",
        ),
        EgressFacts(
            kind="Progress",
            channel="aggregation",
            content="The name of the phase the site is in.",
            protection="Public. Its timing is visible.",
        ),
        EgressFacts(
            kind="Receipt",
            channel="Flower",
            content="Outcome, epsilon spent, bytes sent, and the signed tree head of the ledger.",
            protection="A function of public parameters and of the ledger's hashes.",
        ),
        EgressFacts(
            kind="Membership",
            channel="Flower",
            content="Registration, heartbeats and polls of the site's SuperNode.",
            protection="Public. Not counted in the bytes below.",
        ),
    )


def split_shared(texts: list[str]) -> tuple[list[str], str]:
    """Take the sentences that all texts end with out of each; return what is left of each, and those."""
    split = [text_.split(". ") for text_ in texts]
    count = 0
    while all(len(parts) > count + 1 and parts[-count - 1] == split[0][-count - 1] for parts in split):
        count += 1
    if not count:
        return texts, ""
    return [". ".join(parts[:-count]) + "." for parts in split], ". ".join(split[0][-count:])
