"""Check digits against published numbers, a naive second implementation, and every one-digit error."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.deidentify.checksums import passes_luhn, passes_mod_11_2, passes_mod_31, passes_mod_97
from privacy.deidentify.identifiers import IBAN_LENGTHS

#: test numbers published by Visa, Mastercard, American Express, Discover, Diners Club, JCB, UnionPay, Maestro
#: (PayPal, Stripe and Adyen developer documentation)
CARDS = """
    4111111111111111 4012888888881881 4222222222222 4917610000000000003 5555555555554444 5105105105105100
    2223003122003222 378282246310005 371449635398431 6011111111111117 6011000990139424 30569309025904
    38520000023237 3530111333300000 3566002020360505 6200000000000005 6250941006528599 6759649826438453
    2200000000000004 9792030394440796
""".split()  # noqa: SIM905

#: the IBAN registry's examples (SWIFT, ISO 13616)
IBANS = """
    AD1200012030200359100100 AE070331234567890123456 AL47212110090000000235698741 AT611904300234573201
    AZ21NABZ00000000137010001944 BA391290079401028494 BE68539007547034 BG80BNBG96611020345678
    BH67BMAG00001299123456 BR1800360305000010009795493C1 BY13NBRB3600900000002Z00AB00 CH9300762011623852957
    CR05015202001026284066 CY17002001280000001200527600 CZ6508000000192000145399 DE89370400440532013000
    DK5000400440116243 DO28BAGR00000001212453611324 EE382200221020145685 ES9121000418450200051332
    FI2112345600000785 FO6264600001631634 FR1420041010050500013M02606 GB29NWBK60161331926819
    GE29NB0000000101904917 GI75NWBK000000007099453 GL8964710001000206 GR1601101250000000012300695
    GT82TRAJ01020000001210029690 HR1210010051863000160 HU42117730161111101800000000 IE29AIBK93115212345678
    IL620108000000099999999 IQ98NBIQ850123456789012 IS140159260076545510730339 IT60X0542811101000000123456
    JO94CBJO0010000000000131000302 KW81CBKU0000000000001234560101 KZ86125KZT5004100100
    LB62099900000001001901229114 LC55HEMM000100010012001200023015 LI21088100002324013AA LT121000011101001000
    LU280019400644750000 LV80BANK0000435195001 MC5811222000010123456789030 MD24AG000225100013104168
    ME25505000012345678951 MK07250120000058984 MR1300020001010000123456753 MT84MALT011000012345MTLCAST001S
    MU17BOMM0101101030300200000MUR NL91ABNA0417164300 NO9386011117947 PK36SCBL0000001123456702
    PL61109010140000071219812874 PS92PALS000000000400123456702 PT50000201231234567890154
    QA58DOHB00001234567890ABCDEFG RO49AAAA1B31007593840000 RS35260005601001611379 SA0380000000608010167519
    SC18SSCB11010000000000001497USD SE4550000000058398257466 SI56263300012039086 SK3112000000198742637541
    SM86U0322509800000000270100 ST68000100010051845310112 SV62CENR00000000000000700025
    TL380080012345678910157 TN5910006035183598478831 TR330006100519786457841326
    UA213223130000026007233566001 VA59001123000012345678 VG96VPVG0000012345678901 XK051212012345678906
""".split()  # noqa: SIM905

#: the two examples of GB 11643-1999
RESIDENT_IDS = ["11010519491231002X", "440524188001010014"]

#: the example of GB 32100-2015, and two companies' published codes
USCCS = ["91350100M000100Y43", "91110000600037341L", "91320621MA1MRHG205"]


def naive_luhn(digits: str) -> bool:
    """By the text of ISO/IEC 7812-1: double every second digit from the right, add the digits of the results."""
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(digits[::-1])]
    return sum(int(d) for number in doubled for d in str(number)) % 10 == 0


def naive_mod_97(iban: str) -> bool:
    """Character by character, as one divides by hand."""
    remainder = 0
    for character in iban[4:] + iban[:4]:
        for digit in str(string.digits.find(character) if character.isdigit() else ord(character) - 55):
            remainder = (remainder * 10 + int(digit)) % 97
    return remainder == 1


def naive_mod_11_2(number: str) -> bool:
    """ISO/IEC 7064 pure system, recursive method."""
    product = 0
    for digit in number[:17]:
        product = (product + int(digit)) * 2 % 11
    return (product + "0123456789X".index(number[17])) % 11 == 1


def naive_mod_31(code: str) -> bool:
    """GB 32100-2015: sum of value times 3^(i-1), the check value completes it to a multiple of 31."""
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    return sum(alphabet.index(c) * 3**i for i, c in enumerate(code[:17])) % 31 == -alphabet.index(code[17]) % 31


def one_character_errors(number: str, alphabet: str) -> list[str]:
    return [
        number[:i] + other + number[i + 1 :]
        for i, character in enumerate(number)
        for other in alphabet
        if other != character
    ]


@pytest.mark.parametrize("number", CARDS)
def test_luhn_accepts_published_cards_and_no_one_digit_error(number: str) -> None:
    assert passes_luhn(number)
    assert not any(passes_luhn(wrong) for wrong in one_character_errors(number, string.digits))


@pytest.mark.parametrize("iban", IBANS)
def test_mod_97_accepts_the_registry_and_no_one_digit_error(iban: str) -> None:
    assert len(iban) == IBAN_LENGTHS[iban[:2]]
    assert passes_mod_97(iban)
    # a digit in place of a letter shifts all before it, so only errors in digits are sure to be caught
    wrong = [
        iban[:i] + other + iban[i + 1 :]
        for i, character in enumerate(iban)
        for other in string.digits
        if character.isdigit() and other != character
    ]
    assert not any(map(passes_mod_97, wrong))


@pytest.mark.parametrize("number", RESIDENT_IDS)
def test_mod_11_2_accepts_the_standard_and_no_one_digit_error(number: str) -> None:
    assert passes_mod_11_2(number)
    wrong = [number[:17] + check for check in "0123456789X" if check != number[17]]
    wrong += [error + number[17] for error in one_character_errors(number[:17], string.digits)]
    assert not any(map(passes_mod_11_2, wrong))


@pytest.mark.parametrize("code", USCCS)
def test_mod_31_accepts_published_codes_and_no_one_character_error(code: str) -> None:
    assert passes_mod_31(code)
    assert not any(map(passes_mod_31, one_character_errors(code, "0123456789ABCDEFGHJKLMNPQRTUWXY")))


def test_mod_31_refuses_letters_that_are_not_used() -> None:
    assert not any(passes_mod_31("9111000060003734" + letter + "L") for letter in "IOSVZ")


@given(st.text(string.digits, min_size=12, max_size=19))
def test_luhn_agrees_with_the_naive_one(digits: str) -> None:
    assert passes_luhn(digits) == naive_luhn(digits)
    assert sum(passes_luhn(digits[:-1] + check) for check in string.digits) == 1


@given(st.text(string.digits + string.ascii_uppercase, min_size=15, max_size=34))
def test_mod_97_agrees_with_the_naive_one(iban: str) -> None:
    assert passes_mod_97(iban) == naive_mod_97(iban)


@given(st.text(string.digits, min_size=17, max_size=17))
def test_mod_11_2_agrees_with_the_naive_one(digits: str) -> None:
    accepted = [check for check in "0123456789X" if passes_mod_11_2(digits + check)]
    assert accepted == [check for check in "0123456789X" if naive_mod_11_2(digits + check)]
    assert len(accepted) == 1


@given(st.text("0123456789ABCDEFGHJKLMNPQRTUWXY", min_size=17, max_size=17))
def test_mod_31_agrees_with_the_naive_one(body: str) -> None:
    alphabet = "0123456789ABCDEFGHJKLMNPQRTUWXY"
    accepted = [check for check in alphabet if passes_mod_31(body + check)]
    assert accepted == [check for check in alphabet if naive_mod_31(body + check)]
    assert len(accepted) == 1
