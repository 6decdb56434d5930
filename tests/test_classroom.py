"""compresskit.classroom: runs in which a teacher teaches, for every kind of model."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import compresskit as ck
from tests.models import MODELS, SEQUENCE_MODELS, cnn, mlp
from tests.runs import PRUNE, QUANTIZE, digits, one_stage, recipe, report_in, untrained
from tests.training import inputs_of

# A CNN goes through every stage below; a GRU is to teaching what an LSTM is.
SOME = ("lstm", "tiny_bert", "nested", "subclassed")
CLUSTER = {"name": "share", "type": "cluster", "clusters": 8, "epochs": 1}
QUICK = {"learning_rate": 0.003, "batch_size": 64}


def run(*stages, model=None, data=None, **changes):
    plain = recipe(
        **{"stages": list(stages), "export": [], "defaults": QUICK, "baseline": None, **changes}
    )
    return ck.compress(model or cnn(), plain, data=data or digits())


@pytest.mark.parametrize("name", SOME)
def test_every_kind_of_model_teaches_and_learns(name):
    student = {"builder": "tests.runs:untrained", "args": {"model": name}}
    stages = [
        {"type": "distill", "student": student},
        {**QUANTIZE, "distill": {"teacher": "previous", "cache": False}},
    ]
    made = run(*stages, model={**MODELS, **SEQUENCE_MODELS}[name](), data=digits(name))
    assert made.report.broken == ()
    for stage in made.report.stages:
        assert np.isfinite(stage.history["distillation_loss"]).all()
    assert all("call" not in vars(layer) for layer in made.model._flatten_layers())


def test_every_stage_learns_from_every_teacher():
    stages = [
        {
            "type": "distill",
            "student": {"builder": "tests.runs:untrained", "args": {"model": "cnn"}},
        },
        {**PRUNE, "distill": {"teacher": "previous", "cache": False}},
        {**CLUSTER, "distill": {"teacher": "baseline"}},
        {**QUANTIZE, "distill": {"temperature": 4, "alpha": 1.0}},
    ]
    made = run(*stages, model=cnn(), data=digits())
    assert [stage.type for stage in made.report.stages] == ["distill", "prune", "cluster", "qat"]
    assert made.report.broken == ()
    for stage in made.report.stages:
        assert np.isfinite(stage.history["distillation_loss"]).all()
    pruned = [layer for layer in made.report.stages[1].layers if layer.skipped is None]
    assert pruned
    assert all(layer.sparsity == pytest.approx(0.5, abs=0.01) for layer in pruned)
    assert all("call" not in vars(layer) for layer in made.model._flatten_layers())


class TestTeachers:
    def test_a_student_learns_what_no_label_says(self):
        """From the teacher's answers alone, to samples of labels that are all wrong."""
        data = digits()
        teacher = untrained()
        teacher.compile("adam", "sparse_categorical_crossentropy")
        teacher.fit(data.x_train, data.y_train, epochs=30, verbose=0)
        known = type(data)
        wrong = known(
            name="wrong labels",
            x_train=data.x_train,
            y_train=(data.y_train + 1) % 10,
            x_test=data.x_test,
            y_test=data.y_test,
            classes=data.classes,
        )
        student = {"builder": "tests.models:mlp"}
        stage = {"type": "distill", "student": student, "alpha": 1.0, "epochs": 30}
        made = run({**stage, "learning_rate": 0.01}, model=teacher, data=wrong)
        right = made.report.baseline.metrics["accuracy"]
        assert right > 0.7
        assert made.report.stages[0].metrics["accuracy"] > right - 0.1

    def test_with_nothing_to_say_the_teacher_is_not_asked(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            "compresskit.distillation.distiller.Distiller.ask",
            lambda self, samples: asked.append(samples),
        )
        stage = {"type": "distill", "student": {"builder": "tests.models:mlp"}, "alpha": 0.0}
        made = run(stage)
        assert asked == []
        history = made.report.stages[0].history
        assert history["loss"] == pytest.approx(history["student_loss"], rel=0.1)

    def test_the_user_keeps_the_teacher_as_it_was(self):
        teacher = cnn()
        teacher.get_layer("conv1").trainable = False
        before = teacher.get_weights()
        made = run({"type": "distill", "student": {"builder": "tests.models:mlp"}}, model=teacher)
        assert made.model.name == "mlp"
        assert [layer.name for layer in teacher.layers if not layer.trainable] == ["conv1"]
        for value, old in zip(teacher.get_weights(), before, strict=True):
            np.testing.assert_array_equal(value, old)

    def test_the_baseline_teaches_to_the_end(self):
        """With nothing but its answers to learn from, a pruned model comes back to it."""
        model, data = untrained(), digits()
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(data.x_train, data.y_train, epochs=20, verbose=0)
        baseline = np.asarray(model(data.x_train))

        def distance(teacher):
            twin = keras.models.clone_model(model)
            twin.set_weights(model.get_weights())
            harsh = {**PRUNE, "sparsity": 0.7, "learning_rate": 1e-6}
            later = {**QUANTIZE, "epochs": 8, "learning_rate": 0.003}
            later["distill"] = {"teacher": teacher, "alpha": 1.0}
            made = run(harsh, later, model=twin, data=data)
            return np.abs(np.asarray(made.model(data.x_train)) - baseline).mean()

        assert distance("baseline") < 0.7 * distance("previous")

    def test_layers_of_the_trained_teacher(self):
        stage = {"type": "distill", "student": {"from": "teacher", "layers": [0]}, "epochs": 1}
        made = run(
            {**stage, "learning_rate": 1e-9},
            model=SEQUENCE_MODELS["tiny_bert"](),
            data=digits("tiny_bert"),
            baseline={"epochs": 2, "learning_rate": 0.01, "batch_size": 64},
        )
        teacher = SEQUENCE_MODELS["tiny_bert"]()
        student = made.model.get_layer("token_embedding").embeddings.numpy()
        # Not those that the student was made with, before its teacher was trained.
        assert (
            np.abs(student - teacher.get_layer("token_embedding").embeddings.numpy()).max() > 1e-3
        )

    def test_a_gate_gives_the_teacher_back(self):
        gate = {"max_drop": 0.0, "on_fail": "rollback"}
        student = {"builder": "tests.models:mlp"}
        data = digits()
        model = untrained("cnn")
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(data.x_train, data.y_train, epochs=10, verbose=0)
        stage = {"type": "distill", "student": student, "gate": gate, "learning_rate": 1e-9}
        made = run(stage, {**PRUNE, "distill": {}}, model=model, data=data)
        assert made.report.stages[0].rolled_back
        assert made.model is model
        assert next(layer.path for layer in made.report.stages[1].layers) == "conv1/kernel"


def test_the_file_of_a_student(tmp_path):
    student = {"builder": "tests.models:mlp"}
    losses = [{"type": "logits"}, {"type": "features", "layers": {"fc1": "flatten"}, "weight": 0.1}]
    stage = {"type": "distill", "student": student, "losses": losses, "epochs": 1}
    plain = one_stage(stages=[stage, {**QUANTIZE, "distill": {}}])
    made = ck.compress(cnn(), ck.Recipe.from_dict(plain), data=digits(), out=tmp_path / "out")
    assert made.report.broken == ()
    report = report_in(tmp_path / "out")
    assert report["baseline"]["parameters"] == cnn().count_params()
    assert report["artifacts"][0]["bytes"] < report["baseline"]["tflite_bytes"]
    loaded = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert loaded.count_params() == mlp().count_params()
    x = inputs_of("cnn", 8)
    np.testing.assert_allclose(loaded(x), made.model(x), atol=1e-6)


def test_the_same_seed_gives_the_same_student():
    stage = {"type": "distill", "student": {"builder": "tests.models:mlp"}, "epochs": 2}

    def weights():
        keras.utils.set_random_seed(5)
        return run(stage, model=cnn()).model.get_weights()

    for one, other in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(one, other)
