"""Payment cards and phone numbers: what is found, and what is left alone."""

from __future__ import annotations

import time

import pytest

from privacy.deidentify.numbers import find_cards, find_phones


def cards(text: str) -> list[str]:
    return [text[start:end] for start, end in find_cards(text)]


def phones(text: str) -> list[str]:
    return [text[start:end] for start, end in find_phones(text)]


# test numbers of the networks; see test_checksums.py
@pytest.mark.parametrize(
    "card",
    [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "4111 - 1111 - 1111 - 1111",
        "41111111 11111111",
        "3782 822463 10005",
        "3782-822463-10005",
        "3056 930902 5904",
        "4917 6100 0000 0000 003",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "4222222222222",
    ],
)
def test_cards_are_found(card: str) -> None:
    for before, after in [("", ""), ("card ", "."), ("(", ")"), ("卡号", "，谢谢"), ("#: ", "\n5 things")]:
        assert cards(before + card + after) == [card]


def test_a_card_is_found_among_other_numbers() -> None:
    assert cards("4111 1111 1111 1111 123") == ["4111 1111 1111 1111"]
    assert cards("12 4111 1111 1111 1111") == ["4111 1111 1111 1111"]
    assert cards("4111111111111111 12/27 123") == ["4111111111111111"]
    assert cards("41111 11111 111111") == ["41111 11111 111111"]
    assert cards("7 41111 11111 111111") == []  # part of a longer number, and not as cards are printed
    assert cards("5555555555554444 4111111111111111") == ["5555555555554444", "4111111111111111"]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "0000000000000000",  # no network
        "9999999999999995",  # no network
        "4111111111111",  # Visa of 13 digits, Luhn fails
        "41111111111116",  # Luhn, but no Visa has 14 digits
        "3411111111111110",  # American Express has 15
        "41111111111111110000",  # 20 digits
        "a4111111111111111",
        "4111111111111111a",
        "4111/1111/1111/1111",
        "978-3-16-148410-0",  # ISBN-13
    ],
)
def test_what_is_no_card_is_left_alone(text: str) -> None:
    assert cards(text) == []


# ITU-T E.123 and E.164; numbers reserved for fiction by Ofcom (020 7946, 07700 900), ARCEP (01 99 00, 06 39 98),
# the Bundesnetzagentur (030 23125, 0152 28817), ACMA (02 5550) and NANPA (555-0100 to 555-0199)
@pytest.mark.parametrize(
    "phone",
    [
        "+1234567",
        "+44 20 7946 0958",
        "+44 (0)20 7946 0958",
        "+442079460958",
        "+1 415 555 0123",
        "+1-415-555-0123",
        "+1 (415) 555-0123",
        "+8613800138000",
        "+86 138 0013 8000",
        "+33 6 39 98 12 34",
        "+49 30 23125 123",
        "+91-98765-43210",
        "0044 20 7946 0958",
        "00442079460958",
        "011 44 20 7946 0958",
        "001-415-555-0123",
        "(415) 555-0123",
        "(415)555-0123",
        "415-555-0123",
        "415.555.0123",
        "415 555 0123",
        "1-800-555-0123",
        "1 (800) 555-0123",
        "415-555-0123x456",
        "415-555-0123 ext. 456",
        "020 7946 0958",
        "(020) 7946 0958",
        "07700 900123",
        "07700900123",
        "06 39 98 12 34",
        "06.39.98.12.34",
        "0639981234",
        "030/23125123",
        "0152-28817386",
        "02 5550 1234",
        "010-6552 9988",
        "13800138000",
        "138-0013-8000",
        "138 0013 8000",
        "86 138 0013 8000",
    ],
)
def test_phones_are_found(phone: str) -> None:
    for before, after in [("", ""), ("at ", "."), ("<", ">"), ("电话", "，谢谢"), ("x: ", "\nbye"), ("", ", 5 times")]:
        assert phones(before + phone + after) == [phone], (before, after)


@pytest.mark.parametrize(
    ("text", "phone"),
    [
        ("Phone: 9123 4567", "9123 4567"),
        ("Phone:\n467 3395\n", "467 3395"),
        ("my phone number is 612 345 678, thanks", "612 345 678"),
        ("call me at 98765 43210", "98765 43210"),
        ("please text 4155550123", "4155550123"),
        ("Tél. 39 98 12 34", "39 98 12 34"),
        ("Telefonnummer 23125123", "23125123"),
        ("móvil 612345678", "612345678"),
        ("座机6552 9988", "6552 9988"),
    ],
)
def test_national_numbers_are_found_after_a_word(text: str, phone: str) -> None:
    assert phones(text) == [phone]


def test_two_phones_next_to_each_other() -> None:
    assert phones("020 7946 0958 020 7946 0959") == ["020 7946 0958", "020 7946 0959"]
    assert phones("415-555-0123 / 415-555-0124") == ["415-555-0123", "415-555-0124"]


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-15 10:30:00",
        "01.02.2024 1045",
        "01/02/2024 10 45 30",
        "12-31-2024 0945",
        "1234567890",
        "order 555 0123",
        "1.234.567.890",
        "0.123456789",
        "room 12 345 678",
        "1700000000",
        "4111 1111 1111 1112",
        "123 456 7890",  # no area code begins with 1, and only blanks
        "ISBN 978-3-16-148410-0",
        "123e4567-e89b-12d3-a456-426614174000",
        "call 911",
        "+123456",
        "00123456",
        "phone 12",
        "[PHONE], 123 456 789",  # a placeholder is no word
        "A0639981234",
        "0639981234b",
        "12800138000",
        "00000000000",
    ],
)
def test_what_is_no_phone_is_left_alone(text: str) -> None:
    assert phones(text) == []


@pytest.mark.parametrize("find", [find_cards, find_phones], ids=lambda find: find.__name__)
@pytest.mark.parametrize(
    "unit", ["1", "1 ", "0", "01 ", "+1 ", "1234 ", "4111 ", "( ", "call 1 ", "12345678901 ", "- 1"]
)
def test_no_text_takes_quadratic_time(find: object, unit: str) -> None:
    text = unit * (30_000 // len(unit))
    started = time.process_time()
    list(find(text))  # type: ignore[operator]
    # Linear search takes some 0.5 s here, quadratic search takes minutes.
    assert time.process_time() - started < 6
