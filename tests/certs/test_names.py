"""Names and their URIs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.names import PeerName, Role, parse_uri, uri_for
from tacit.errors import InputError

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(names, st.sampled_from(Role), names)
def test_a_uri_reads_back_as_the_name_it_was_written_from(consortium: str, role: Role, name: str) -> None:
    peer = PeerName(consortium, role, name)
    assert parse_uri(str(peer)) == peer
    assert uri_for(consortium, role, name) == str(peer)


def test_the_uri_is_spelled_as_designed() -> None:
    assert uri_for("demo", "site", "alpha") == "tacit://demo/site/alpha"
    assert uri_for("demo", "coordinator", "hub") == "tacit://demo/coordinator/hub"


def test_a_role_given_as_text_becomes_a_role() -> None:
    assert PeerName("demo", "site", "alpha").role is Role.SITE  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tacit://",
        "tacit://demo/site",
        "tacit://demo/site/alpha/",
        "tacit://demo/site/alpha/beta",
        "tacit:/demo/site/alpha",
        "TACIT://demo/site/alpha",
        "https://demo/site/alpha",
        "demo/site/alpha",
        "tacit://demo/steward/alpha",
        "tacit://demo/Site/alpha",
        "tacit://demo/site/Alpha",
        "tacit://demo/site/alpha\n",
        "tacit://demo/site/",
        "tacit:///site/alpha",
        "tacit://demo/site/-alpha",
        "tacit://demo/site/../alpha",
        "tacit://demo/site/alpha?x=1",
        "tacit://demo/site/аlpha",  # a Cyrillic а
        "tacit://demo/site/" + 64 * "a",
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(InputError):
        parse_uri(uri)


@given(st.text(max_size=80))
def test_reading_any_text_gives_its_one_name_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert str(parse_uri(text)) == text


def test_a_bad_name_says_what_was_expected() -> None:
    with pytest.raises(InputError, match="'North Hospital' is not a valid name of a site") as caught:
        PeerName("demo", Role.SITE, "North Hospital")
    assert "north-hospital" in (caught.value.hint or "")
