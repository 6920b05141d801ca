"""The text of a scenario file to the keys of a scenario, and the line of whatever is wrong.

A scenario file is one YAML document with the single key ``scenario``. YAML is read more strictly than it could be:
a key that is there twice is refused instead of the last one winning, dates stay text until the scenario checks them,
and aliases are refused, because a small file of them can stand for more data than fits a machine. Whoever calls this
read the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from marlin.api.errors import InputError
from marlin.simulator.scenario_file import Where, checked

MAX_BYTES: Final = 2**20
"""More text than this is no scenario; it is refused before it is parsed."""


def load_scenario(text: str, source: str) -> tuple[dict[str, Any], Where]:
    """The keys of a scenario file, checked; and where each stands, for messages about what shows later.

    Args:
        text: its content.
        source: its name, for messages; paths in it are meant from where it lies.

    Raises:
        InputError: it is not YAML, or a key or value is wrong: file, line, key, and the nearest known name.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{source}: larger than {MAX_BYTES // 2**20} MiB, which no scenario file is")
    node, document = _parsed(text, source)
    values = document.get("scenario") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(values, dict):
        instead = "; fleet documents are given with --fleet" if _has_kinds(document) else ""
        raise InputError(
            f"{source}:1: a scenario file has one key, scenario, and under it what is to be simulated{instead}"
        )

    def where(location: tuple[int | str, ...]) -> str:
        path = ("scenario", *location)
        return f"{source}:{_line(node, path)}: {'.'.join(map(str, path))}"

    checked(values, where)
    return _with_paths(values, Path(source).parent), where


class _RefusedError(yaml.composer.ComposerError):
    """YAML, but not what a scenario file may hold."""


class _Loader(yaml.SafeLoader):
    """Plain data, without dates and aliases."""

    yaml_implicit_resolvers = {  # noqa: RUF012 PyYAML's own way of saying it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses an alias, and a key that is there twice."""
        if self.check_event(yaml.AliasEvent):
            problem = "an alias (*name) has no place here; write the value out"
            raise _RefusedError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise _RefusedError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return node


def _parsed(text: str, source: str) -> tuple[yaml.Node | None, object]:
    """The document, and the nodes that know its lines."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or error.context or ""
        if problem == "but found another document":
            problem = "a scenario is one document; fleet documents are given with --fleet"
        elif not isinstance(error, _RefusedError):
            problem = f"not valid YAML: {problem}"
        raise InputError(f"{source}:{line}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML: {error or type(error).__name__}".splitlines()[0]) from None
    finally:
        if loader is not None:
            loader.dispose()


def _has_kinds(document: object) -> bool:
    return isinstance(document, dict) and "kind" in document


def _with_paths(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a file are relative to it; a trace may be a path, with or without a name before it."""
    moved = dict(values)
    for key in ("fleet", "data", "artifact"):
        if isinstance(moved.get(key), str):
            moved[key] = str(folder / moved[key])
    word, colon, path = str(moved.get("trace", "")).rpartition(":")
    if "=" not in path and ("/" in path or Path(path).suffix or (path and (folder / path).exists())):
        moved["trace"] = f"{word}{colon}{folder / path}"
    return moved


def _line(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """The line of the last part of a path that is there."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
