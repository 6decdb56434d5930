"""Recipes: what they accept, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compresskit.duration import Duration
from compresskit.errors import RecipeError
from compresskit.granularity import NM
from compresskit.metrics import METRICS
from compresskit.recipe import Recipe
from compresskit.recipe_fields import Builder, DirectoryData, NpzData
from compresskit.recipe_overrides import override
from compresskit.recipe_source import Source, read
from compresskit.stages import QAT, Prune
from tests.recipes import HEAD, problems_of

FULL = """\
version: 1
name: lenet5-pqat
model: {builder: "my_pkg.mod:function", args: {classes: 10}}
data: {directory: pictures, image_size: [8, 8], grayscale: true}
evaluate: {metric: accuracy, mode: max}
baseline: {epochs: 5, optimizer: adam, learning_rate: 1e-3}
defaults: {optimizer: adam, learning_rate: 1.e-4, batch_size: 64}
stages:
  - name: sparsify
    type: prune
    sparsity: {initial: 0.3, final: 0.9, schedule: polynomial}
    scope: global
    targets: ["type:Dense", "re:conv.*"]
    begin: 0ep
    epochs: 4
    gate: {max_drop: 0.01, on_fail: rollback}
  - {type: prune, granularity: 2:4}
  - {type: qat, epochs: 3}
export:
  - {target: edge-tpu, parity: {min_agreement: 1}}
  - {target: edge-cpu, precision: dynamic}
"""


def test_a_full_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(FULL)
    recipe = Recipe.load(path, ["stages.sparsify.sparsity.final=0.8"])
    assert recipe.model == Builder(builder="my_pkg.mod:function", args={"classes": 10})
    assert recipe.data == DirectoryData(directory="pictures", image_size=(8, 8), grayscale=True)
    assert recipe.defaults.learning_rate == 1e-4
    assert [one.name for one in recipe.stages] == ["sparsify", "prune", "qat"]
    assert recipe.stages[0].sparsity.final == 0.8
    assert recipe.stages[0].end == Duration("75%")
    assert recipe.stages[1].mask_shape == NM(n=2, m=4)
    assert recipe.export[0].parity.samples == 256
    assert Recipe.loads(recipe.dump()) == recipe


def test_defaults():
    recipe = Recipe.loads(HEAD + "export: [{target: edge-cpu}]")
    assert recipe.data == "digits"
    assert recipe.baseline is None
    assert recipe.engine == "native"
    assert recipe.dump().startswith("version: 1\nname: r\nengine: native\nmodel: lenet5\n")


@pytest.mark.parametrize("version", ["2", "true", "1.0", "'1'"])
def test_the_version_is_1(version):
    text = f"version: {version}\nname: r\nmodel: m\nstages: [{{type: qat}}]\n"
    (problem,) = problems_of(text)
    assert (problem.where, problem.expected) == ("recipe.yaml:1 version", "1")


@pytest.mark.parametrize("text", ["", "- a", "3", "null"])
def test_the_top_is_a_mapping(text):
    (problem,) = problems_of(text)
    assert problem.where == "recipe.yaml:1"
    assert problem.expected.startswith("a mapping with the keys: version, name")


def test_a_recipe_does_something():
    (problem,) = problems_of(HEAD)
    assert problem.found == "neither `stages` nor `export`"
    (problem,) = problems_of(HEAD + "exports: [{target: edge-cpu}]")
    assert problem.fix == "did you mean 'export'?"


def test_stage_names_are_unique():
    recipe = Recipe.loads(HEAD + "stages: [{type: qat}, {type: qat}, {type: qat, name: qat-2}]")
    assert [one.name for one in recipe.stages] == ["qat", "qat-3", "qat-2"]
    (problem,) = problems_of(
        HEAD + "stages:\n- {type: qat, name: a}\n- {type: prune, sparsity: 0.5, name: A}"
    )
    assert problem.where == "recipe.yaml:6 stages[1].name"
    assert problem.found == "'A', as in item 0"


def test_stages_made_in_python_are_named_too():
    stages = [QAT(), Prune(granularity="1:2"), QAT(), {"type": "qat"}]
    recipe = Recipe(version=1, name="r", model="m", stages=stages)
    assert [one.name for one in recipe.stages] == ["qat", "prune", "qat-2", "qat-3"]
    assert Recipe.loads(recipe.dump()) == recipe


def test_exports_write_different_files():
    export = "export:\n- {target: edge-cpu, precision: int8}\n- {target: edge-cpu"
    (problem,) = problems_of(f"{HEAD}{export}, precision: int8}}")
    assert problem.where == "recipe.yaml:6 export[1].target"
    assert problem.fix == "give one of them another `name`"
    assert len(Recipe.loads(f"{HEAD}{export}}}").export) == 2
    assert len(Recipe.loads(f"{HEAD}{export}, precision: int8, name: b}}").export) == 2


def test_from_dict():
    data = {"version": 1, "name": "r", "model": "m", "stages": ({"type": "qat"},)}
    assert Recipe.from_dict(data).stages == (QAT(),)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**data, "stages": [{"type": "qat", "epochs": 0}], 3: 4})
    assert [problem.where for problem in caught.value.problems] == ["stages[0].epochs", "[3]"]
    with pytest.raises(RecipeError, match="a mapping with the keys"):
        Recipe.from_dict(None)


def test_from_source():
    source = read(HEAD + "stages: [{type: qat, epochs: 0}]", "recipe.yaml")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_source(source)
    assert caught.value.problems[0].where == "recipe.yaml:4 stages[0].epochs"
    source = override(source, ["stages.qat.epochs=3"])
    assert Recipe.from_source(source).stages == (QAT(epochs=3),)
    assert source.where(("stages", 0, "epochs")) == "--set stages.qat.epochs=3"
    assert source.where(("stages", 0, "type")) == "recipe.yaml:4 stages[0].type"
    with pytest.raises(RecipeError, match="KEY=VALUE"):
        Recipe.from_source(override(Source(data=source.data), ["bad"]))


def test_a_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="No such file"):
        Recipe.load(tmp_path / "none.yaml")


def test_json_schema():
    schema = json.loads(json.dumps(Recipe.json_schema()))
    records = schema["$defs"]
    assert schema["required"] == ["version", "name", "model"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["version"]["const"] == 1
    stages = schema["properties"]["stages"]["items"]
    assert set(stages["discriminator"]["mapping"]) == {
        "shrink",
        "prune",
        "cluster",
        "qat",
        "distill",
        "ptq",
    }
    assert "type" in records["Prune"]["required"]
    assert records["Prune"]["properties"]["begin"]["type"] == "string"
    assert records["Prune"]["properties"]["begin"]["default"] == "0ep"
    kinds = records["Prune"]["properties"]["sparsity"]["anyOf"]
    assert {"type": "number", "minimum": 0, "exclusiveMaximum": 1} in kinds
    assert {"type": "string", "minLength": 1} in schema["properties"]["model"]["oneOf"]
    for record in [schema, *records.values()]:
        for name, node in record["properties"].items():
            assert name == "type" or node.get("description"), (record["title"], name)


def test_no_framework_is_imported():
    code = (
        "import sys, compresskit.recipe\n"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


slugs = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)
words = st.text(
    st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8
) | st.sampled_from(
    ["1e-3", "2:4", "yes", "null", "0o7", "~", "3", "a: b", "# x", "1_0", "=", "<<"]
)
counts = st.integers(1, 10**6)
rates = st.floats(1e-9, 10)
shares = st.floats(0, 0.99)


def optional(**fields):
    return st.fixed_dictionaries({}, optional=fields)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | words
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(words.filter("<<".__ne__), inner, max_size=2)
    ),
    max_leaves=4,
)
builders = st.builds(
    lambda args: {"builder": "a.b:c", "args": args},
    st.dictionaries(words.filter("<<".__ne__), plain, max_size=2),
)
layers = st.dictionaries(words.filter("<<".__ne__), words, min_size=1, max_size=2)
learning = {
    "teacher": words | builders,
    "temperature": rates,
    "alpha": shares,
    "losses": st.lists(
        st.just({"type": "logits"})
        | st.builds(lambda pairs: {"type": "features", "layers": pairs, "loss": "cosine"}, layers)
        | st.builds(lambda pairs: {"type": "attention", "layers": pairs, "weight": 2.0}, layers),
        min_size=1,
        max_size=2,
    ),
    "transfer": st.none() | builders | st.builds(lambda path: {"texts": path}, words),
    "cache": st.booleans(),
}
training = {
    "epochs": counts,
    "optimizer": words | st.none(),
    "learning_rate": rates,
    "gate": st.builds(lambda drop: {"max_drop": drop, "on_fail": "rollback"}, shares),
}
common = {
    **training,
    "targets": st.lists(words, max_size=2),
    "distill": st.none() | optional(**learning),
}
distills = st.builds(
    lambda base: {**base, "type": "distill"},
    optional(
        **training,
        **learning,
        student=words
        | builders
        | st.builds(
            lambda chosen: {"from": "teacher", "layers": sorted(chosen)},
            st.sets(st.integers(0, 9), min_size=1),
        ),
        vocabulary=st.sampled_from(["all", "data"]),
    ),
)
prunes = st.builds(
    lambda base, more: {**base, **more, "type": "prune"},
    optional(**common, frequency=counts.map("{}st".format), end=st.sampled_from(["9ep", "50.5%"])),
    st.builds(lambda final: {"sparsity": final}, shares)
    | st.builds(lambda final: {"sparsity": {"final": final}, "scope": "global"}, shares)
    | st.sampled_from([{"granularity": "2:4"}, {"granularity": "block(2x2)", "sparsity": 0.5}]),
)
qats = st.builds(
    lambda base: {**base, "type": "qat"},
    optional(**common, weight_bits=st.integers(2, 8), ema_decay=shares),
)
recipes = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "name": slugs,
        "model": words | builders,
        "stages": st.lists(prunes | qats | distills, min_size=1, max_size=3),
    },
    optional={
        "data": words | builders | st.builds(lambda path: {"npz": path}, words),
        "evaluate": optional(
            metric=st.sampled_from(sorted(METRICS)), mode=st.sampled_from(["max", "min"])
        ),
        "baseline": st.fixed_dictionaries({"epochs": counts}, optional={"learning_rate": rates}),
        "defaults": optional(optimizer=words, batch_size=counts, loss=words),
        "export": st.lists(
            st.fixed_dictionaries(
                {"target": st.sampled_from(["edge-cpu", "edge-tpu"]), "name": slugs},
                optional={"precision": words},
            ),
            max_size=2,
            unique_by=lambda export: export["name"],
        ),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes)
def test_round_trip(data):
    recipe = Recipe.from_dict(data)
    text = recipe.dump()
    assert Recipe.loads(text) == recipe
    assert Recipe.loads(text).dump() == text


def test_paths_are_kept_as_written():
    recipe = Recipe.loads(
        "version: 1\nname: r\nmodel: ./x/../m.keras\ndata: {npz: ~/d.npz}\nstages: [{type: qat}]"
    )
    assert recipe.model == "./x/../m.keras"
    assert recipe.data == NpzData(npz="~/d.npz")
