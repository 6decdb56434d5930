"""From the errors of a validation back to lines, in a user's words.

What a value may be is read from the recipe's JSON Schema, so that it is said once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from compresskit.errors import Problem, did_you_mean, nearest
from compresskit.recipe_source import SCALARS, KeyPath, Source

_UNKNOWN = {"extra_forbidden", "invalid_key"}


def explain(error: ValidationError, schema: dict[str, Any], source: Source) -> list[Problem]:
    """All that a validation found, in a user's words.

    Args:
        schema: the JSON Schema of what was validated: it knows the keys and what they take.
    """
    reader = _SchemaReader(schema)
    errors = [
        (*reader.place(one["loc"], source.data), one) for one in error.errors(include_url=False)
    ]
    # A typo in a required key is one mistake, not an unknown key and a missing one.
    typos = {
        (*path[:-1], nearest(str(path[-1]), reader.keys(parent)))
        for path, parent, _, one in errors
        if one["type"] in _UNKNOWN
    }
    problems = []
    for path, parent, node, one in errors:
        spoiled = any(path[: len(bad)] == bad for bad, _ in source.problems)
        if not spoiled and not (_is_missing(one) and path in typos):
            others = [_follow(path[:-1], steps) for steps in one.get("ctx", {}).get("others", ())]
            problem = reader.problem(path, others, parent, node, one, source)
            problems.append((source.line(source.place(path, *others)), problem))
    return [problem for _, problem in sorted(problems, key=lambda pair: pair[0])]


def _is_missing(error: Mapping[str, Any]) -> bool:
    return error["type"] == "missing" or bool(error.get("ctx", {}).get("missing"))


class _SchemaReader:
    """Finds places in a JSON Schema, and says in words what may stand there."""

    def __init__(self, schema: dict[str, Any]):
        self._root = schema
        self._records = schema.get("$defs", {})

    def place(self, loc: tuple, data: Any) -> tuple[KeyPath, dict, dict]:
        """The key path of an error, the schema around it, and the schema of the value."""
        path: KeyPath = ()
        parent = node = self._root
        for step in loc:
            options = node.get("discriminator", {}).get("mapping", {})
            record = options.get(step) if isinstance(step, str) else None
            if record or (isinstance(step, str) and step[:1] == "<" and step[-1:] == ">"):
                # Not a key: which member of a union it is.
                node = self._records.get((record or step[1:-1]).rpartition("/")[2], node)
                continue
            if not isinstance(data, (dict, list, tuple)):
                break
            path, parent, node = (*path, step), node, self._child(node, step)
            present = step in data if isinstance(data, dict) else step in range(len(data))
            data = data[step] if present else None
        return path, parent, node

    def _members(self, node: dict) -> Iterator[dict]:
        if "$ref" in node:
            node = {**self._records[node["$ref"].rpartition("/")[2]], **node}
            del node["$ref"]
        options = node.get("anyOf", node.get("oneOf"))
        if options is None:
            yield node
        for option in options or ():
            yield from self._members(option)

    def _child(self, node: dict, step: str | int) -> dict:
        for member in self._members(node):
            if isinstance(step, int) and step < len(member.get("prefixItems", ())):
                return member["prefixItems"][step]
            child = member.get("items") if isinstance(step, int) else None
            if isinstance(step, str):
                child = member.get("properties", {}).get(step)
            if isinstance(child, dict):
                return child
        return {}

    def keys(self, node: dict) -> list[str]:
        """The keys of the record that `node` describes."""
        members = self._members(node)
        return next((list(one["properties"]) for one in members if "properties" in one), [])

    def problem(
        self,
        path: KeyPath,
        others: list[KeyPath],
        parent: dict,
        node: dict,
        error: Mapping[str, Any],
        source: Source,
    ) -> Problem:
        """One error of a validation in four parts."""
        kind, value = error["type"], error["input"]
        context = {} if kind == "literal_error" else error.get("ctx", {})
        if kind == "missing" and isinstance(path[-1], int):
            # A list that is too short is wrong as a whole.
            kind, path, node = "too_short", path[:-1], parent
        key = next((step for step in reversed(path) if isinstance(step, str)), "recipe")
        if kind in _UNKNOWN:
            keys = self.keys(parent)
            found, expected = f"unknown key {path[-1]!r}", f"one of: {', '.join(keys)}"
            fix = did_you_mean(str(path[-1]), keys)
            return Problem(where=source.where(path), found=found, expected=expected, fix=fix)
        if kind.startswith("union_tag"):
            key, types = "type", sorted(node["discriminator"]["mapping"])
            typo = nearest(key, value)
            if key in value:
                path, found, value = (*path, key), show(value[key]), value[key]
            elif typo:
                path, found = (*path, typo), f"unknown key {typo!r}"
                expected, fix = "the key 'type'", "did you mean 'type'?"
                return Problem(where=source.where(path), found=found, expected=expected, fix=fix)
            else:
                found, value = "no `type`", None
            expected, fix = f"one of: {', '.join(types)}", self._choice("type: ", value, types)
        elif kind == "missing":
            found, expected = f"no `{key}`", self.describe(node)
            fix = f"add `{key}: {self._example(node, '…')}`"
        else:
            found, expected = show(value), self.describe(node)
            fix = self._fix(f"{key}: " if path and key == path[-1] else "", node, value)
        return Problem(
            where=source.where(path, *others),
            found=context.get("found", found),
            expected=context.get("expected", expected),
            fix=context.get("fix", fix),
        )

    def describe(self, node: dict) -> str:
        """What may stand there: `a number from 0 to 1 (1 excluded)`."""
        if "discriminator" in node:
            return f"a mapping with `type`, one of: {', '.join(node['discriminator']['mapping'])}"
        texts = [_describe(member) for member in self._members(node)]
        return " or ".join(dict.fromkeys(text for text in texts if text)) or "another value"

    def _example(self, node: dict, otherwise: Any = None) -> Any:
        members = [node, *self._members(node)]
        for member in members:
            if member.get("examples"):
                return _flow(member["examples"][0])
        for name in ("const", "default", "minimum"):
            for member in members:
                if isinstance(member.get(name), (str, int, float)):
                    return _flow(member[name])
        return otherwise

    def _fix(self, label: str, node: dict, value: Any) -> str:
        members = list(self._members(node))
        types = {member.get("type") for member in members}
        words = [word for member in members for word in member.get("enum", ())]
        if words:
            return self._choice(label, value, words)
        numeric = types & {"integer", "number"} and "string" not in types
        number = f"{SCALARS['int']}|{SCALARS['float']}"
        if numeric and isinstance(value, str) and re.fullmatch(number, value):
            return f"remove the quotes: `{label}{value}`"
        if isinstance(value, (int, float)) and "string" in types and len(types - {"null"}) == 1:
            return f'put it in quotes: "{_flow(value)}"'
        example = self._example(node)
        return "correct the value" if example is None else f"for example `{label}{example}`"

    def _choice(self, label: str, value: Any, words: list[str]) -> str:
        match = nearest(value, words) if isinstance(value, str) else None
        return f"did you mean {match!r}?" if match else f"for example `{label}{words[0]}`"


def _follow(path: KeyPath, steps: Iterable[str | int]) -> KeyPath:
    """`path` and then `steps`, where `..` goes up."""
    for step in steps:
        path = path[:-1] if step == ".." else (*path, step)
    return path


def _describe(node: dict) -> str:
    if "const" in node:
        return _flow(node["const"])
    if "enum" in node:
        return f"one of: {', '.join(map(str, node['enum']))}"
    kind = node.get("type", "")
    if kind in {"integer", "number"}:
        return _describe_number(node, "a whole number" if kind == "integer" else "a number")
    if kind == "array" and "prefixItems" in node:
        return f"a list of {len(node['prefixItems'])}: {_describe(node['prefixItems'][0])} each"
    if kind == "object" and "properties" in node:
        return f"a mapping with the keys: {', '.join(node['properties'])}"
    words = {"string": "a text", "boolean": "true or false", "array": "a list"}
    words["object"] = "a mapping"
    return words.get(kind, "") + (" that is not empty" if node.get("minLength") else "")


def _describe_number(node: dict, noun: str) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    bottom, top = (above if low is None else low), (below if high is None else high)
    if bottom is None or top is None:
        bounds = {"of at least": low, "greater than": above, "of at most": high, "below": below}
        return " ".join(
            [noun, *(f"{word} {_flow(n)}" for word, n in bounds.items() if n is not None)]
        )
    ends = [_flow(end) for end in (above, below) if end is not None]
    excluded = f" ({' and '.join(ends)} excluded)" if ends else ""
    return f"{noun} from {_flow(bottom)} to {_flow(top)}{excluded}"


def _flow(value: Any) -> str:
    """A value as it is written on one line of YAML; 3.0 as 3."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show(value: Any) -> str:
    """A value in a problem: short, whatever it is."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        text = f"a mapping with {keys}" if keys else "an empty mapping"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
