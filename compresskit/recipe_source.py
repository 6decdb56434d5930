"""From the text of a recipe to plain data that knows the line of each key: a `Source`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from compresskit.errors import Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000
MAX_DEPTH = 50

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: in 1.1, `2:4` is 124, `on` is true and `1e-3` is a text."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes one node; ends early what is nested too deeply, which PyYAML is slow at."""
        self._depth += 1
        if self._depth > MAX_DEPTH + 1:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.Node:
        """Escapes what is not printable: PyYAML writes U+0085 as it is, and reads a line end."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar(_TAG + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)

for _kind, _pattern in SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), None)


def dump(data: Any) -> str:
    """YAML text that `read` gives back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


# Gives the place of a key path for people: `recipe.yaml:12 stages[0].end`.
Locate = Callable[[KeyPath], str]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Plain data, and where each key of it was written.

    Attributes:
        data: mappings, lists, texts, numbers, booleans, None.
        name: the file, for problems; empty for data that was made in Python.
        lines: line number of each key and list item.
        overrides: the `--set` argument that wrote each overridden key.
        problems: what is wrong already, and the key path whose value it spoils.
    """

    data: Any
    name: str = ""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    overrides: Mapping[KeyPath, str] = field(default_factory=dict)
    problems: tuple[tuple[KeyPath, Problem], ...] = ()

    def where(self, path: KeyPath, *others: KeyPath) -> str:
        """`recipe.yaml:12 stages[0].epochs`, or the `--set` argument that wrote the value.

        Args:
            others: keys that the problem is about too. One that was overridden is named first,
                then one that was written at all.
        """
        path = self.place(path, *others)
        if text := self._override(path):
            return text if path in self.overrides else f"{text} {render(path)}"
        if not self.name:
            return render(path) or "recipe"
        return f"{self.name}:{self.line(path)} {render(path)}".rstrip()

    def place(self, path: KeyPath, *others: KeyPath) -> KeyPath:
        """The one of the key paths that `where` names."""
        places = (path, *others)
        written = next((place for place in places if place in self.lines), path)
        return next((place for place in places if self._override(place)), written)

    def line(self, path: KeyPath) -> int:
        """The line of a key, or of what it is missing from."""
        return next((self.lines[start] for start in _starts(path) if start in self.lines), 1)

    def _override(self, path: KeyPath) -> str | None:
        starts = (start for start in _starts(path) if start in self.overrides)
        return next((f"--set {self.overrides[start]}" for start in starts), None)


def _starts(path: KeyPath) -> Iterator[KeyPath]:
    return (path[:length] for length in range(len(path), -1, -1))


def render(path: KeyPath) -> str:
    """`stages[0].sparsity.final`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def read(text: str, name: str, *, numbered: bool = True) -> Source:
    """Reads YAML text; nothing in it is ever evaluated.

    Args:
        name: the file, for problems.
        numbered: whether problems name the line too.

    Raises:
        RecipeError: the text is not YAML, or is too large.
    """

    def at(line: int) -> str:
        return f"{name}:{line}" if numbered else name

    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise failure(name, *_TOO_LARGE)
    builder = _Builder(at)
    try:
        node = yaml.compose(text, Loader=_Loader)
        builder.lines[()] = node.start_mark.line + 1 if node else 1
        data = None if node is None else builder.build(node, ())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        position = getattr(error, "position", 0)
        line = mark.line + 1 if mark else text.count("\n", 0, position) + 1
        found = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        fix = "check the indentation, the colons and the quotes here and in the line above"
        fix = "indent with spaces, not with tabs" if "\\t" in found else fix
        raise failure(at(line), found, "valid YAML, one document", fix) from None
    except RecursionError:
        raise failure(at(1), *_TOO_DEEP) from None
    return Source(data=data, name=name, lines=builder.lines, problems=tuple(builder.problems))


def read_file(path: str) -> Source:
    """Reads a YAML file.

    Raises:
        RecipeError: there is no such file, or it is not YAML in UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        found = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise failure(path, found, "a recipe, a YAML file", "check the path") from None
    if len(content) > MAX_BYTES:
        raise failure(path, *_TOO_LARGE)
    try:
        return read(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        where = f"{path}:{content.count(10, 0, error.start) + 1}"
        found = f"the byte 0x{content[error.start]:02x}, which is not UTF-8"
        raise failure(where, found, "text in UTF-8", "save the file as UTF-8") from None


_TOO_LARGE = (
    f"more than {MAX_BYTES >> 20} MiB, or {MAX_VALUES:,} values when aliases are written out",
    "a recipe",
    "check that this is the right file",
)
_TOO_DEEP = (
    f"values nested more than {MAX_DEPTH} deep",
    "a recipe",
    "check the brackets and the aliases",
)


def _problem(where: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(where=where, found=found, expected=expected, fix=fix)


def failure(where: str, found: str, expected: str, fix: str) -> RecipeError:
    """An error of one problem."""
    return RecipeError(_problem(where, found, expected, fix))


class _Builder:
    """Builds plain data from YAML nodes, and remembers the line of each key."""

    def __init__(self, at: Callable[[int], str]):
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[tuple[KeyPath, Problem]] = []
        self._at = at
        self._count = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """The data that `node` stands for; None, and a problem, if it is no plain value."""
        self._count += 1
        line = node.start_mark.line + 1
        if self._count > MAX_VALUES:
            raise failure(self._at(line), *_TOO_LARGE)
        if len(path) > MAX_DEPTH:
            raise failure(self._at(line), *_TOO_DEEP)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            self.lines |= {
                (*path, index): item.start_mark.line + 1 for index, item in enumerate(node.value)
            }
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            if isinstance(node, yaml.ScalarNode):
                return _scalar(kind, node.value)
        except (ValueError, KeyError):
            pass
        found = f"{node.value[:60]!r} as {kind}" if kind in SCALARS else f"the tag {node.tag}"
        self._spoiled(path, line, path, found, "a plain value", "remove the tag, or quote the text")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                merge = isinstance(key_node, yaml.ScalarNode)
                found = "a merge key `<<`" if merge else "a key that is a list or a mapping"
                self._spoiled(path, line, (*path, "<<"), found, "a word", "write the keys out")
                continue
            place = (*path, key_node.value)
            if key_node.value in data:
                found = f"{key_node.value!r} again; the first is in line {self.lines[place]}"
                # The first of the two is still to be checked: this spoils only itself.
                self._spoiled(
                    place, line, (*place, "<<"), found, "each key once", "remove one of the two"
                )
                continue
            self.lines[place] = line
            data[key_node.value] = self.build(value, place)
        return data

    def _spoiled(self, shown: KeyPath, line: int, path: KeyPath, *what: str) -> None:
        self.problems.append((path, _problem(f"{self._at(line)} {render(shown)}".rstrip(), *what)))


def _scalar(kind: str, text: str) -> Any:
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()]
    return {"null": None, "str": text}[kind]
