"""HTML by construction: text is escaped, only :class:`Html` is not, and only this module makes :class:`Html`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_VOID = frozenset({"meta", "br", "hr", "line", "path", "circle", "rect"})
#: control characters, and characters that change the direction or are not seen
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


class Html(str):
    """Text that is markup already. Made by :func:`element` and :func:`join`, never from data."""

    __slots__ = ()


Child = str | Html | None


def text(value: str) -> Html:
    """Escape ``value``; characters that cannot be seen are shown as U+FFFD."""
    return Html(html.escape(_UNSEEN.sub("\ufffd", value), quote=True))


def element(name: str, /, *children: Child | Iterable[Child], **attributes: str | float | None) -> Html:
    """Return one element.

    Args:
        name: of the element.
        children: strings are escaped; :class:`Html` is taken as it is; None is left out; iterables are flattened.
        attributes: a trailing underscore is dropped and others become hyphens (``class_``, ``aria_label``);
            None leaves the attribute out.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not an element's name")
    head = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else value
            head.append(f'{key.rstrip("_").replace("_", "-")}="{text(str(shown))}"')
    opening = " ".join(head)
    # the slash matters inside SVG, where an element without it would swallow those after it
    return Html(f"<{opening}/>" if name in _VOID else f"<{opening}>{join(*children)}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Put children one after the other."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(text(child))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def verbatim(literal: str) -> Html:
    """Take a constant of this program as markup: a style sheet. Never data."""
    return Html(literal)
