"""YAML that can be read in one way only: plain data, no duplicate keys, no aliases, no surprises.

The files a person signs or sets limits in are YAML, and YAML 1.1 as commonly read turns ``no`` into false,
``010`` into eight, ``2026-01-01`` into a date and ``1e-5`` into a word. This reader follows the JSON schema
of YAML 1.2 (section 10.2) instead, so that what is signed is what is seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml

from tacit.errors import ConfigError, TacitError

#: A file a person reads and signs is never this long; a longer one is somebody's mistake or attack.
MAX_SIZE_BYTES: Final = 1 << 20

_INT = re.compile(r"^-?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$")


class _Loader(yaml.SafeLoader):
    """Safe loader with the resolvers of the YAML 1.2 JSON schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "an alias (*name); write the value out instead", event.start_mark
            )
        # A tag written out (`!!int 010`, `!!set`, `!!binary`) would bring back the readings the resolvers keep out.
        tagged = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(tagged, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"the tag {tagged.tag!r}", tagged.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    None, None, "a key that is not a plain word", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} a second time", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = float(self.construct_scalar(node))
        if math.isinf(value):  # 1e999, which is a number to read and none to compute with
            raise yaml.constructor.ConstructorError(None, None, f"a number too large: {node.value}", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-0123456789"))


_UNICODE_BREAKS = re.compile("[\\x85\\u2028\\u2029]")


class _Dumper(yaml.SafeDumper):
    """Writes every value out in full, and quotes whatever any YAML reader could take for another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style: str | None = None
    if _UNICODE_BREAKS.search(text):
        style = '"'  # written bare or in single quotes, readers fold these line breaks differently
    elif _INT.match(text) or _FLOAT.match(text):
        style = "'"  # YAML 1.1, whose resolvers the dumper asks, would leave "1e-5" bare
    elif "\n" in text and not re.search(r"[ \t]\n|[^\n\x20-\x7e\xa0-\ud7ff]", text):
        style = "|"  # PEM blocks and other texts of several lines stay readable
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def parse_yaml(data: bytes, *, source: str, error: type[TacitError] = ConfigError) -> Any:
    """Parse one YAML document of plain data.

    Args:
        data: UTF-8, at most :data:`MAX_SIZE_BYTES`.
        source: what the text is, for messages: usually its path.
        error: the exception raised, so that each trust edge speaks its own.

    Raises:
        error: not UTF-8, not YAML, too long, more than one document, a duplicate key, an alias or a tag.
    """
    if len(data) > MAX_SIZE_BYTES:
        raise error(f"{source} has {len(data)} bytes, expected at most {MAX_SIZE_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(
            f"{source} is not UTF-8 text (byte {failure.start})", hint="save the file as UTF-8 and try again"
        ) from failure
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise error(f"{source} is empty, expected YAML")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as failure:  # OverflowError: the escape "\\UFFFFFFFF"
        raise error(f"{source} cannot be read as YAML: {_where(failure)}", hint="correct that line") from failure
    except RecursionError as failure:
        raise error(f"{source} is nested too deeply") from failure
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path, *, error: type[TacitError] = ConfigError) -> Any:
    """Read and parse the file ``path``; see :func:`parse_yaml`.

    Raises:
        error: the file is absent or unreadable, or :func:`parse_yaml` refuses it.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SIZE_BYTES + 1)
    except OSError as failure:
        raise error(
            f"cannot read {path}: {failure.strerror}", hint="check the path and the file's permissions"
        ) from failure
    return parse_yaml(data, source=str(path), error=error)


def dump_yaml(value: Any) -> bytes:
    """Write plain data as YAML, keys in the order given; :func:`parse_yaml` reads back an equal value."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    return text.encode()


def _where(failure: Exception) -> str:
    if isinstance(failure, yaml.MarkedYAMLError) and failure.problem_mark is not None:
        mark = failure.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {failure.problem}"
    return str(failure).splitlines()[0]
