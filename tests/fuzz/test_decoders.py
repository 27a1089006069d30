"""A few hundred mutations of valid inputs for every decoder, the same ones each time. A night of them: `make fuzz`."""

from __future__ import annotations

import pytest
import valid_inputs
from decoders import DECODERS, Decoder, TooSlow, check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import KINDS, Mutation, mutated

from privacy.secagg import messages
from privacy.secagg.frames import VERSION
from tacit.errors import MalformedMessage, TacitError

#: PyYAML is written in Python; an agreement takes it twenty milliseconds.
_FEWER = {"agreement": 120, "policy": 200}

_MUTATIONS = st.lists(
    st.builds(Mutation, st.sampled_from(KINDS), st.integers(0, 2**13 - 1), st.integers(0, 2**13 - 1)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_reads_a_valid_input(name: str) -> None:
    assert any(check(DECODERS[name], seed) for seed in DECODERS[name].seeds)


def test_mutations_start_from_every_message_of_the_protocol() -> None:
    assert {frame[1] for frame in valid_inputs.protocol_frames()} == set(messages._MESSAGES)


def test_valid_inputs_are_the_same_bytes_each_time() -> None:
    before = valid_inputs.agreements(), valid_inputs.protocol_frames()
    for made in (valid_inputs.agreements, valid_inputs.protocol_frames, valid_inputs.identity, valid_inputs.authority):
        made.cache_clear()
    assert (valid_inputs.agreements(), valid_inputs.protocol_frames()) == before


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_give_a_value_or_the_decoders_own_error(name: str) -> None:
    decoder = DECODERS[name]

    @settings(
        max_examples=_FEWER.get(name, 300),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(decoder.seeds), _MUTATIONS)
    def hold(seed: bytes, mutations: list[Mutation]) -> None:
        check(decoder, mutated(seed, mutations, decoder.seeds, decoder.tokens))

    hold()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", b"\n", b"0", b'""', b"[]", b"{}", b"[" * 3000, b"\xff\xfe\0"])
def test_small_and_odd_inputs(name: str, data: bytes) -> None:
    check(DECODERS[name], data)


# What breaks a promise must be seen.


def _broken(decode: object, *errors: type[Exception]) -> Decoder:
    return Decoder("broken", decode, (b"",), errors or (TacitError,))  # type: ignore[arg-type]


def test_another_exception_is_seen() -> None:
    with pytest.raises(KeyError):
        check(_broken(lambda data: {}[data]), b"x")


def test_a_sibling_of_the_decoders_own_error_is_seen() -> None:
    def decode(_data: bytes) -> None:
        raise MalformedMessage("not this decoder's word")

    assert not check(_broken(decode), b"x")
    with pytest.raises(MalformedMessage):
        check(_broken(decode, *DECODERS["agreement"].errors), b"x")


def test_a_hang_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoders.CPU_LIMIT_S", 0.05)

    def decode(_data: bytes) -> None:
        while True:
            try:
                sum(range(1000))
            except Exception:  # a decoder that swallows everything
                continue

    with pytest.raises(TooSlow):
        check(_broken(decode), b"x")


def test_a_format_that_writes_back_other_bytes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoders.decode", lambda data: messages.decode(bytes([VERSION]) + data[1:]))
    with pytest.raises(AssertionError, match="not canonical"):
        check(DECODERS["secagg-message"], b"\7" + valid_inputs.protocol_frames()[0][1:])


def test_every_kind_of_mutation_changes_something() -> None:
    data = b'{"a": 1, "b": [2, 3]}' * 3
    for kind in KINDS:
        changed = {
            mutated(data, [Mutation(kind, at, 5 + at)], (data[::-1],), (b"null", b"7", b"x")) for at in range(40)
        }
        assert len(changed - {data}) > 10, kind
