"""Customer-service messages with intents: what the demo trains on. Made up, seeded, and never private.

Each message is one sentence that carries the intent, dressed with greetings, small talk, asides that use *another*
intent's words, feelings, closings, careless spelling and, in a stated share of rows, an identifier of a person
that does not exist (email, phone, card number, IBAN). Sites differ in what they are asked: every site lacks one
intent, is poor in a second one, and has its own mixture of the rest.

The test set is written with other sentences and other slot values, and a hash of the normalised text decides to
which side a text may belong, so that no test text can equal a training text, whatever the seeds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulations.customer_wording import (
    CLOSINGS,
    FEELINGS,
    FIRST_NAMES,
    GREETINGS,
    IDENTIFIER_SENTENCES,
    INTENTS,
    LAST_NAMES,
    SHORTHAND,
    SLOTS,
    SMALL_TALK,
)
from tacit.durable import write_atomic
from tacit.errors import InputError

#: in the order the agreement of the demo lists them
LABELS: tuple[str, ...] = tuple(sorted(INTENTS))
DEFAULT_SITE_ROWS = 1_400
DEFAULT_TEST_ROWS = 600
#: share of rows with at least one planted identifier
IDENTIFIER_SHARE = 0.30
#: share of the test rows whose intent is put in a sentence no site has; the others say a site's sentence with
#: slot values no site has
HELD_OUT_SHARE = 0.5

_SECOND_IDENTIFIER_SHARE = 0.15
_ASIDE_SHARE = 0.12
_TYPO_SHARE = 0.14
_SHORTHAND_SHARE = 0.12
_SKEW_ALPHA = 6.0
_POOR = 0.1
_RICH = 1.6
_TEST_HASH_PARTS = 4


@dataclass(frozen=True)
class Row:
    """One message. ``identifiers`` lists what was planted, as (kind, text); it is not written to files."""

    text: str
    label: str
    identifiers: tuple[tuple[str, str], ...] = ()


def generate_site(site_index: int, rows: int = DEFAULT_SITE_ROWS, seed: int = 0) -> list[Row]:
    """Return ``rows`` distinct messages of site ``site_index`` (from 0), in random order.

    The intents the sites are poor in rotate, so that three or more sites together know every intent.
    """
    _check_rows(rows)
    if site_index < 0:
        raise InputError(f"asked for site {site_index}, expected 0 or more", hint="sites are counted from 0")
    rng = random.Random(f"tacit/customer-messages/{seed}/site/{site_index}")  # noqa: S311 - data, not privacy
    weights = site_weights(site_index, seed)
    labels = rng.choices(LABELS, weights=[weights[label] for label in LABELS], k=rows)
    return _messages(rng, labels, held_out=False)


def generate_test(rows: int = DEFAULT_TEST_ROWS, seed: int = 0) -> list[Row]:
    """Return ``rows`` distinct messages, balanced over the intents (counts differ by one at most)."""
    _check_rows(rows)
    rng = random.Random(f"tacit/customer-messages/{seed}/test")  # noqa: S311 - data, not privacy
    labels = [LABELS[index % len(LABELS)] for index in range(rows)]
    rng.shuffle(labels)
    return _messages(rng, labels, held_out=True)


def site_weights(site_index: int, seed: int = 0) -> dict[str, float]:
    """Return the share of each intent at a site: one is 0, one is small, the rest follow a Dirichlet draw."""
    order = list(LABELS)
    random.Random(f"tacit/customer-messages/{seed}/skew").shuffle(order)  # noqa: S311 - data, not privacy
    rng = random.Random(f"tacit/customer-messages/{seed}/skew/{site_index}")  # noqa: S311 - data, not privacy
    weights = {label: rng.gammavariate(_SKEW_ALPHA, 1.0) for label in LABELS}
    # what one site lacks its two neighbours in the rotation have more of
    for offset, factor in ((-2, _RICH), (-1, _RICH), (0, 0.0), (1, _POOR), (2, _RICH), (3, _RICH)):
        weights[order[(2 * site_index + offset) % len(order)]] *= factor
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write ``rows`` as UTF-8 CSV with the columns ``text`` and ``label``; the file appears whole or not at all."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("text", "label"))
    writer.writerows((row.text, row.label) for row in rows)
    write_atomic(path, buffer.getvalue().encode())


def belongs_to_test(text: str) -> bool:
    """Say to which side a text belongs: a quarter of all texts may only be test texts, the rest only training texts."""
    letters = re.sub(r"[^a-z0-9]", "", text.casefold())
    return hashlib.sha256(letters.encode()).digest()[0] % _TEST_HASH_PARTS == 0


def _check_rows(rows: int) -> None:
    if not 1 <= rows <= 1_000_000:
        raise InputError(f"asked for {rows} rows, expected 1 to 1,000,000", hint="choose a number in that range")


def _messages(rng: random.Random, labels: Sequence[str], *, held_out: bool) -> list[Row]:
    seen: set[str] = set()
    result = []
    for label in labels:
        while True:
            row = _message(rng, label, held_out=held_out)
            if row.text not in seen and belongs_to_test(row.text) == held_out:
                break
        seen.add(row.text)
        result.append(row)
    return result


def _message(rng: random.Random, label: str, *, held_out: bool) -> Row:
    wording = INTENTS[label]
    new_sentence = held_out and rng.random() < HELD_OUT_SHARE
    core = rng.choice(wording.held_out if new_sentence else wording.sites)
    before: list[str] = []
    after: list[str] = []
    if rng.random() < 0.25:
        before.append(rng.choice(SMALL_TALK))
    if rng.random() < _ASIDE_SHARE:
        other = INTENTS[rng.choice([name for name in LABELS if name != label])]
        aside = rng.choice(other.held_out_asides if new_sentence else other.asides)
        (before if rng.random() < 0.4 else after).append(aside)
    if rng.random() < 0.2:
        after.append(rng.choice(FEELINGS))
    closing = rng.choice(CLOSINGS) if rng.random() < 0.35 else ""
    greeting = rng.choice(GREETINGS) if rng.random() < 0.35 else ""

    sentences = [_fill(rng, sentence, held_out=held_out) for sentence in (*before, core, *after)]
    text = _join(rng, sentences)
    if greeting:
        text = _capital(greeting) + rng.choice((", ", "! ", " - ", "\n")) + text
    if closing:
        text += " " + _capital(_fill(rng, closing, held_out=held_out)) + rng.choice(("", ".", "!"))
    return _with_identifiers(rng, _careless(rng, text), label)


def _fill(rng: random.Random, template: str, *, held_out: bool) -> str:
    """Expand choices innermost first, then slots."""
    while "{" in template:
        template = re.sub(r"\{([^{}]*)\}", lambda match: rng.choice(match.group(1).split("|")), template)

    def value(match: re.Match[str]) -> str:
        if match.group(1) == "name":
            return (
                f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}" if rng.random() < 0.5 else rng.choice(FIRST_NAMES)
            )
        return rng.choice(SLOTS[match.group(1)][held_out])

    filled = re.sub(r"<(\w+)>", value, template)
    return re.sub(r"\s+([,.])", r"\1", re.sub(r" {2,}", " ", filled)).strip()


def _join(rng: random.Random, sentences: Sequence[str]) -> str:
    """Write sentences one after the other, or joined by a connective, with the end marks people use."""
    if len(sentences) == 2 and rng.random() < 0.3:
        joined = sentences[0] + rng.choice((", ", " - ", "; ", " and ", ". By the way, ", "... ")) + sentences[1]
        return _capital(joined) + rng.choice((".", "", "!"))
    return " ".join(_capital(sentence) + _end_mark(rng, sentence) for sentence in sentences)


def _end_mark(rng: random.Random, sentence: str) -> str:
    question = re.match(r"(how|when|where|who|which|what|why|is|has|was|can|could|may|did|do|any)\b", sentence)
    if question:
        return rng.choice(("?", "?", "?", "??", ""))
    return rng.choice((".", ".", ".", "!", "", "..."))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _careless(rng: random.Random, text: str) -> str:
    """Shorthand, typing errors and casing, each on its own share of the rows."""
    if rng.random() < _SHORTHAND_SHARE:
        for word, short in SHORTHAND.items():
            if rng.random() < 0.6:
                text = re.sub(rf"\b{re.escape(word)}\b", short, text, flags=re.IGNORECASE)
    if rng.random() < _TYPO_SHARE:
        for _ in range(rng.randint(1, 2)):
            text = _typo(rng, text)
    style = rng.random()
    if style < 0.25:
        text = text.lower()
    elif style < 0.28:
        text = text.upper()
    if rng.random() < 0.1:
        text = re.sub(r"[.,!?;]", "", text)
    return text


def _typo(rng: random.Random, text: str) -> str:
    """Swap, drop or double one letter inside a word of four letters or more."""
    words = list(re.finditer(r"[A-Za-z]{4,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind == 1:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at] + text[at:]


def _with_identifiers(rng: random.Random, text: str, label: str) -> Row:
    """Append planted identifiers last, so that no typo spoils a check digit."""
    planted: list[tuple[str, str]] = []
    if rng.random() < IDENTIFIER_SHARE:
        kinds = rng.sample(sorted(_IDENTIFIERS), 2 if rng.random() < _SECOND_IDENTIFIER_SHARE else 1)
        for kind in kinds:
            identifier = _IDENTIFIERS[kind](rng)
            sentence = rng.choice(IDENTIFIER_SENTENCES[kind]).replace("%", identifier)
            text = text.rstrip() + rng.choice((" ", ", ", "\n", " - ")) + sentence
            planted.append((kind, identifier))
    return Row(text=text, label=label, identifiers=tuple(planted))


def _email(rng: random.Random) -> str:
    """Domains reserved for documentation (RFC 2606)."""
    first, last = rng.choice(FIRST_NAMES).lower(), rng.choice(LAST_NAMES).lower()
    local = rng.choice((f"{first}.{last}", f"{first}{rng.randint(1, 99)}", f"{first[0]}_{last}", f"{last}+{first}"))
    return f"{local}@{rng.choice(('example.com', 'example.org', 'mail.example.net'))}"


def _phone(rng: random.Random) -> str:
    """Number ranges that regulators keep for fiction (Ofcom, ARCEP, NANPA)."""
    three, two, other = f"{rng.randrange(1000):03d}", f"{rng.randrange(100):02d}", f"{rng.randrange(100):02d}"
    return rng.choice(
        (
            f"+44 7700 900{three}",
            f"07700 900{three}",
            f"+33 6 39 98 {two} {other}",
            f"+1 ({rng.randint(201, 989)}) 555-01{two}",
            f"+1-{rng.randint(201, 989)}-555-01{two}",
        )
    )


def _card(rng: random.Random) -> str:
    """Test-range prefixes with a valid Luhn check digit (ISO/IEC 7812-1, annex B)."""
    digits = rng.choice(("400000", "424242", "555555", "520082")) + f"{rng.randrange(10**9):09d}"
    number = digits + luhn_check_digit(digits)
    separator = rng.choice((" ", "-", ""))
    return separator.join(number[at : at + 4] for at in range(0, 16, 4))


def _iban(rng: random.Random) -> str:
    """Valid length and mod-97 check digits (ISO 13616)."""
    country, letters, digit_count = rng.choice((("DE", "", 18), ("NL", "TEST", 10), ("GB", "TEST", 14), ("ES", "", 20)))
    account = letters + "".join(str(rng.randrange(10)) for _ in range(digit_count))
    iban = country + iban_check_digits(country, account) + account
    return " ".join(iban[at : at + 4] for at in range(0, len(iban), 4)) if rng.random() < 0.6 else iban


def luhn_check_digit(digits: str) -> str:
    """Return the digit that makes ``digits`` plus it pass the Luhn test."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character) * (2 if position % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def iban_check_digits(country: str, account: str) -> str:
    """Return the two check digits of an IBAN (ISO 7064, MOD 97-10)."""
    number = "".join(str(int(character, 36)) for character in account + country + "00")
    return f"{98 - int(number) % 97:02d}"


_IDENTIFIERS: dict[str, Callable[[random.Random], str]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
}
