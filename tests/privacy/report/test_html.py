"""The page: well-formed, self-contained, everything escaped, and it says what the facts say."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from enum import Enum
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from pydantic import BaseModel

from privacy.report.build import facts_from_run
from privacy.report.facts import ReportFacts
from privacy.report.figures import epsilon_text
from privacy.report.html import render

VOID = {"meta", "br", "hr", "line", "path", "circle", "rect"}


class Outline(HTMLParser):
    """Checks nesting and collects elements, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in VOID, f"<{tag}> is not closed"
        self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture
def plain(plain_run: Any) -> ReportFacts:
    return facts_from_run(plain_run.write())


@pytest.fixture
def eventful(eventful_run: Any) -> ReportFacts:
    return facts_from_run(eventful_run.write())


def test_the_page_is_well_formed_and_the_same_every_time(eventful: ReportFacts) -> None:
    page = render(eventful)
    Outline(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert render(eventful) == page


def test_the_page_needs_no_network_and_no_script(eventful: ReportFacts) -> None:
    page = render(eventful)
    outline = Outline(page)
    assert {tag for tag, _ in outline.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "form", "a"})
    for _, attributes in outline.elements:
        assert not any(name.startswith("on") or name in ("src", "href", "action") for name in attributes)
    assert not re.search(r"https?://|url\(|@import|//[a-z]", page)
    policies = [attributes for tag, attributes in outline.elements if tag == "meta" and "http-equiv" in attributes]
    assert [str(policy["content"]).split(";")[0] for policy in policies] == ["default-src 'none'"]


def test_the_page_is_made_for_everybody(eventful: ReportFacts) -> None:
    page = render(eventful)
    outline = Outline(page)
    for wanted in ("prefers-color-scheme: dark", "@media print", "max-width: 36rem"):
        assert wanted in page
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in outline.elements:
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
        for reference in str(attributes.get("aria-labelledby") or "").split():
            assert reference in ids
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    headings = [tag for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert headings.count("h1") == 1
    assert all(int(after[1]) - int(before[1]) <= 1 for before, after in pairwise(headings))
    tables = sum(tag == "table" for tag, _ in outline.elements)
    assert tables == sum(tag == "caption" for tag, _ in outline.elements) >= 8


def test_the_page_says_what_the_facts_say(plain: ReportFacts) -> None:
    text = Outline(render(plain)).text
    worst = epsilon_text(max(site.epsilon_run for site in plain.sites))
    for wanted in (
        "intents-spring",
        "completed",
        f"ε {worst}",
        "of 8",
        "δ = 10⁻⁵",
        "The accountants agree.",
        "The coordinator with c colluding sites",
        "The public",
        plain.adversaries[0].assumptions.split(". ")[0],
        "None: every site took part in every step",
        plain.agreement.digest,
        plain.sites[0].tree_head.root if plain.sites[0].tree_head else "",
        "2²⁴ steps a unit",
        "3.05 MB",
        *plain.trust.out_of_scope,
        *(item.content for item in plain.egress),
        *plain.parameters.versions,
    ):
        assert wanted in text, wanted
    assert "No privacy is claimed" not in text
    assert "What to notice" not in text


def test_the_page_names_the_options_of_training_that_were_on(plain: ReportFacts) -> None:
    options = {
        "schedule": "cosine",
        "warmup_steps": 7,
        "adam": {"beta1": 0.85},
        "clipping": "per-layer",
        "layer_weights": [{"layer": "<classifier>", "weight": 2.5}],
        "adaptive_clipping": {"count_noise_stddev": 12.5, "min_l2_clip_norm": 0.125, "max_l2_clip_norm": 3.5},
    }
    training = type(plain.parameters.training).model_validate(plain.parameters.training.model_dump() | options)
    changed = plain.model_copy(update={"parameters": plain.parameters.model_copy(update={"training": training})})
    text, without = Outline(render(changed)).text, Outline(render(plain)).text
    for wanted in ("cosine, 7 steps", "beta 0.85 and 0.999", "<classifier> 2.5", "from 0.125 to 3.5", "12.5 records"):
        assert wanted in text, wanted
        assert wanted not in without, wanted


def test_faults_are_shown(eventful: ReportFacts) -> None:
    text = Outline(render(eventful)).text
    for wanted in (
        "What to notice",
        "gamma was lost in phase upload; 1 of 3 sites left, 2 are needed.",
        "policy: accept_runs is false in this site's policy.",
        "1 burnt step, 1 dropout, 1 refusal",
        "Cost nothing.",
    ):
        assert wanted in text, wanted


def test_a_testing_run_is_loud_about_it(new_run: Callable[..., Any]) -> None:
    run = new_run(rounds=1, testing=True).submit()
    run.round(1, 1, 0.5)
    run.finished()
    page = render(facts_from_run(run.write()))
    text = Outline(page).text
    assert "No privacy is claimed for this run." in text
    assert text.index("No privacy is claimed") < text.index("Privacy spent, worst site")
    assert text.count("none claimed") == 4
    assert 'role="alert"' in page
    assert "Whether or not any one record" not in text


def test_disagreement_is_loud_about_it(plain: ReportFacts) -> None:
    assert plain.second_opinion is not None
    opinion = plain.second_opinion.model_copy(update={"agrees": False})
    assert "THE ACCOUNTANTS DISAGREE." in Outline(render(plain.model_copy(update={"second_opinion": opinion}))).text


def test_a_run_that_never_began_has_a_page(new_run: Callable[..., Any]) -> None:
    run = new_run().submit()
    run.finished("stopped")
    text = Outline(render(facts_from_run(run.write()))).text
    assert "Nothing was spent, so there is nothing for a second accountant to confirm." in text
    assert "not measured" in text


HOSTILE = "</td><script>alert('\"&')</script>\u202e\x1b[31m"


def _poisoned(value: Any) -> Any:
    """The same facts with something nasty in every string that is not pinned by a pattern or a fixed choice."""
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key + HOSTILE: _poisoned(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_poisoned(item) for item in value)
    if isinstance(value, BaseModel):
        return value.model_construct(**{name: _poisoned(getattr(value, name)) for name in type(value).model_fields})
    return value


def test_every_string_is_escaped(eventful: ReportFacts) -> None:
    poisoned = _poisoned(eventful)
    page = render(poisoned)
    outline = Outline(page)
    assert "script" not in {tag for tag, _ in outline.elements}
    assert "<script" not in page
    assert not re.search("[\u202e\x1b]", page)
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x1b", "\ufffd")
    assert outline.text.count(shown) > 100
    assert html.escape(shown, quote=True) in page


def test_the_program_for_auditors_gives_the_second_accountants_figure(plain: ReportFacts) -> None:
    from opacus.accountants import PRVAccountant

    code = next(
        html.unescape(block) for block in re.findall(r"<code>(.*?)</code>", render(plain), re.S) if "opacus" in block
    )
    printed: list[float] = []
    exec(code, {"print": printed.append})  # the program is the report's own text
    assert PRVAccountant is not None
    assert plain.second_opinion is not None
    assert printed[0] == pytest.approx(plain.second_opinion.prv, abs=0.02)
