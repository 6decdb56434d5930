"""Overrides: what they address, and what is wrong with them."""

from __future__ import annotations

import pytest

from compresskit.recipe_overrides import override, stage_names
from compresskit.recipe_source import read

RECIPE = """\
stages:
  - {name: sparsify, type: prune, sparsity: {final: 0.5}}
  - {type: qat}
  - {type: qat, name: v1.2}
export:
  - {target: edge-cpu, name: small}
  - {target: edge-tpu}
"""


def test_stage_names():
    stages = [{"type": "prune"}, {"type": "prune"}, {"type": "qat", "name": "prune-2"}, {}, "x"]
    assert stage_names(stages) == ["prune", "prune-3", "prune-2", None, None]


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("stages.sparsify.sparsity.final=0.8", ("stages", 0, "sparsity", "final"), 0.8),
        ("stages.0.sparsity.final=1e-1", ("stages", 0, "sparsity", "final"), 0.1),
        ("stages.qat.epochs=3", ("stages", 1, "epochs"), 3),
        ("stages.v1.2.epochs=3", ("stages", 2, "epochs"), 3),
        ("stages.sparsify.granularity=2:4", ("stages", 0, "granularity"), "2:4"),
        ("stages.sparsify.gate={max_drop: 0.1}", ("stages", 0, "gate"), {"max_drop": 0.1}),
        ("stages.sparsify.gate.max_drop=0.1", ("stages", 0, "gate"), {"max_drop": 0.1}),
        ("export.0.precision=dynamic", ("export", 0, "precision"), "dynamic"),
        ("export.small.precision=int8", ("export", 0, "precision"), "int8"),
        ("export.edge-tpu.precision=int8", ("export", 1, "precision"), "int8"),
        ("defaults.batch_size=64", ("defaults",), {"batch_size": 64}),
        ("model=a=b", ("model",), "a=b"),
        ("baseline=", ("baseline",), None),
    ],
)
def test_overrides(setting, path, value):
    source = override(read(RECIPE, "r.yaml"), [setting])
    found = source.data
    for step in path:
        found = found[step]
    assert found == value
    assert not source.problems
    assert source.where(path) == f"--set {setting}"


@pytest.mark.parametrize(
    ("setting", "found", "fix"),
    [
        ("foo", "'foo'", "for example `--set defaults.batch_size=64`"),
        ("=1", "'=1'", "for example `--set defaults.batch_size=64`"),
        ("a..b=1", "'a..b=1'", "for example `--set defaults.batch_size=64`"),
        ("stages.sparsfy.epochs=1", "no item 'sparsfy' in `stages`", "did you mean 'sparsify'?"),
        ("stages.9.epochs=1", "no item '9' in `stages`", None),
        ("model=[", "expected the node content, but found '<stream end>'", None),
        (
            "stages.sparsify.sparsity.final.x=1",
            "stages[0].sparsity.final is 0.5, which has no key 'x'",
            "set all of it: `--set 'stages.0.sparsity.final={x: …}'`",
        ),
        ("model=!!python/name:os.system", None, "remove the tag, or quote the text"),
    ],
)
def test_overrides_that_are_wrong(setting, found, fix):
    ((_, problem),) = override(read(RECIPE, "r.yaml"), [setting]).problems
    assert problem.where == f"--set {setting}"
    assert found is None or problem.found == found
    assert fix is None or problem.fix == fix


def test_a_name_of_two_items_is_ambiguous():
    source = read("export: [{target: a}, {target: a}]", "r.yaml")
    ((_, problem),) = override(source, ["export.a.name=x"]).problems
    assert problem.found == "2 items of `export` are called 'a'"
    assert problem.fix == "use the index: one of [0, 1]"


def test_the_last_override_of_a_key_counts():
    source = override(read(RECIPE, "r.yaml"), ["defaults.loss=a", "defaults={loss: b}"])
    assert source.data["defaults"] == {"loss": "b"}
    assert source.where(("defaults", "loss")) == "--set defaults={loss: b} defaults.loss"


def test_an_alias_is_a_copy():
    source = read("a: &x {k: 1}\nb: *x\n", "r.yaml")
    assert override(source, ["a.k=2"]).data == {"a": {"k": 2}, "b": {"k": 1}}
    assert source.data["a"] == {"k": 1}
