"""compresskit.methods.shrink: which units go, when, and what is promised of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import compresskit as ck
from compresskit.errors import ModelError, RecipeError
from compresskit.method import Examples, Length
from compresskit.methods.cluster import Clustering
from compresskit.methods.importance import Evidence, bn_scale
from compresskit.methods.shrink import Shrinking
from compresskit.stages import Cluster, Shrink
from compresskit.structure.choice import candidates, how_many, order
from compresskit.structure.follow import follow
from compresskit.target import Grid
from tests.models import MODELS
from tests.runs import PRUNE, QUANTIZE, digits, recipe, untrained

SHRINK = {"type": "shrink", "amount": 0.5, "frequency": "2st", "epochs": 1}
FLOAT32 = {"target": "edge-cpu", "precision": "float32"}


def shrunk(name, **changes):
    keras.utils.set_random_seed(0)
    made = recipe(baseline=None, stages=[{**SHRINK, **changes}], export=[FLOAT32])
    return ck.compress(untrained(name), made, data=digits(name))


def broken(report):
    return [each.what for each in report.promises if not each.kept and "loses" not in each.what]


@pytest.mark.parametrize("name", ["cnn_bn", "depthwise", "nested", "stacked_lstm", "tiny_bert"])
def test_every_kind_of_model(name):
    result = shrunk(name)
    (stage,) = result.report.stages
    assert broken(result.report) == []
    assert stage.units
    assert all(has == had - had // 2 for had, has in stage.units.values() if had > 2)
    before, after = stage.multiply_adds
    assert after < before
    assert stage.parameters == result.model.count_params() < result.report.baseline.parameters
    promised = {each.what for each in result.report.promises}
    assert "mean difference of the outputs of the smaller model from the trained one" in promised
    weights = sum(np.prod(each.shape) for each in result.report.artifacts[0].tensors)
    assert weights <= stage.parameters


@pytest.mark.parametrize(
    ("amount", "scope"),
    [({"flops": 0.6}, "layer"), ({"parameters": 0.4}, "global"), ({"latency": 0.1}, "layer")],
)
def test_amounts(amount, scope):
    result = shrunk("cnn", amount=amount, scope=scope, method="taylor", schedule="constant")
    (stage,) = result.report.stages
    assert broken(result.report) == []
    (what,) = amount
    before, after = stage.multiply_adds
    gone = {
        "flops": 1 - after / before,
        "parameters": 1 - stage.parameters / result.report.baseline.parameters,
    }
    if what in gone:
        promised = {each.what: each for each in result.report.promises}
        promise = promised[f"share of the {what} that is removed"]
        assert promise.measured == pytest.approx(gone[what])
        # Enough, and not one filter more than that.
        assert amount[what] <= gone[what] < amount[what] + 0.15
    else:
        assert after < before


def test_an_amount_that_cannot_be_met_is_a_broken_promise():
    result = (
        shrunk("mlp", amount={"flops": 0.9}, ignore=["fc1"], targets=["fc1", "logits"])
        if False
        else shrunk("cnn", amount={"flops": 0.99}, targets=["conv2"])
    )
    assert broken(result.report) == ["share of the flops that is removed"]


def test_what_stays_at_zero_on_the_way():
    """Between the updates the units that were chosen are zero, everywhere."""
    model = untrained("cnn")
    data = digits("cnn")
    method = Shrinking(Shrink(amount=0.5, frequency="2st", end="50%"))
    attached = method.attach(
        model, data.x_train[:2], Grid(), Length(epochs=1, steps_per_epoch=8), Examples()
    )
    seen = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = model.get_layer("conv1").kernel.numpy()
            gone = (kernel == 0).all(axis=(0, 1, 2))
            reader = model.get_layer("conv2").kernel.numpy()
            np.testing.assert_array_equal((reader == 0).all(axis=(0, 1, 3)), gone)
            seen.append(int(gone.sum()))

    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=32,
        verbose=0,
        callbacks=[*attached.callbacks, Count()],
    )
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] == 4
    assert seen[4:] == [4] * 4
    smaller = attached.smaller()
    attached.detach()
    assert smaller.units == {"conv1": (8, 4), "conv2": (16, 8)}
    assert smaller.exact
    assert model.get_layer("conv1").kernel.constraint is None


def test_a_state_that_comes_back_moves_no_other():
    """The holds of other stages have a state of their own, and it is restored by itself."""
    model, length = untrained("cnn"), Length(epochs=1, steps_per_epoch=8)
    sample = digits("cnn").x_train[:2]
    stage = Cluster(clusters=4, targets=("conv2",))
    clusters = Clustering(stage).attach(model, sample, Grid(), length)
    shrinking = Shrinking(Shrink(amount=0.5, targets=("conv1",)))
    attached = shrinking.attach(model, sample, Grid(), length, Examples())
    before, kept = clusters.state(), attached.state()
    kernel = model.get_layer("conv2").kernel
    kernel.assign(kernel.numpy()[..., ::-1] ** 3)  # of another time than the state
    attached.restore(kept)
    after = clusters.state()
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


class TestSelection:
    def units(self, model, **settings):
        structure = follow(model)
        method = Shrinking(Shrink(amount=0.5, **settings))
        selection = method.select(model, "stages.shrink")
        assert selection.problems == ()
        taken = {id(weight.variable) for weight in selection.taken}
        free = candidates(structure, taken, (), taken if method.stage.targets else ())
        return {
            source.layer.name
            for source in structure.sources.values()
            if free[structure.units.find(source.labels)].any()
        }, {skip.path: skip.reason for skip in selection.skipped}

    def test_what_is_joined_comes_along(self):
        model = MODELS["cnn_bn"]()
        assert self.units(model, targets=["conv1"])[0] == {"conv1", "conv3"}

    def test_reasons(self):
        _, skipped = self.units(untrained("tiny_bert"))
        assert skipped["logits/kernel"] == ("goes through the activation of logits with the others")
        assert skipped["token_embedding/embeddings"] == (
            "is normalized over its units: they go only when targets names them"
        )
        assert skipped["block1_attention/attention_output/kernel"] == "has no units of its own"

    def test_width_goes_when_it_is_named(self):
        taken, _ = self.units(untrained("tiny_bert"), targets=["token_embedding"])
        assert {"token_embedding", "position_embedding", "block1_fc2"} <= taken

    def test_subclassed(self):
        with pytest.raises(ModelError, match="subclassed"):
            Shrinking(Shrink(amount=0.5)).select(MODELS["subclassed"](), "stages.shrink")

    def test_ignored_stays_with_all_that_is_joined(self):
        result = shrunk("cnn_bn", ignore=["conv3"])
        assert set(result.report.stages[0].units) == {"conv2"}


class TestChoice:
    def test_one_of_each_layer_is_left(self):
        structure = follow(MODELS["concat"]())
        free = candidates(
            structure,
            {maker for each in structure.sources.values() for maker in each.makers},
            (),
            (),
        )
        ordered, shares = order(structure, free, np.zeros(len(structure.units)), everywhere=True)
        assert len(ordered) == 6  # of two layers of four
        assert list(shares) == sorted(shares)

    def test_everywhere_or_in_each_layer(self):
        structure = follow(MODELS["concat"]())
        narrow, wide = (
            each.labels for each in structure.sources.values() if each.kind == "filters"
        )
        free = np.zeros(len(structure.units), dtype=bool)
        free[np.concatenate([narrow, wide])] = True
        scores = np.zeros(len(structure.units))
        scores[narrow], scores[wide] = [1, 2, 3, 4], [10, 20, 30, 40]
        ordered, shares = order(structure, free, scores, everywhere=True)
        assert list(ordered) == [*narrow[:3], *wide[:3]]
        ordered, shares = order(structure, free, scores, everywhere=False)
        assert list(ordered[:2]) == [narrow[0], wide[0]]
        assert list(shares) == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]

    @pytest.mark.parametrize("enough", range(6))
    def test_how_many(self, enough):
        assert how_many(np.arange(5), lambda gone: len(gone) >= enough) == min(enough, 5)


def test_the_order_of_stages():
    for first in (PRUNE, QUANTIZE, {"type": "cluster", "clusters": 4}):
        with pytest.raises(RecipeError) as raised:
            ck.plan(recipe(stages=[first, SHRINK]))
        (problem,) = raised.value.problems
        assert problem.found.startswith(f"shrink (shrink) after {first['type']}")
        assert problem.expected == "shrink first, then prune, cluster, qat"


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ({}, "one of units, parameters, flops, latency"),
        ({"flops": 0.5, "parameters": 0.5}, "one of units, parameters, flops, latency"),
        (1.5, "a number from 0 to 1 (0 and 1 excluded)"),
    ],
)
def test_wrong_amounts(amount, expected):
    with pytest.raises(RecipeError) as raised:
        recipe(stages=[{**SHRINK, "amount": amount}])
    assert any(expected in each.expected for each in raised.value.problems)


def test_the_report_shows_what_went():
    from compresskit.report.html import render

    report = shrunk("cnn").report
    page = render(report)
    assert '<td>conv2</td><td class="n">16</td><td class="n">8</td>' in page
    assert "multiply-adds of a sample" in page


def test_a_stage_that_is_rolled_back():
    """The model is what it was, and what the stage could not do breaks nothing."""
    gate = {"max_drop": 0.0, "on_fail": "rollback"}
    impossible = {"flops": 0.99}
    keras.utils.set_random_seed(0)
    made = recipe(
        stages=[{**SHRINK, "amount": impossible, "gate": gate, "learning_rate": 1e-6}],
        export=[FLOAT32],
    )
    result = ck.compress(untrained("cnn"), made, data=digits("cnn"))
    (stage,) = result.report.stages
    assert stage.rolled_back
    assert result.report.broken == ()
    assert result.model.get_layer("conv1").filters == 8
    assert np.count_nonzero(result.model.get_layer("conv1").kernel) == 72
    assert result.model.get_layer("conv1").kernel.constraint is None


def test_what_a_criterion_knows_nothing_of_stays():
    """Without a BatchNormalization nothing can be scaled down: that nothing went is told."""
    assert broken(shrunk("cnn", method="bn-scale").report) == ["units that are removed, at least"]
    structure = follow(MODELS["depthwise"]())
    scores = Evidence(structure=structure)
    ordered, _ = order(structure, structure.all_kept(), bn_scale(scores), everywhere=False)
    scaled = {
        int(root)
        for source in structure.sources.values()
        if source.kind == "filters"
        for root in structure.units.find(source.labels)
    }
    assert set(ordered.tolist()) < scaled


def test_an_end_before_the_begin():
    with pytest.raises(RecipeError) as raised:
        ck.plan(recipe(stages=[{**SHRINK, "begin": "1ep", "end": "100%"}]))
    (problem,) = raised.value.problems
    assert problem.expected == "begin before end, and end within the stage"
