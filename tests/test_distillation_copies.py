"""compresskit.distillation.copies: a second model with the weights of a first."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from compresskit.distillation.copies import copy_of
from compresskit.errors import ModelError
from compresskit.method import Length
from compresskit.methods.cluster import Clustering
from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.stages import QAT, Cluster, Prune
from compresskit.target import Grid
from tests.models import CLASSES, MODELS, SEQUENCE_MODELS, cnn
from tests.training import inputs_of

ALL = {**MODELS, **SEQUENCE_MODELS}


@pytest.mark.parametrize("name", ALL)
def test_it_answers_alike_and_is_another(name):
    model, x = ALL[name](), inputs_of(name, 8)
    made = copy_of(model)
    before = np.asarray(model(x, training=False))
    np.testing.assert_array_equal(made(x, training=False), before)
    for variable in made.variables:
        variable.assign(variable * 0)
    np.testing.assert_array_equal(model(x, training=False), before)


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        (Pruning, Prune(sparsity=0.5, begin="0ep", frequency="1st")),
        (Clustering, Cluster(clusters=4)),
        (Quantization, QAT(weight_bits=3)),
    ],
)
def test_weights_are_as_the_layers_read_them(method, stage):
    model, x = cnn(), inputs_of("cnn", 8)
    attached = method(stage).attach(
        model, x[:2], Grid(activations=False), Length(epochs=1, steps_per_epoch=4)
    )
    for callback in attached.callbacks:
        callback.set_model(model)
    made = copy_of(model)
    np.testing.assert_allclose(made(x), model(x, training=False), atol=1e-5)
    assert all("call" not in vars(layer) for layer in made._flatten_layers())
    assert all(variable.constraint is None for variable in made.trainable_variables)
    attached.detach()


def test_a_class_that_is_not_registered():
    class Own(keras.Model):
        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.dense = keras.layers.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    x = np.ones((2, 3), np.float32)
    model(x)
    np.testing.assert_array_equal(copy_of(model)(x), model(x))


def test_what_cannot_be_written_down():
    class Closed(keras.Model):
        def __init__(self, function):
            super().__init__(name="closed")
            self.function = function
            self.dense = keras.layers.Dense(CLASSES)

        def call(self, inputs):
            return self.dense(self.function(inputs))

    model = Closed(lambda values: values)
    model(np.ones((2, 3), np.float32))
    with pytest.raises(ModelError) as caught:
        copy_of(model, "recipe.yaml:9 stages[1].distill.teacher")
    (problem,) = caught.value.problems
    assert "closed cannot be copied" in problem.found
    assert "name the file as the teacher" in problem.fix
