"""compresskit.callback: compression inside the user's own `fit`."""

from __future__ import annotations

import csv
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import compresskit as ck
from compresskit.errors import ModelError, RecipeError, TrainingError
from compresskit.holds import holds_of
from compresskit.stages import Prune
from tests.models import MODELS, SEQUENCE_MODELS, cnn, mlp, subclassed
from tests.training import BATCH, FOLDED, STEPS, calls, compiled, inputs_of, labels

# Where the way to train does not matter: tracing a step takes longer than a few of them.
eager = functools.partial(compiled, run_eagerly=True)
PRUNE = {"type": "prune", "sparsity": 0.5, "frequency": "1st", "end": "100%"}
CLUSTER = {"type": "cluster", "clusters": 8}
QAT = {"type": "qat"}
X = inputs_of("mlp")
Y = labels()


def fit(model, callback, *, epochs=2, x=X, y=Y, callbacks=(), **settings):
    own = {"shuffle": False} if isinstance(x, tf.data.Dataset) else {"batch_size": BATCH}
    every = [callback, *callbacks]
    return model.fit(x, y, epochs=epochs, verbose=0, callbacks=every, **own, **settings).history


def plain(model):
    """That nothing of ours is left on a model."""
    return calls(model) == [] and not any(holds_of(each) for each in model.variables)


def zeros(model, name="fc1"):
    return float(np.mean(model.get_layer(name).kernel.numpy() == 0))


def problems_of(stages, model=None, *, epochs=2, **settings):
    model = model or eager(mlp())
    with pytest.raises(RecipeError) as caught:
        fit(model, ck.CompressionCallback(stages, **settings), epochs=epochs)
    assert plain(model)
    return caught.value.problems


# What comes out.


def test_figures_land_in_every_log(tmp_path):
    model = eager(mlp())
    callback = ck.CompressionCallback([PRUNE, {**CLUSTER, "epochs": 1}, QAT])
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(model, callback, epochs=4, callbacks=[log], validation_data=(X, Y))
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    for name in ("sparsity", "distinct_values", "quantization_error"):
        assert [float(row[name]) for row in written] == history[name]
    assert history["sparsity"][0] == pytest.approx(0.5, abs=1e-3)
    assert history["distinct_values"][0] > 100
    assert max(history["distinct_values"][1:]) == 8
    assert history["quantization_error"][:2] == [0.0, 0.0]
    assert 0.0 < history["quantization_error"][2] < 0.1
    assert "val_loss" in history


def test_the_model_is_plain_and_what_it_promised():
    model = eager(mlp())
    callback = ck.CompressionCallback([PRUNE, QAT], target="edge-cpu", precision="int8", sample=X)
    fit(model, callback)
    result = callback.result()
    assert plain(model)
    assert result.model is model
    assert result.broken == ()
    assert [stage.type for stage in result.stages] == ["prune", "qat"]
    assert result.stages[0].sparsity == pytest.approx(0.5, abs=1e-3)
    assert zeros(model) == pytest.approx(0.5, abs=1e-3)
    assert result.ranges == callback.ranges != ()
    assert len(np.unique(model.get_layer("fc1").kernel.numpy()[:, 0])) <= 255


CONTRACT = {
    "cnn": [PRUNE, CLUSTER, {**QAT, "distill": {"teacher": "baseline"}}],
    "lstm": [PRUNE, {**QAT, "distill": {"teacher": "previous"}}],
    "nested": [CLUSTER],
    "subclassed": [{"type": "distill"}, QAT],
    "tiny_bert": [{**PRUNE, "ignore": list(FOLDED["tiny_bert"])}, QAT],
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_file_keeps_the_promises(name, tmp_path):
    model = compiled({**MODELS, **SEQUENCE_MODELS}[name](), keras.optimizers.Adam(3e-3))
    x, stages = inputs_of(name), CONTRACT[name]
    trained = any(stage["type"] == "qat" for stage in stages)
    precision = "int8" if trained else "dynamic"
    callback = ck.CompressionCallback(stages, target="edge-cpu", precision=precision, sample=x)
    history = fit(model, callback, epochs=len(stages), x=x)
    assert plain(model)
    assert callback.result().broken == ()
    taught = [i for i, each in enumerate(stages) if "distill" in (each["type"], *each)]
    assert all(
        (value > 0) == (index in taught)
        for index, value in enumerate(history.get("distillation_loss", ()))
    )
    report = callback.export(path=tmp_path / "model.tflite")
    assert "FULLY_CONNECTED" in report.ops


def test_a_file_that_breaks_a_promise_is_not_written(tmp_path):
    model = eager(mlp())
    callback = ck.CompressionCallback([PRUNE])
    fit(model, callback, epochs=1)
    with pytest.raises(RecipeError, match="a name of `compresskit list targets`"):
        callback.export(path=tmp_path / "m.tflite")
    # As EarlyStopping does that restores the best weights.
    model.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in model.get_weights()])
    assert any("sparsity of fc1/kernel" in promise.what for promise in callback.result().broken)
    with pytest.raises(ck.CompressKitError, match="something has changed the weights"):
        callback.export(target="edge-cpu", precision="float32", path=tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


# Every way to train.


class OwnStep(keras.Model):
    """A step of its own, as Keras's guide writes it."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, x=x)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def own_step(cls=OwnStep):
    made = mlp()
    return cls(made.input, made.output)


def batched(data):
    return data.batch(BATCH)


DATA = tf.data.Dataset.from_tensor_slices((X, Y))
# Each has several of them: to trace a step takes long.
WAYS = {
    "steps_per_execution, use_ema, class_weight, tf.data": lambda: (
        compiled(mlp(), keras.optimizers.Adam(use_ema=True), steps_per_execution=3),
        {"x": batched(DATA), "y": None, "class_weight": {i: i / 5 for i in range(10)}},
    ),
    "jit_compile, gradient accumulation, sample_weight": lambda: (
        compiled(mlp(), keras.optimizers.Adam(gradient_accumulation_steps=3), jit_compile=True),
        {"sample_weight": np.linspace(0, 1, len(X))},
    ),
    "train_step, endless tf.data": lambda: (
        compiled(own_step()),
        {"x": batched(DATA.repeat()), "y": None, "steps_per_epoch": STEPS},
    ),
    "run_eagerly": lambda: (compiled(mlp(), run_eagerly=True), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train(way):
    model, settings = WAYS[way]()
    stages = [{**PRUNE, "distill": {}}, QAT]
    callback = ck.CompressionCallback(stages, target="edge-cpu", precision="int8")
    history = fit(model, callback, **settings)
    assert callback.result().broken == ()
    assert zeros(model) == pytest.approx(0.5, abs=1e-3)
    assert history["distillation_loss"][0] > 0 == history["distillation_loss"][1]
    assert len(callback.ranges) == 4


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(mlp())
    finally:
        keras.config.set_dtype_policy("float32")
    stages = [{**PRUNE, "distill": {}}, QAT]
    callback = ck.CompressionCallback(stages, target="edge-cpu", precision="int8", sample=X)
    fit(model, callback)
    assert model.get_layer("fc1").compute_dtype == policy.removeprefix("mixed_")
    assert callback.result().broken == ()
    assert callback.export(path=tmp_path / "m.tflite").ops["FULLY_CONNECTED"] == 2


def test_schedules_run_by_batches():
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(zeros(self.model))

    ramp = {"initial": 0.0, "final": 0.8, "power": 1.0}
    stage = {**PRUNE, "sparsity": ramp, "epochs": 2, "frequency": "2st", "end": "100%"}
    model = compiled(mlp(), keras.optimizers.Adam(gradient_accumulation_steps=2))
    fit(model, ck.CompressionCallback([stage]), callbacks=[See()])
    assert seen == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6], abs=1e-3)
    assert zeros(model) == pytest.approx(0.8, abs=1e-3)


def test_what_is_held_is_held_to_the_end():
    model = eager(mlp(), keras.optimizers.Adam(0.01))
    callback = ck.CompressionCallback([PRUNE])
    assert fit(model, callback, epochs=3)["sparsity"] == pytest.approx([0.5] * 3, abs=1e-3)
    assert callback.result().broken == ()


# What cannot be.


def test_all_problems_at_once():
    stages = [
        {"type": "shrink", "amount": 0.5},
        {"type": "qat", "targets": ["fc9"], "gate": {"max_drop": 0.1}},
        {**PRUNE, "targets": ["fc1"], "end": "30st"},
        {"type": "distill", "student": "lenet5"},
    ]
    found = "\n".join(map(str, problems_of(stages, target="edge-cpu", precision="int8")))
    for words in (
        "shrink, which goes on with a smaller model",
        "a student, which takes the place of the model",
        "a gate, which is measured against a baseline",
        "the pattern 'fc9' matches no weight",
        "end 30st is step 30, and the stage has 4 steps",
        "a new student has nothing of it",
        "2 epochs of training",
        "at least 4: 1 (shrink) + 1 (qat) + 1 (prune) + 1 (distill)",
        "use `compresskit.compress`",
    ):
        assert words in found


def test_an_epoch_has_a_known_length():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(BATCH)
    unknown = data.take(4).filter(lambda x, y: True)
    with pytest.raises(RecipeError, match="data whose length is not known"):
        fit(compiled(mlp()), ck.CompressionCallback([PRUNE]), x=unknown, y=None)


def test_a_model_without_a_shape_needs_a_sample():
    (problem,) = problems_of([QAT], compiled(subclassed()))
    assert problem.found == "subclassed, a subclassed model, which declares no input shape"
    assert problem.fix == "give `sample=x_train[:200]`"


def test_keys_of_a_loop_are_not_ours():
    with pytest.raises(RecipeError) as caught:
        ck.CompressionCallback([{**PRUNE, "learning_rate": 1e-3, "batch_size": 2}])
    places = [problem.where for problem in caught.value.problems]
    assert places == ["stages[0].learning_rate", "stages[0].batch_size"]
    assert caught.value.problems[0].expected == "stages without it: your own loop decides"


def test_a_recipe_may_have_such_keys(tmp_path):
    file = tmp_path / "r.yaml"
    head = "version: 1\nname: r\nmodel: lenet5\nstages:\n"
    file.write_text(f"{head}  - {{type: prune, sparsity: 0.5, learning_rate: 0.001}}\n")
    assert isinstance(ck.CompressionCallback(file).recipe.stages[0], Prune)
    file.write_text(f"{head}  - {{type: prune, sparsity: 1.5}}\n")
    with pytest.raises(RecipeError, match=r"r.yaml:5 stages\[0\].sparsity"):
        ck.CompressionCallback(file)


def test_an_unknown_target():
    with pytest.raises(ck.CompressKitError, match="did you mean 'edge-cpu'"):
        ck.CompressionCallback([QAT], target="edge-cpus")
    with pytest.raises(RecipeError, match="'int8' without a target"):
        ck.CompressionCallback([QAT], precision="int8")


def test_a_teacher_of_another_shape_or_width():
    small = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)])
    (problem,) = problems_of([{"type": "distill"}], teacher=small)
    assert "answers in shape [(3,)]" in problem.found
    losses = [{"type": "features", "layers": {"fc1": "fc"}}]
    inputs = keras.Input((8, 8, 1))
    hidden = layers.Dense(7, name="fc")(layers.Flatten()(inputs))
    other = keras.Model(inputs, layers.Dense(10)(hidden))
    (problem,) = problems_of([{"type": "distill", "losses": losses}], teacher=other)
    assert problem.found == "features of another width than the teacher's"


def test_the_teacher_that_is_given():
    teacher = mlp()
    before = teacher.get_weights()
    model = eager(mlp(), keras.optimizers.Adam(0.01))
    stage = {"type": "distill", "alpha": 1.0, "losses": [
        {"type": "logits"}, {"type": "features", "layers": {"fc1": "fc1"}}]}  # fmt: skip
    history = fit(
        model, ck.CompressionCallback([{**stage, "epochs": 5}], teacher=teacher), epochs=5
    )
    assert history["distillation_loss"][-1] < 0.5 * history["distillation_loss"][0]
    assert all(map(np.array_equal, before, teacher.get_weights()))
    assert calls(teacher) == []
    assert "compute_loss" not in vars(model)


# What goes wrong on the way.


def test_a_loss_that_is_no_number():
    model = eager(mlp())
    good = []

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            good.append(model.get_weights())
            model.optimizer.learning_rate = 1e38

    with pytest.raises(TrainingError) as caught:
        fit(model, ck.CompressionCallback([{**PRUNE, "epochs": 3}]), epochs=3, callbacks=[Break()])
    (problem,) = caught.value.problems
    assert problem.where == "prune"
    assert problem.found == "a loss of nan in epoch 2"
    assert problem.fix == "try a lower learning_rate"
    assert plain(model)
    assert all(map(np.array_equal, good[0], model.get_weights()))


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_interrupted_fit():
    model = eager(mlp())
    callback = ck.CompressionCallback([PRUNE, QAT], target="edge-cpu", precision="int8")
    with pytest.raises(KeyboardInterrupt):
        fit(model, callback, callbacks=[Interrupt(1)])
    assert not plain(model)
    with pytest.raises(ModelError, match="call `detach\\(\\)`"):
        callback.result()
    callback.detach()
    assert plain(model)
    assert "qat is trained for its epochs" in [each.what for each in callback.result().broken]


def test_the_next_fit_after_an_interruption():
    model = eager(mlp())
    with pytest.raises(KeyboardInterrupt):
        fit(model, ck.CompressionCallback([PRUNE, CLUSTER]), callbacks=[Interrupt(1)])
    again = ck.CompressionCallback([PRUNE])
    fit(model, again, epochs=1)
    assert plain(model)
    assert again.result().broken == ()


def test_training_that_ends_early():
    model = eager(mlp())
    stop = keras.callbacks.EarlyStopping("sparsity", mode="max", patience=0, baseline=1.0)
    callback = ck.CompressionCallback([{**PRUNE, "epochs": 3}])
    with pytest.warns(UserWarning, match="training ended after 2 of the 3 epochs"):
        fit(model, callback, epochs=3, callbacks=[stop])
    assert plain(model)
    assert [promise.measured for promise in callback.result().broken] == ["fewer"]


class NoLoss(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(y, self(x, training=True))
            )
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


class NoOptimizer(keras.Model):
    def train_step(self, data):
        for weight in self.trainable_variables:
            weight.assign_add(keras.ops.full_like(weight, 1e-6))
        return {"loss": 1.0}


def test_a_step_that_does_not_do_its_part():
    callback = ck.CompressionCallback([{"type": "distill"}])
    with pytest.raises(TrainingError, match="does not ask for the model's loss"):
        fit(compiled(own_step(NoLoss)), callback, epochs=1)
    callback = ck.CompressionCallback([{**PRUNE, "end": "1st"}])
    model = compiled(own_step(NoOptimizer))
    with pytest.raises(TrainingError, match="fc1/kernel without what prune holds"):
        fit(model, callback, epochs=1)
    assert plain(model)
    with pytest.raises(TrainingError, match="no activation was seen"):
        fit(model, ck.CompressionCallback([QAT]), epochs=1)


def test_ranges_do_not_learn_from_validation_data():
    model = compiled(cnn())
    callback = ck.CompressionCallback([QAT], target="edge-cpu", precision="int8")
    fit(model, callback, epochs=1, x=inputs_of("cnn"), validation_data=(1000 * X, Y))
    assert max(each.high for each in callback.ranges) < 100
