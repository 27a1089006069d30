"""The demo's data: varied, skewed, reproducible, never in the test set, with identifiers that pass their checks."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from simulations.customer_messages import (
    DEFAULT_SITE_ROWS,
    DEFAULT_TEST_ROWS,
    IDENTIFIER_SHARE,
    LABELS,
    Row,
    belongs_to_test,
    generate_site,
    generate_test,
    iban_check_digits,
    luhn_check_digit,
    site_weights,
    write_csv,
)
from simulations.customer_wording import INTENTS, SLOTS
from tacit.errors import InputError

SITES = 3


@pytest.fixture(scope="module", params=[0, 1, 2])
def sites(request: pytest.FixtureRequest) -> list[list[Row]]:
    return [generate_site(index, DEFAULT_SITE_ROWS, request.param) for index in range(SITES)]


def test_the_same_seed_gives_the_same_rows_and_another_seed_or_site_gives_others() -> None:
    assert generate_site(1, 200, seed=7) == generate_site(1, 200, seed=7)
    assert generate_test(100, seed=7) == generate_test(100, seed=7)
    assert generate_site(1, 200, seed=7) != generate_site(1, 200, seed=8)
    assert generate_site(1, 200, seed=7) != generate_site(2, 200, seed=7)


def test_pinned_rows_so_that_the_demo_data_never_change_unnoticed() -> None:
    assert [(row.text, row.label) for row in generate_site(0, 2, seed=0)] == PINNED


def test_ten_intents_and_the_asked_number_of_rows(sites: list[list[Row]]) -> None:
    assert len(LABELS) == 10
    assert [len(rows) for rows in sites] == [DEFAULT_SITE_ROWS] * SITES
    assert {row.label for rows in sites for row in rows} == set(LABELS)
    assert len(generate_test()) == DEFAULT_TEST_ROWS


def test_texts_are_distinct_within_a_site_and_nearly_all_distinct_between_sites(sites: list[list[Row]]) -> None:
    for rows in sites:
        assert len({row.text for row in rows}) == len(rows)
    everything = [row.text for rows in sites for row in rows]
    assert len(set(everything)) > 0.99 * len(everything)


@pytest.mark.parametrize("test_seed", [0, 1, 2])
def test_no_test_text_is_a_training_text_whatever_the_seeds(sites: list[list[Row]], test_seed: int) -> None:
    def letters(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.casefold())

    training = {letters(row.text) for rows in sites for row in rows}
    assert not training & {letters(row.text) for row in generate_test(600, test_seed)}


def test_the_side_a_text_belongs_to_ignores_case_and_punctuation() -> None:
    texts = [row.text for row in generate_site(0, 200)]
    assert not any(belongs_to_test(text) for text in texts)
    assert not any(belongs_to_test(text.upper() + "!?") for text in texts)
    share = sum(belongs_to_test(f"a message number {number}") for number in range(4000)) / 4000
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_held_out_wording_and_slot_values_are_not_those_of_the_sites() -> None:
    for wording in INTENTS.values():
        assert not set(wording.sites) & set(wording.held_out)
        assert not set(wording.asides) & set(wording.held_out_asides)
    for slot, (site_values, held_out) in SLOTS.items():
        assert not set(site_values) & set(held_out), slot


def test_no_template_mark_is_left_in_a_text(sites: list[list[Row]]) -> None:
    for row in [*(row for rows in sites for row in rows), *generate_test()]:
        assert not re.search(r"[{}|<>%]", row.text), row.text
        assert row.text == row.text.strip()


def test_every_site_lacks_one_intent_and_is_poor_in_another(sites: list[list[Row]]) -> None:
    for rows in sites:
        shares = sorted(Counter(row.label for row in rows).get(label, 0) / len(rows) for label in LABELS)
        assert shares[0] == 0
        assert 0 < shares[1] < 0.05
        assert shares[-1] > 0.12


def test_sites_differ_but_together_know_every_intent() -> None:
    for seed in range(10):
        weights = [site_weights(index, seed) for index in range(SITES)]
        assert all(sum(site.values()) == pytest.approx(1) for site in weights)
        for label in LABELS:
            assert sum(site[label] for site in weights) > 0.08, (seed, label)
        distances = [
            sum(abs(weights[a][label] - weights[b][label]) for label in LABELS) / 2 for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        assert min(distances) > 0.15, (seed, distances)


def test_the_test_set_is_balanced() -> None:
    counts = Counter(row.label for row in generate_test(603))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_stated_share_of_rows_carries_identifiers_of_every_kind(sites: list[list[Row]]) -> None:
    rows = [row for site in sites for row in site]
    share = sum(bool(row.identifiers) for row in rows) / len(rows)
    assert abs(share - IDENTIFIER_SHARE) < 4 * math.sqrt(IDENTIFIER_SHARE * (1 - IDENTIFIER_SHARE) / len(rows))
    kinds = Counter(kind for row in rows for kind, _ in row.identifiers)
    assert set(kinds) == {"email", "phone", "card", "iban"}
    assert min(kinds.values()) > 0.15 * sum(kinds.values())
    for row in rows:
        assert all(identifier in row.text for _, identifier in row.identifiers)


def test_planted_identifiers_pass_the_checks_of_their_standards(sites: list[list[Row]]) -> None:
    for kind, text in (pair for site in sites for row in site for pair in row.identifiers):
        if kind == "card":
            assert _luhn_by_table(re.sub(r"[ -]", "", text)), text
        elif kind == "iban":
            assert _iban_by_steps(text.replace(" ", "")), text
        elif kind == "email":
            assert re.fullmatch(r"[a-z0-9._+]+@(mail\.)?example\.(com|org|net)", text), text
        else:
            assert 10 <= len(re.sub(r"\D", "", text)) <= 12, text


def test_check_digits_of_published_examples() -> None:
    # ISO/IEC 7812-1 example 7992739871 -> 3; ISO 13616 registry examples for GB, DE and NL
    assert luhn_check_digit("7992739871") == "3"
    assert iban_check_digits("GB", "WEST12345698765432") == "82"
    assert iban_check_digits("DE", "370400440532013000") == "89"
    assert iban_check_digits("NL", "ABNA0417164300") == "91"


def test_words_are_shared_so_that_no_single_word_decides(sites: list[list[Row]]) -> None:
    """The best rule "this word means that intent" must not get far, and counting words must leave room."""
    rows = [row for site in sites for row in site]
    test = generate_test()
    assert _one_word_accuracy(rows, test) < 0.6
    assert 0.6 < _naive_bayes_accuracy(rows, test) < 0.95


def test_csv_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = generate_site(2, 300, seed=4)
    write_csv(tmp_path / "train.csv", rows)
    with (tmp_path / "train.csv").open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [(row["text"], row["label"]) for row in read] == [(row.text, row.label) for row in rows]
    assert any("\n" in row.text for row in rows)


@pytest.mark.parametrize("rows", [0, -1, 1_000_001])
def test_a_senseless_number_of_rows_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=f"asked for {rows} rows"):
        generate_site(0, rows)
    with pytest.raises(InputError, match=f"asked for {rows} rows"):
        generate_test(rows)


def test_a_negative_site_is_refused() -> None:
    with pytest.raises(InputError, match="site -1"):
        generate_site(-1, 10)


PINNED: list[tuple[str, str]] = [
    ("my desk lamp has not arrived! pls call me back", "delivery-late"),
    ("I have no idea what the $7.20 from Bluebird Books was for... Let me know.", "unknown-charge"),
]


def _luhn_by_table(number: str) -> bool:
    table = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    digits = [int(character) for character in number]
    return len(digits) == 16 and (sum(digits[-1::-2]) + sum(table[digit] for digit in digits[-2::-2])) % 10 == 0


def _iban_by_steps(iban: str) -> bool:
    remainder = 0
    for character in iban[4:] + iban[:4]:
        for digit in str(int(character, 36)):
            remainder = (10 * remainder + int(digit)) % 97
    return len(iban) == {"DE": 22, "NL": 18, "GB": 22, "ES": 24}[iban[:2]] and remainder == 1


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _one_word_accuracy(train: list[Row], test: list[Row]) -> float:
    """Each word votes for the intent it is seen with most; the purest word of a text decides."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        for word in set(_words(row.text)):
            seen[word][row.label] += 1
    rule = {
        word: (counts.most_common(1)[0][1] / counts.total(), counts.most_common(1)[0][0])
        for word, counts in seen.items()
        if counts.total() >= 100
    }
    right = 0
    for row in test:
        votes = [rule[word] for word in _words(row.text) if word in rule]
        right += bool(votes) and max(votes)[1] == row.label
    return right / len(test)


def _naive_bayes_accuracy(train: list[Row], test: list[Row]) -> float:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    prior: Counter[str] = Counter()
    for row in train:
        prior[row.label] += 1
        counts[row.label].update(_words(row.text))
    size = len({word for words in counts.values() for word in words})

    def score(label: str, words: list[str]) -> float:
        total = counts[label].total() + 0.5 * size
        return math.log(prior[label]) + sum(math.log((counts[label][word] + 0.5) / total) for word in words)

    right = sum(max(LABELS, key=lambda label: score(label, _words(row.text))) == row.label for row in test)
    return right / len(test)
