"""compresskit.sensitivity: what each layer costs, and a recipe that spends it well."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import DataError
from compresskit.sensitivity import LayerSensitivity, Sensitivity, recipe, sensitivity, spend
from tests.runs import command, digits, untrained


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    model, data = untrained("cnn"), digits("cnn")
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(data.x_train, data.y_train, batch_size=32, epochs=6, verbose=0)
    return model


class TestMeasure:
    @pytest.mark.parametrize(
        ("method", "paths"),
        [
            ("prune", ["conv1/kernel", "conv2/kernel", "logits/kernel"]),
            ("shrink", ["conv1", "conv2"]),
        ],
    )
    def test_every_layer(self, trained, method, paths):
        before = trained.get_weights()
        made = sensitivity(trained, digits("cnn"), method=method, amounts=(0.25, 0.9), samples=128)
        for one, other in zip(before, trained.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        assert [layer.path for layer in made.layers] == paths
        assert made.samples == 128
        assert made.whole > 0.8
        for layer in made.layers:
            assert layer.saved[0] < layer.saved[1]
            # Much of a layer costs more than little.
            assert layer.values[1] < layer.values[0] <= made.whole + 0.05

    def test_what_goes_is_what_is_measured(self, trained):
        """The figure of one layer, done by hand."""
        data = digits("cnn")
        made = sensitivity(trained, data, method="prune", amounts=(0.5,), samples=256)
        kernel = trained.get_layer("conv2").kernel
        before = kernel.numpy()
        kernel.assign(np.where(np.abs(before) > np.median(np.abs(before)), before, 0))
        answers = trained.predict(data.x_train, verbose=0).argmax(axis=-1)
        kernel.assign(before)
        (value,) = made.layers[1].values
        assert value == np.mean(answers == data.y_train)
        assert made.layers[1].saved == (kernel.numpy().size // 2,)

    def test_unknown_metric(self, trained):
        with pytest.raises(DataError, match="unknown metric 'acuracy'"):
            sensitivity(trained, digits("cnn"), metric="acuracy")


def figures(**values):
    layers = tuple(
        LayerSensitivity(path=path, values=value, saved=saved)
        for path, (value, saved) in values.items()
    )
    return Sensitivity(
        method="prune",
        criterion="magnitude",
        amounts=(0.5, 0.9),
        metric="accuracy",
        samples=1,
        whole=0.9,
        layers=layers,
    )


class TestSpend:
    def test_most_where_it_is_cheap(self):
        made = figures(
            cheap=((0.9, 0.89), (50, 90)), dear=((0.8, 0.5), (50, 90)), free=((0.9, 0.9), (5, 9))
        )
        assert spend(made, 0.02) == {"cheap": 0.9, "free": 0.9}
        assert spend(made, 0.0) == {"cheap": 0.5, "free": 0.9}
        assert spend(made, 0.12) == {"cheap": 0.9, "dear": 0.5, "free": 0.9}

    def test_nothing_is_cheap_enough(self):
        assert spend(figures(dear=((0.8, 0.5), (50, 90))), 0.01) == {}

    def test_recipe(self):
        made = figures(a=((0.9, 0.9), (5, 9)), b=((0.9, 0.1), (5, 9)), c=((0.9, 0.9), (5, 9)))
        written = recipe(made, spend(made, 0.01), name="m-prune", model="m.keras", data="digits")
        assert [(each.name, each.targets) for each in written.stages] == [
            ("prune-50", ("b",)),
            ("prune-90", ("a", "c")),
        ]
        assert ck.Recipe.loads(written.dump()) == written


@pytest.mark.parametrize("method", ["prune", "shrink"])
def test_command(trained, tmp_path, method):
    """The recipe that it writes runs as it is."""
    trained.save(tmp_path / "m.keras")
    words = ["sensitivity", tmp_path / "m.keras", "--data", "tests.runs:digits", "--samples", "64"]
    words += ["--method", method, "--amounts", "0.25,0.5", "--drop", "0.5"]
    done = command(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "of 64 training samples" in done.stdout
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "recipe.yaml",
        "sensitivity.json",
        "sensitivity.svg",
    ]
    assert (tmp_path / "out" / "sensitivity.svg").read_text().count("conv1") == 1
    kept = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    plan = ck.plan(tmp_path / "out" / "recipe.yaml")
    assert {path for stage in plan.stages for path in stage.touched} >= {
        path for path in kept["chosen"] if method == "prune"
    }
    assert all(stage.type == method and stage.touched for stage in plan.stages)


def test_command_without_a_choice(trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    words = ["sensitivity", tmp_path / "m.keras", "--data", "tests.runs:digits", "--samples", "64"]
    done = command(*words, "--amounts", "0.99", "--drop", "0", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "every layer costs more at 0.99" in done.stderr
    assert not (tmp_path / "out").exists()
    done = command(*words, "--amounts", "half")
    assert done.exit_code == 2
    assert "is not a list of numbers" in done.stderr
    done = command(*words, "--amounts", "0.25", "--json")
    assert json.loads(done.stdout)["amounts"] == [0.25]
