"""YAML to data with line numbers."""

from __future__ import annotations

import pytest

from compresskit.errors import RecipeError
from compresskit.recipe_source import dump, read, read_file


def problems_of(action, *args):
    with pytest.raises(RecipeError) as caught:
        action(*args)
    return caught.value.problems


def wheres(source):
    return [problem.where for _, problem in source.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.e-4", 1e-4),
        ("1.0e-3", 1e-3),
        ("-.5", -0.5),
        ("12", 12),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("-.inf", float("-inf")),
        ("2:4", "2:4"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("2001-01-01", "2001-01-01"),
        ("75%", "75%"),
        ("=", "="),
        ("'1e-3'", "1e-3"),
        ("!!str 3", "3"),
        ("block(1x16)", "block(1x16)"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    data = read(f"a: {text}", "r.yaml").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)
    assert read(dump(data), "r.yaml").data == data


def test_lines():
    source = read("a: 1\nb:\n  - c: 2\n    d: 3\n  - {e: 4,\n     f: 5}\n", "r.yaml")
    assert source.lines[("a",)] == 1
    assert source.lines["b", 0, "d"] == 4
    assert source.lines["b", 1] == 5
    assert source.lines["b", 1, "f"] == 6
    assert source.where(("b", 1, "f")) == "r.yaml:6 b[1].f"
    assert source.where(("b", 0, "missing")) == "r.yaml:3 b[0].missing"
    assert source.where(()) == "r.yaml:1"


def test_duplicate_keys():
    source = read("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", "r.yaml")
    assert source.data == {"a": 1, "b": {"c": 1}}
    assert wheres(source) == ["r.yaml:4 b.c", "r.yaml:5 a"]
    assert source.problems[0][1].found == "'c' again; the first is in line 3"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object:os.system {}",
        "!!python/object/apply:os.system ['ls']",
        "!!python/name:os.system",
        "!mine 3",
        "!!binary aGk=",
        "!!set {a}",
        "!!int abc",
        "!!bool on",
        "9" * 5000,
    ],
)
def test_tags_are_never_obeyed(text):
    source = read(f"a: 1\nb: {text}\n", "r.yaml")
    assert source.data == {"a": 1, "b": None}
    assert wheres(source) == ["r.yaml:2 b"]


def test_merge_keys_and_keys_that_are_no_words():
    source = read("a: &x {k: 1}\nb: {<<: *x}\n? [c]\n: 1\n", "r.yaml")
    assert wheres(source) == ["r.yaml:2 b", "r.yaml:3"]


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("a: 1\nb: [", "r.yaml:2", "<stream end>"),
        ("a:\n\tb: 1", "r.yaml:2", "cannot start any token"),
        ("a: 1\nb: c: d", "r.yaml:2", "mapping values are not allowed"),
        ("a: 1\n---\nb: 1", "r.yaml:2", "another document"),
        ("a: 1\nb: \x00", "r.yaml:2", "special characters"),
        ("a: *b", "r.yaml:1", "undefined alias"),
        ("a: &a [*a]", "r.yaml:1", "nested"),
        ("a: " + "[" * 60 + "]" * 60, "r.yaml:1", "nested"),
        ("a: " + "[" * 2000, "r.yaml:1", "nested"),
        ("#" * (1 << 20) + "#", "r.yaml", "more than 1 MiB"),
    ],
    ids=range(10),
)
def test_what_cannot_be_read_at_all(text, where, found):
    (problem,) = problems_of(read, text, "r.yaml")
    assert problem.where == where
    assert found in problem.found


def test_an_alias_bomb_ends_early():
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    for n in range(1, 12):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    (problem,) = problems_of(read, "\n".join(lines), "r.yaml")
    assert "20,000 values" in problem.found


def test_tabs_have_a_fix_of_their_own():
    (problem,) = problems_of(read, "a:\n\tb: 1", "r.yaml")
    assert problem.fix == "indent with spaces, not with tabs"


def test_files(tmp_path):
    missing = str(tmp_path / "none.yaml")
    (problem,) = problems_of(read_file, missing)
    assert problem.where == missing
    assert "No such file" in problem.found
    assert problem.fix == "check the path"

    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: é\n".encode("latin-1"))
    (problem,) = problems_of(read_file, str(latin))
    assert problem.where == f"{latin}:2"
    assert problem.found == "the byte 0xe9, which is not UTF-8"

    (problem,) = problems_of(read_file, str(tmp_path))
    assert "cannot be read" in problem.found

    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    (problem,) = problems_of(read_file, str(large))
    assert "more than 1 MiB" in problem.found

    marked = tmp_path / "marked.yaml"
    marked.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_file(str(marked)).data == {"a": 1}
