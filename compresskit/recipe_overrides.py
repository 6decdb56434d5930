"""`--set KEY=VALUE`: values that come in place of those of a recipe's file."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compresskit.errors import RecipeError, did_you_mean
from compresskit.recipe_problems import show
from compresskit.recipe_source import KeyPath, Source, failure, read, render


def stage_names(stages: Sequence[Any]) -> list[Any]:
    """The names that stages go by: their own, or the type, numbered if it is taken."""
    own = [stage.get("name") if isinstance(stage, Mapping) else None for stage in stages]
    taken = {name.lower() for name in own if isinstance(name, str)}
    names = []
    for stage, name in zip(stages, own, strict=True):
        kind = stage.get("type") if isinstance(stage, Mapping) else None
        if name is None and isinstance(kind, str):
            name, count = kind, 1
            while name.lower() in taken:
                count += 1
                name = f"{kind}-{count}"
            taken.add(name.lower())
        names.append(name)
    return names


def override(source: Source, settings: Iterable[str]) -> Source:
    """Applies `--set` arguments: `stages.sparsify.sparsity.final=0.8`, `export.0.name=small`.

    Items of a list are addressed by index, stages by name, exports by name or target. The
    value is YAML. What is wrong with an argument is added to the source's problems.
    """
    settings = tuple(settings)
    if not settings:
        return source
    data, problems = copy.deepcopy(source.data), list(source.problems)
    written: dict[KeyPath, str] = {}
    for setting in settings:
        place = f"--set {setting}"
        key, equals, text = setting.partition("=")
        steps = key.split(".")
        try:
            if not equals or not all(steps):
                example = "for example `--set defaults.batch_size=64`"
                raise failure(place, f"{setting!r}", "KEY=VALUE, KEY with dots", example)
            value = read(text, place, numbered=False)
            path, created = _put(data, steps, value.data, place)
        except RecipeError as error:
            # A path that no key has: it spoils nothing else.
            problems += [(("--set", setting), problem) for problem in error.problems]
            continue
        problems += [((*path, *below), problem) for below, problem in value.problems]
        written = {old: by for old, by in written.items() if old[: len(path)] != path}
        written |= {path: setting} | dict.fromkeys(created, setting)
    return replace(source, data=data, overrides=written, problems=tuple(problems))


def _put(data: Any, steps: list[str], value: Any, place: str) -> tuple[KeyPath, list[KeyPath]]:
    """Writes one value; returns its key path, and those of the mappings made on the way."""
    here = data
    path: KeyPath = ()
    created: list[KeyPath] = []
    step: str | int
    while True:
        if isinstance(here, list):
            step, used = _item(here, steps, path, place)
        elif isinstance(here, dict):
            step, used = steps[0], 1
        else:
            found = f"{render(path) or 'the recipe'} is {show(here)}, which has no key {steps[0]!r}"
            dotted = ".".join(map(str, path))
            fix = f"set all of it: `--set '{dotted}={{{steps[0]}: …}}'`"
            fix = fix if path else "write the recipe as a mapping"
            raise failure(place, found, "a key of a mapping or an item of a list", fix)
        path, steps = (*path, step), steps[used:]
        if not steps:
            here[step] = value
            return path, created
        if isinstance(here, dict) and here.get(step) is None:
            here[step] = [] if path in {("stages",), ("export",)} else {}
            created.append(path)
        here = here[step]


def _item(items: list, steps: list[str], path: KeyPath, place: str) -> tuple[int, int]:
    """The index of the item that `steps` begin with, and how many of the steps name it."""
    if re.fullmatch(r"[0-9]{1,6}", steps[0]) and int(steps[0]) < len(items):
        return int(steps[0]), 1
    names: list[tuple] = [() for _ in items]
    if path == ("stages",):
        names = [(name,) for name in stage_names(items)]
    elif path == ("export",):
        mappings = [item if isinstance(item, dict) else {} for item in items]
        names = [(item.get("name"), item.get("target")) for item in mappings]
    known = [{name for name in both if isinstance(name, str)} for both in names]
    # A name may have dots in it: the longest that fits.
    for used in range(len(steps), 0, -1):
        word = ".".join(steps[:used])
        hits = [index for index, words in enumerate(known) if word in words]
        if len(hits) == 1:
            return hits[0], used
        if hits:
            found = f"{len(hits)} items of `{render(path)}` are called {word!r}"
            raise failure(place, found, "one item", f"use the index: one of {hits}")
    valid = sorted(set().union(*known)) + [str(index) for index in range(len(items))]
    expected = f"one of: {', '.join(valid)}" if valid else f"`{render(path)}` in the recipe"
    fix = did_you_mean(steps[0], valid) if valid else f"write `{render(path)}` in the recipe first"
    raise failure(place, f"no item {steps[0]!r} in `{render(path)}`", expected, fix)
