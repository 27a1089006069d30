"""Agreement, site and data of privacy unit user, at the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulations.local_consortium import ConsortiumPlan, LocalConsortium, make_consortium

Shell = Callable[..., Any]


@pytest.fixture(scope="module")
def plan_of_users(tmp_path_factory: pytest.TempPathFactory, plan: ConsortiumPlan) -> ConsortiumPlan:
    data = tmp_path_factory.mktemp("keyed")
    for site, path in plan.sites.items():
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        keyed = [f"{header},who", *(f"{row},client-{number // 3}" for number, row in enumerate(rows))]
        (data / f"{site}.csv").write_text("\n".join([*keyed, ""]), encoding="utf-8")
    return replace(
        plan, sites={site: data / f"{site}.csv" for site in plan.sites}, key_column="who", max_records_per_user=2
    )


@pytest.fixture(scope="module")
def made_of_users(tmp_path_factory: pytest.TempPathFactory, plan_of_users: ConsortiumPlan) -> LocalConsortium:
    return make_consortium(tmp_path_factory.mktemp("made-of-users"), plan_of_users)


def init(made: LocalConsortium, plan: ConsortiumPlan, home: Path, *more: str) -> list[object]:
    pki = made.folder / "issued" / "alpha"
    where = ["--home", home, "--pki", pki, "--agreement", made.agreement, "--coordinator", "localhost:9400"]
    return ["site", "init", *where, "--data", plan.sites["alpha"], "--base-model", plan.base_model, *more]


def test_a_site_of_users_is_made_with_its_key_column_and_serves(
    tacit: Shell, made_of_users: LocalConsortium, plan_of_users: ConsortiumPlan, tmp_path: Path
) -> None:
    home = tmp_path / "new"
    without = tacit(*init(made_of_users, plan_of_users, home))
    without.fails(2, "the agreement protects users, and no key column was named", "--key-column")
    assert not home.exists()
    assert tacit(*init(made_of_users, plan_of_users, home, "--key-column", "who")).code == 0
    assert 'key_column = "who"' in (home / "site.toml").read_text()
    answer = tacit("site", "serve", "--check", "--home", home)
    assert answer.code == 0, answer.err
    assert "60 records of 20 users read" in answer.out
    assert "client-" not in answer.out + (home / "logs" / "agent.jsonl").read_text()


def test_a_key_column_of_a_site_by_record_is_refused_before_anything_is_made(
    tacit: Shell, made: LocalConsortium, plan: ConsortiumPlan, tmp_path: Path
) -> None:
    answer = tacit(*init(made, plan, tmp_path / "new", "--key-column", "label"))
    answer.fails(2, "the key column 'label' was named, and the agreement protects each record")
    assert not (tmp_path / "new").exists()


def test_a_site_of_users_whose_data_have_no_such_column_or_an_empty_key(
    tacit: Shell, made_of_users: LocalConsortium, plan_of_users: ConsortiumPlan, tmp_path: Path
) -> None:
    home = tmp_path / "new"
    told = ("no column 'customer'", "'text', 'label', 'who'")
    tacit(*init(made_of_users, plan_of_users, home, "--key-column", "customer")).fails(2, *told)
    assert not home.exists()
    assert tacit(*init(made_of_users, plan_of_users, home, "--key-column", "who")).code == 0
    settings = (home / "site.toml").read_text()
    (home / "site.toml").write_text(settings.replace('"who"', '"customer"'))
    tacit("site", "serve", "--check", "--home", home).fails(2, *told)
    holed = tmp_path / "holed.csv"
    holed.write_text(plan_of_users.sites["alpha"].read_text().replace("client-1\n", "\n", 1))
    (home / "site.toml").write_text(settings.replace(str(plan_of_users.sites["alpha"]), str(holed)))
    tacit("site", "serve", "--check", "--home", home).fails(2, "row 4 (line 5): the key column 'who' is empty")


def test_the_signers_read_what_a_user_is(tacit: Shell, made_of_users: LocalConsortium, made: LocalConsortium) -> None:
    page = " ".join(tacit("agreement", "show", made_of_users.agreement).out.split())
    assert "How a user is protected" in page
    assert "adding or removing one user changes" in page
    assert "a step takes at most 2 of them" in page
    assert "60 users a site" in page
    assert "a user" not in " ".join(tacit("agreement", "show", made.agreement).out.split())


def test_a_file_is_split_so_that_a_user_stays_whole(
    tacit: Shell, plan_of_users: ConsortiumPlan, tmp_path: Path
) -> None:
    source, out = plan_of_users.sites["alpha"], tmp_path / "out"
    answer = tacit(
        "data", "split", source, "--site", "x", "--site", "y", "--alpha", "5", "--key-column", "who", "--out", out
    )
    assert answer.code == 0, answer.err
    users = [{line.rpartition(",")[2] for line in (out / f"{site}.csv").read_text().splitlines()[1:]} for site in "xy"]
    assert len(users[0]) + len(users[1]) == len(users[0] | users[1]) == 20
