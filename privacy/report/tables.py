"""Sections, tables and definition lists: the blocks a page is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.report.markup import Child, Html, element, join


@dataclass(frozen=True)
class Number:
    """A cell whose digits line up with those above it."""

    value: str
    strong: bool = False
    bad: bool = False

    @property
    def style(self) -> str:
        """Its classes in the style sheet."""
        named = (("number", True), ("strong", self.strong), ("bad", self.bad))
        return " ".join(name for name, wanted in named if wanted)


Value = Child | Number


def section(title: str, *children: Child) -> Html:
    """A part of the page under a heading that names it."""
    key = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    return element("section", element("h2", title, id=key), *children, aria_labelledby=key)


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Value]],
    *,
    wide: Sequence[int] = (),
    stack: bool = False,
) -> Html:
    """A table that scrolls inside its own box where it is too wide; the first cell of a row, unless a number, heads it.

    Args:
        caption: what the table shows.
        heads: column headings.
        rows: cells.
        wide: columns of prose that must not become ribbons.
        stack: on a narrow screen, write each row's cells under each other instead of scrolling. Roles are written
            out, because a browser forgets them when the style sheet takes a table apart.
    """
    filled = [list(row) for row in rows]
    numeric = [bool(filled) and isinstance(filled[0][index], Number) for index in range(len(heads))]
    head = [
        element(
            "th",
            name,
            scope="col",
            role="columnheader" if stack else None,
            class_="number" if numeric[index] else "wide" if index in wide else None,
        )
        for index, name in enumerate(heads)
    ]
    inner = element(
        "table",
        element("caption", caption),
        element("thead", _row(head, stack), role="rowgroup" if stack else None),
        element(
            "tbody", [_row(_cells(row, heads, stack), stack) for row in filled], role="rowgroup" if stack else None
        ),
        class_="stack" if stack else None,
        role="table" if stack else None,
    )
    return element("div", inner, class_="scroll", role="region", tabindex="0", aria_label=caption)


def definitions(*pairs: tuple[str, Child]) -> Html:
    """Names and values."""
    return element("dl", [join(element("dt", name), element("dd", value)) for name, value in pairs])


def _row(cells: Sequence[Html], stack: bool) -> Html:
    return element("tr", cells, role="row" if stack else None)


def _cells(row: Sequence[Value], heads: Sequence[str], stack: bool) -> list[Html]:
    cells: list[Html] = []
    for index, (value, head) in enumerate(zip(row, heads, strict=True)):
        label = head if stack else None
        cell = "cell" if stack else None
        if isinstance(value, Number):
            cells.append(element("td", value.value, class_=value.style, role=cell, data_label=label))
        elif index == 0:
            cells.append(element("th", value, scope="row", role="rowheader" if stack else None))
        else:
            cells.append(element("td", value, role=cell, data_label=label))
    return cells
