"""Where payment cards and phone numbers are in a text: both are runs of digit groups.

A card must have a network's prefix and length and pass Luhn's formula; one in ten other numbers of such a
form passes too. Groups must be those of a printed card, or the card must stand alone.

Phone numbers have no checksum, so form decides, and this is the least precise of the types:

- international: ``+`` or ``00`` or ``011`` before 7 to 15 digits (ITU-T E.164);
- North America: 3-3-4 digits, also behind a ``1``;
- mainland China: mobile numbers of 11 digits;
- with a trunk zero: 9 to 12 digits, as in most of Europe, Asia and Australia;
- after a word such as "phone", "call" or "手机": 7 to 15 digits in any grouping.

Order numbers that look like one of these are replaced too. Short numbers, and bare national numbers without
a zero and without such a word, are missed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from privacy.deidentify.checksums import passes_luhn
from privacy.deidentify.identifiers import Span

_RUN = re.compile(r"(?<![0-9A-Za-z_])(?:\+[ (]{0,2}|\()?[0-9]+(?:[ .()/-]{1,3}[0-9]+)*")
_GROUP = re.compile(r"[0-9]+")
_CARD_GAP = re.compile(r"[ .-]{1,3}")
_WORD_CHARACTER = re.compile(r"[0-9A-Za-z_]")

_MIN_CARD_DIGITS, _MAX_CARD_DIGITS = 12, 19
#: prefixes and lengths of ISO/IEC 7812 issuers, after the networks' published ranges
_NETWORKS = (
    (re.compile(r"4"), {13, 16, 19}),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), {16}),  # Mastercard
    (re.compile(r"3[47]"), {15}),  # American Express
    (re.compile(r"30[0-5]|3095|3[689]"), set(range(14, 20))),  # Diners Club
    (re.compile(r"35(?:2[89]|[3-8])"), set(range(16, 20))),  # JCB
    (re.compile(r"2131|1800"), {15}),  # JCB, older
    (re.compile(r"6|50|5[6-8]"), set(range(12, 20))),  # Maestro, Discover, UnionPay, RuPay, Elo, Verve
    (re.compile(r"81|82"), set(range(16, 20))),  # UnionPay, RuPay
    (re.compile(r"220[0-5]"), set(range(16, 20))),  # Mir
    (re.compile(r"9792"), {16}),  # Troy
)
_CARD_LAYOUTS = re.compile(r"(?:4 )+[1-4] |4 6 [45] |6 13 |8 8 |4 4 5 |\d+ ")

_MIN_PHONE_DIGITS, _MAX_PHONE_DIGITS = 7, 15
_EXTENSION = re.compile(r" ?(?:x|ext\.?|extension|#) ?[0-9]{1,6}(?![0-9A-Za-z_])", re.IGNORECASE)
_DATE = re.compile(
    r"(?:[0-3]?[0-9]([./-])[0-3]?[0-9]\1(?:[0-9]{4}|[0-9]{2})"
    r"|(?:19|20)[0-9]{2}([./-])[01]?[0-9]\2[0-3]?[0-9])(?![0-9])(?![./-][0-9])"
)
# Not after "[": that is the placeholder of a number already replaced.
_PHONE_NOUN = re.compile(
    r"(?<!\[)(?:\b(?:tele)?phones?\b|\btel\b|\bmobile\b|\bcell\b|\bcellphone\b|\bfax\b|\bwhatsapp\b|\bhandy\b|\btelefon|"
    r"\brufnummer\b|\bt[ée]l(?:[ée]phone)?\b|\bportable\b|\bm[óo]vil\b|\btel[ée]fono\b|\bcelular\b|"
    r"电话|電話|手机|手機|座机|传真|热线|致电|联系方式)(?:[^0-9\n]{0,24}|[ :]{0,3}\n {0,4})\(?\Z",
    re.IGNORECASE,
)
_PHONE_VERB = re.compile(
    r"(?<!\[)\b(?:call|dial|ring|text|sms|phone|reach|contact)"
    r"(?: (?:me|us|him|her|them|back|on|at|to|this)){0,3}[ :]{1,2}\(?\Z",
    re.IGNORECASE,
)
_CONTEXT_CHARACTERS = 48


@dataclass(frozen=True)
class _Run:
    """Digit groups that only separators stand between, and the spans of the groups."""

    text: str
    start: int
    plus: bool
    groups: tuple[Span, ...]

    def digits(self, first: int, last: int) -> str:
        """The digits of the groups ``first`` to ``last``, both included."""
        return "".join(self.text[start:end] for start, end in self.groups[first : last + 1])

    def sizes(self, first: int, last: int) -> str:
        """The groups' sizes, each followed by a blank: ``"4 4 4 4 "``."""
        return "".join(f"{end - start} " for start, end in self.groups[first : last + 1])

    def gaps(self, first: int, last: int) -> list[str]:
        """What stands between the groups ``first`` to ``last``."""
        return [self.text[self.groups[i][1] : self.groups[i + 1][0]] for i in range(first, last)]

    def fitting(self, first: int, max_digits: int) -> int | None:
        """The last group up to which there are at most ``max_digits`` digits; None if there is none."""
        last, total = first - 1, 0
        for position in range(first, len(self.groups)):
            total += self.groups[position][1] - self.groups[position][0]
            if total > max_digits:
                break
            last = position
        return last if last >= first else None


def find_cards(text: str) -> Iterator[Span]:
    """Payment card numbers (ISO/IEC 7812), together or in groups."""
    for run in _runs(text):
        first = 0
        while first < len(run.groups):
            last = _card_from(run, first)
            if last is None:
                first += 1
            else:
                yield run.groups[first][0], run.groups[last][1]
                first = last + 1


def find_phones(text: str) -> Iterator[Span]:
    """Phone numbers in the forms this module's description lists, with an extension if one follows."""
    for run in _runs(text):
        first = 0
        while first < len(run.groups):
            first = _after_dates(run, first)
            last = _phone_from(run, first) if first < len(run.groups) else None
            if last is None:
                first += 1
                continue
            start = run.start if first == 0 else run.groups[first][0]
            end = run.groups[last][1]
            if extension := _EXTENSION.match(text, end):
                end = extension.end()
            yield start, end
            first = last + 1


def _runs(text: str) -> Iterator[_Run]:
    for match in _RUN.finditer(text):
        groups = tuple(group.span() for group in _GROUP.finditer(text, *match.span()))
        yield _Run(text, match.start(), text[match.start()] == "+", groups)


def _card_from(run: _Run, first: int) -> int | None:
    last = run.fitting(first, _MAX_CARD_DIGITS)
    while last is not None and last >= first:
        digits = run.digits(first, last)
        if len(digits) < _MIN_CARD_DIGITS:
            return None
        alone = first == 0 and last == len(run.groups) - 1
        if (
            (alone or _CARD_LAYOUTS.fullmatch(run.sizes(first, last)))
            and all(_CARD_GAP.fullmatch(gap) for gap in run.gaps(first, last))
            and any(len(digits) in lengths and prefix.match(digits) for prefix, lengths in _NETWORKS)
            and passes_luhn(digits)
            and not _continues(run.text, run.groups[last][1])
        ):
            return last
        last -= 1
    return None


def _phone_from(run: _Run, first: int) -> int | None:
    for rule in (_international, _north_american, _chinese_mobile, _trunk_zero, _after_a_word):
        last = rule(run, first)
        if last is not None:
            end = run.groups[last][1]
            if not _continues(run.text, end) or _EXTENSION.match(run.text, end):
                return last
    return None


def _after_dates(run: _Run, first: int) -> int:
    """The first group from ``first`` on that does not belong to a date."""
    while first < len(run.groups) and (match := _DATE.match(run.text, run.groups[first][0])):
        while first < len(run.groups) and run.groups[first][1] <= match.end():
            first += 1
    return first


def _international(run: _Run, first: int) -> int | None:
    if first == 0 and run.plus:
        prefix = 0
    elif match := re.match(r"00(?=[1-9])|011(?=[1-9])", run.digits(first, min(first + 1, len(run.groups) - 1))):
        # "00" and the country code may be one group or two, but the prefix begins a group by itself
        prefix = match.end()
    else:
        return None
    last = run.fitting(first, prefix + _MAX_PHONE_DIGITS)
    if last is None or len(run.digits(first, last)) < prefix + _MIN_PHONE_DIGITS:
        return None
    return last


def _north_american(run: _Run, first: int) -> int | None:
    body = first + (run.sizes(first, first) == "1 " and run.digits(first, first) == "1")
    last = body + 2
    if last >= len(run.groups) or run.sizes(body, last) != "3 3 4 ":
        return None
    # Blanks alone also separate other numbers, so there area and exchange must be ones that are given out.
    assigned = re.match(r"[2-9][0-9]{2}[2-9]", run.digits(body, last))
    return last if assigned or set("".join(run.gaps(body, last))) & set("-.()") else None


def _chinese_mobile(run: _Run, first: int) -> int | None:
    body = first + (run.digits(first, first) == "86")
    for sizes in ("11 ", "3 4 4 ", "3 8 "):
        last = body + len(sizes.split()) - 1
        if last < len(run.groups) and run.sizes(body, last) == sizes and re.match(r"1[3-9]", run.digits(body, last)):
            return last
    return None


def _trunk_zero(run: _Run, first: int) -> int | None:
    start, end = run.groups[first]
    if not re.match(r"0[1-9]", run.text[start:end]):
        return None
    last = run.fitting(first, 11 if end - start >= 9 else 12)
    return last if last is not None and len(run.digits(first, last)) >= 9 else None


def _after_a_word(run: _Run, first: int) -> int | None:
    start = run.start if first == 0 else run.groups[first][0]
    before = run.text[max(0, start - _CONTEXT_CHARACTERS) : start]
    if not (_PHONE_NOUN.search(before) or _PHONE_VERB.search(before)):
        return None
    last = run.fitting(first, _MAX_PHONE_DIGITS)
    return last if last is not None and len(run.digits(first, last)) >= _MIN_PHONE_DIGITS else None


def _continues(text: str, end: int) -> bool:
    return end < len(text) and _WORD_CHARACTER.match(text[end]) is not None
