"""Emails, IP addresses, IBANs, SSNs and Chinese numbers: what is found, and what is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from privacy.deidentify.identifiers import (
    find_cn_resident_ids,
    find_cn_usccs,
    find_emails,
    find_ibans,
    find_ip_addresses,
    find_us_ssns,
)

Find = Callable[[str], Iterator[tuple[int, int]]]


def found(find: Find, text: str) -> list[str]:
    return [text[start:end] for start, end in find(text)]


def found_in_contexts(find: Find, identifier: str) -> None:
    for before, after in [
        ("", ""),
        ("it is ", "."),
        ("(", ")"),
        ("号码是", "，谢谢"),
        ("a: ", "\nnext"),
        ("<", ">"),
        ("eins\t", "; zwei"),
    ]:
        assert found(find, before + identifier + after) == [identifier], (before, identifier, after)


# RFC 5322 section 3.4.1, RFC 6531, and the forms of RFC 3696 (with its errata 1690)
@pytest.mark.parametrize(
    "address",
    [
        "simple@example.com",
        "very.common@example.com",
        "disposable.style.email.with+symbol@example.com",
        "other.email-with-hyphen@example.co.uk",
        "x@example.com",
        "user.name+tag+sorting@example.com",
        "example-indeed@strange-example.com",
        "mailhost!username@example.org",
        "user%example.com@example.org",
        "o'brien@example.ie",
        '"john..doe"@example.org',
        '"much more unusual"@example.com',
        "postmaster@[123.123.123.123]",
        "postmaster@[IPv6:2001:db8::1]",
        "_test@[IPv6:2001:0db8:85a3:0000:0000:8a2e:0370:7334]",
        "dörte@sörensen.example.com",
        "коля@пример.рф",
        "user@xn--mnchen-3ya.example.xn--p1ai",
        "JOHN.SMITH@EXAMPLE.COM",
    ],
)
def test_emails_are_found(address: str) -> None:
    found_in_contexts(find_emails, address)


def test_an_email_in_a_text_without_blanks_does_not_swallow_the_text() -> None:
    assert found(find_emails, "请联系zhang@example.com谢谢") == ["zhang@example.com"]
    assert found(find_emails, "mailto:a.b@example.com?subject=x") == ["a.b@example.com"]
    assert found(find_emails, "...a@example.com, 'b@example.com'") == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    "text", ["no at sign", "@handle", "meet @ noon", "a@b", "user@localhost", "3 @ 4.50", "@example.com", "a@.com"]
)
def test_what_is_no_email_is_left_alone(text: str) -> None:
    assert found(find_emails, text) == []


# RFC 4291 section 2.2, RFC 5952, RFC 5737 and RFC 3849 (documentation addresses)
@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "198.51.100.255",
        "0.0.0.0",
        "255.255.255.255",
        "10.01.002.003",
        "2001:db8:0:0:8:800:200c:417a",
        "2001:DB8::8:800:200C:417A",
        "2001:db8::1",
        "fe80::1ff:fe23:4567:890a",
        "::1",
        "2001:db8:1::",
        "::ffff:129.144.52.38",
        "::13.1.68.3",
    ],
)
def test_ip_addresses_are_found(address: str) -> None:
    found_in_contexts(find_ip_addresses, address)


def test_ip_addresses_with_port_or_prefix_length() -> None:
    assert found(find_ip_addresses, "192.0.2.1:8080 192.0.2.0/24 [2001:db8::1]:443") == [
        "192.0.2.1",
        "192.0.2.0",
        "2001:db8::1",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "256.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "v1.2.3.4",
        "12:30:45",
        "at 10:20",
        "std::vector",
        "dead::beef",
        "00:1a:2b:3c:4d:5e",
        "1:2:3:4:5:6:7:8:9",
        "2001:db8::1::2",
        "12345::1",
    ],
)
def test_what_is_no_ip_address_is_left_alone(text: str) -> None:
    assert found(find_ip_addresses, text) == []


@pytest.mark.parametrize(
    "iban",
    [
        "GB29NWBK60161331926819",
        "GB29 NWBK 6016 1331 9268 19",
        "GB29-NWBK-6016-1331-9268-19",
        "gb29nwbk60161331926819",
        "DE89 3704 0044 0532 0130 00",
        "NO9386011117947",
        "MT84 MALT 0110 0001 2345 MTLC AST0 01S",
    ],
)
def test_ibans_are_found(iban: str) -> None:
    found_in_contexts(find_ibans, iban)


@pytest.mark.parametrize(
    "text",
    [
        "GB29NWBK60161331926818",  # check digits
        "GB29NWBK6016133192681",  # too short
        "GB29NWBK601613319268190",  # too long
        "XX29NWBK60161331926819",  # no such country
        "AGB29NWBK60161331926819",  # begins inside a word
        "GB29 NWBK  6016 1331 9268 19",  # two blanks
        "DE12 is a room",
    ],
)
def test_what_is_no_iban_is_left_alone(text: str) -> None:
    assert found(find_ibans, text) == []


def test_an_iban_is_found_after_a_false_start() -> None:
    assert found(find_ibans, "DE12 DE89 3704 0044 0532 0130 00") == ["DE89 3704 0044 0532 0130 00"]


# 078-05-1120 is the number printed on a sample card in 1938; 219-09-9999 on a pamphlet of the SSA in 1940.
@pytest.mark.parametrize("ssn", ["078-05-1120", "219-09-9999", "001-01-0001", "899-99-9999", "457 55 5462"])
def test_ssns_are_found(ssn: str) -> None:
    found_in_contexts(find_us_ssns, ssn)


def test_nine_bare_digits_are_an_ssn_only_when_the_text_says_so() -> None:
    assert found(find_us_ssns, "my SSN is 457555462") == ["457555462"]
    assert found(find_us_ssns, "Social Security Number: 457555462, ok") == ["457555462"]
    assert found(find_us_ssns, "order 457555462") == []
    assert found(find_us_ssns, "my SSN is 666555462") == []


# https://www.ssa.gov/employer/randomization.html: never issued
@pytest.mark.parametrize(
    "text",
    [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "999-12-3456",
        "123-00-4567",
        "123-45-0000",
        "123-45 6789",
        "1123-45-6789",
        "123-45-67890",
        "1-123-45-6789",
        "123-45-6789-1",
        "12 123 45 6789",
        "A123-45-6789",
    ],
)
def test_what_is_no_ssn_is_left_alone(text: str) -> None:
    assert found(find_us_ssns, text) == []


@pytest.mark.parametrize(
    "number",
    [
        "11010519491231002X",
        "11010519491231002x",
        "440524188001010014",
        "110105 19491231 002X",
        "110105-19491231-002X",
    ],
)
def test_resident_ids_are_found(number: str) -> None:
    found_in_contexts(find_cn_resident_ids, number)


def _with_check(digits: str) -> str:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return digits + "10X98765432"[sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11]


@pytest.mark.parametrize(
    "text",
    [
        "110105194912310021",  # check character
        _with_check("11010519491331002"),  # month 13
        _with_check("11010519490229002"),  # 29 February of a common year
        _with_check("11010521491231002"),  # a year to come
        _with_check("10010519491231002"),  # no such province
        "111010519491231002X",
        "11010519491231002X1",
    ],
)
def test_what_is_no_resident_id_is_left_alone(text: str) -> None:
    assert found(find_cn_resident_ids, text) == []


def test_a_birthday_on_29_february_of_a_leap_year_is_one() -> None:
    number = _with_check("11010520000229002")
    assert found(find_cn_resident_ids, number) == [number]


@pytest.mark.parametrize("code", ["91350100M000100Y43", "91110000600037341L", "91110000600037341l"])
def test_usccs_are_found(code: str) -> None:
    found_in_contexts(find_cn_usccs, code)


@pytest.mark.parametrize(
    "text", ["91350100M000100Y44", "9135010OM000100Y43", "A91350100M000100Y43", "91350100M000100Y433"]
)
def test_what_is_no_uscc_is_left_alone(text: str) -> None:
    assert found(find_cn_usccs, text) == []


@pytest.mark.parametrize(
    "find",
    [find_emails, find_ip_addresses, find_ibans, find_us_ssns, find_cn_resident_ids, find_cn_usccs],
    ids=lambda find: find.__name__,
)
@pytest.mark.parametrize("unit", ["a", "a.", "@", "a@", "1", "1.", "1:", "GB82", "ssn ", '"', "-", "é", "0-"])
def test_no_text_takes_quadratic_time(find: Find, unit: str) -> None:
    text = unit * (30_000 // len(unit))
    started = time.process_time()
    list(find(text))
    # Linear search takes some 0.05 s here, quadratic search takes minutes.
    assert time.process_time() - started < 4
