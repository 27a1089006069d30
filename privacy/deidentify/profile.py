"""Profiles: which identifiers are replaced, in which order, by what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from privacy.deidentify.folding import fold
from privacy.deidentify.identifiers import (
    Span,
    find_cn_resident_ids,
    find_cn_usccs,
    find_emails,
    find_ibans,
    find_ip_addresses,
    find_us_ssns,
)
from privacy.deidentify.numbers import find_cards, find_phones
from tacit.errors import ConfigError

#: Every identifier of every detector has one of these; texts without are passed through untouched.
_CANDIDATE = re.compile("[0-9@]")


@dataclass(frozen=True)
class Detector:
    """One type of identifier: its name, what replaces it, and where it is in folded text."""

    type: str
    placeholder: str
    #: folded text -> half-open spans, ascending, without overlap
    find: Callable[[str], Iterable[Span]]


@dataclass(frozen=True)
class Deidentified:
    """A text with its identifiers replaced, and how many of each type were."""

    text: str
    #: only types that occurred
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Profile:
    """Detectors in the order they are asked: those with the strongest check first."""

    name: str
    detectors: tuple[Detector, ...]

    @property
    def types(self) -> tuple[str, ...]:
        """The types of identifiers this profile replaces."""
        return tuple(detector.type for detector in self.detectors)

    def apply(self, text: str) -> Deidentified:
        """Replace every identifier the profile's detectors find.

        The result contains none of the identifiers found, anywhere, and no detector finds anything in it:
        applying the profile again changes nothing.
        """
        folded = fold(text)
        counts: Counter[str] = Counter()
        if self.detectors and _CANDIDATE.search(folded):
            # Replacing one identifier can give its neighbour the edge it needed to be recognised, so once
            # more.
            while found := self._pass(text, folded):
                text, folded = found.text, found.folded
                counts.update(found.counts)
        return Deidentified(text, MappingProxyType(dict(counts)))

    def _pass(self, text: str, folded: str) -> _Pass | None:
        counts: Counter[str] = Counter()
        for detector in self.detectors:
            spans = list(detector.find(folded))
            # The same identifier may stand elsewhere as a part of something that is none.
            for identifier in {folded[start:end] for start, end in spans}:
                spans += [match.span() for match in re.finditer(re.escape(identifier), folded)]
            spans = _without_overlap(spans)
            if spans:
                counts[detector.type] += len(spans)
                text = _replaced(text, spans, detector.placeholder)
                folded = _replaced(folded, spans, detector.placeholder)
        return _Pass(text, folded, counts) if counts else None


@dataclass(frozen=True)
class _Pass:
    text: str
    folded: str
    counts: Counter[str]


def _without_overlap(spans: Iterable[Span]) -> list[Span]:
    kept: list[Span] = []
    for start, end in sorted(spans):
        if kept and start < kept[-1][1]:
            kept[-1] = kept[-1][0], max(end, kept[-1][1])
        else:
            kept.append((start, end))
    return kept


def _replaced(text: str, spans: Iterable[Span], placeholder: str) -> str:
    parts, position = [], 0
    for start, end in spans:
        parts += [text[position:start], placeholder]
        position = end
    return "".join((*parts, text[position:]))


_STANDARD_V1 = Profile(
    "standard-v1",
    (
        Detector("email", "[EMAIL]", find_emails),
        Detector("iban", "[IBAN]", find_ibans),
        Detector("cn_resident_id", "[CN_RESIDENT_ID]", find_cn_resident_ids),
        Detector("cn_uscc", "[CN_USCC]", find_cn_usccs),
        Detector("card", "[CARD]", find_cards),
        Detector("ip", "[IP]", find_ip_addresses),
        Detector("us_ssn", "[US_SSN]", find_us_ssns),
        Detector("phone", "[PHONE]", find_phones),
    ),
)

#: A profile never changes once an agreement could name it; a better one gets a new name.
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (_STANDARD_V1, Profile("none", ()))}
)


def profile_named(name: str) -> Profile:
    """Return the profile an agreement names.

    Raises:
        ConfigError: no such profile.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigError(
            f"{name!r} is not a de-identification profile, expected one of: {', '.join(PROFILES)}",
            hint="correct deidentification.profile in the agreement",
        ) from None
