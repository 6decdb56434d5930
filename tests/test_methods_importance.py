"""compresskit.methods.importance: every registered criterion, on every model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from compresskit import catalog
from compresskit.methods.importance import Evidence, bn_scale, taylor
from compresskit.structure.follow import follow
from tests.runs import digits, untrained

KINDS = ("cnn_bn", "concat", "depthwise", "nested", "bidirectional", "gru", "tiny_bert")
LOSS = "sparse_categorical_crossentropy"


def evidence(model, name):
    data = digits(name)
    return Evidence(structure=follow(model), x=data.x_train[:96], y=data.y_train[:96], loss=LOSS)


@pytest.mark.parametrize("criterion", catalog.unit_criteria.names())
@pytest.mark.parametrize("name", KINDS)
def test_what_is_zero_comes_last(criterion, name):
    """A score for every label; a unit of which everything is zero has the lowest of its layer."""
    model = untrained(name)
    given = evidence(model, name)
    structure = given.structure
    source = next(
        each
        for each in structure.sources.values()
        if structure.units.reason(each.labels[0]) is None and each.kind != "width"
    )
    gone = structure.all_kept()
    gone[structure.units.find(source.labels[1:2])] = False
    for variable in structure.units.variables:
        variable.assign(variable.numpy() * structure.mask(variable, gone))
    scores = catalog.unit_criteria.get(criterion)(given)
    assert scores.shape == (len(structure.units),)
    roots = structure.units.find(source.labels)
    assert np.isfinite(scores[roots]).all() or criterion == "bn-scale"
    assert scores[roots[1]] == scores[roots].min()
    if criterion != "bn-scale":
        assert scores[roots].max() > scores[roots[1]] >= 0


def two_units(kernel):
    """Two inputs, two units whose weights are given, and their sum."""
    inputs = keras.Input((2,))
    x = layers.Dense(2, use_bias=False, name="fc")(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(x))
    model.set_weights([np.array(kernel, np.float32), np.ones((2, 1), np.float32)])
    return model


def test_means_of_weights():
    model = two_units([[3.0, 1.0], [-4.0, 1.0]])
    structure = follow(model)
    labels = next(iter(structure.sources.values())).labels
    for name, expected in (("l1", [3.5, 1.0]), ("l2", [np.sqrt(12.5), 1.0])):
        scores = catalog.unit_criteria.get(name)(Evidence(structure=structure))[labels]
        np.testing.assert_allclose(scores, expected / np.mean(expected), rtol=1e-6)


def test_taylor_is_weight_times_gradient():
    """Of a mean squared error of a linear model it can be written down."""
    model = two_units([[1.0, 2.0], [1.0, -1.0]])
    x = np.array([[1.0, 2.0], [3.0, 1.0]], np.float32)
    y = np.zeros((2, 1), np.float32)
    structure = follow(model)
    scores = taylor(Evidence(structure=structure, x=x, y=y, loss="mse"))
    units = x @ np.array([[1.0, 2.0], [1.0, -1.0]])
    slope = 2 * units.sum(axis=1) / 2
    expected = (slope[:, None] * units).sum(axis=0) ** 2
    labels = next(iter(structure.sources.values())).labels
    np.testing.assert_allclose(scores[labels], expected, rtol=1e-5)


def test_without_normalization_there_is_no_scale():
    model = two_units([[1.0, 2.0], [1.0, -1.0]])
    structure = follow(model)
    labels = next(iter(structure.sources.values())).labels
    assert np.isinf(bn_scale(Evidence(structure=structure))[labels]).all()
