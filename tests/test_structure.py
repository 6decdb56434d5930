"""compresskit.structure: removing what is zero changes nothing, in any graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from compresskit.errors import ModelError
from compresskit.structure.follow import follow
from compresskit.structure.rebuild import rebuild
from compresskit.structure.units import Units
from tests.models import MODELS, SEQUENCE_MODELS, sequences

GRAPHS = {**MODELS, **SEQUENCE_MODELS}
FOLLOWED = sorted(set(GRAPHS) - {"subclassed"})


def inputs(name, model, count=4):
    if name in SEQUENCE_MODELS:
        return sequences(name, count)
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def half(structure, seed=0):
    """A choice without half of the units that may go, and at least one of every layer."""
    random = np.random.default_rng(seed)
    kept = structure.all_kept()
    units = structure.units
    for source in structure.sources.values():
        free = [root for root in np.unique(units.find(source.labels)) if units.reason(root) is None]
        kept[random.permutation(free)[: len(free) // 2].astype(int)] = False
    for source in structure.sources.values():
        if not structure.left(kept, source.labels).any():
            kept[units.find(source.labels[:1])] = True
    return kept


def randomize(model, seed=0):
    """Offsets and averages that are not zero: what depends on one shows."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.path.endswith(("gamma", "beta", "bias", "moving_mean")):
            variable.assign(random.normal(0.5, 0.3, variable.shape))


def to_zero(structure, kept):
    for variable in structure.units.variables:
        variable.assign(variable.numpy() * structure.mask(variable, kept))


def answers(model, x):
    return [np.asarray(each) for each in keras.tree.flatten(model(x, training=False))]


def check(model, x, seed=0):
    """Half of the units at zero, and gone: the outputs are equal. Gives both models."""
    randomize(model, seed)
    structure = follow(model)
    kept = half(structure, seed)
    to_zero(structure, kept)
    smaller = rebuild(structure, kept)
    for one, other in zip(answers(model, x), answers(smaller, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert smaller.count_params() == structure.parameters(kept) < model.count_params()
    assert structure.multiply_adds(kept) < structure.multiply_adds(structure.all_kept())
    assert type(smaller) is type(model)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    assert [each.path for each in smaller.weights] == [each.path for each in model.weights]
    return smaller


@pytest.mark.parametrize("name", [name for name in FOLLOWED if name != "tiny_bert"])
def test_zeros_are_removed(name, tmp_path):
    model = GRAPHS[name]()
    smaller = check(model, inputs(name, model))
    # A plain Keras model: it saves, loads and trains.
    smaller.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = inputs(name, model)
    np.testing.assert_array_equal(answers(loaded, x), answers(smaller, x))
    loaded.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    assert np.isfinite(loaded.train_on_batch(x, np.arange(len(x))))


def test_heads_and_feed_forward():
    """Without the width, which LayerNormalization takes the mean of."""
    model = GRAPHS["tiny_bert"]()
    randomize(model)
    structure = follow(model)
    kinds = {(source.layer.name, source.kind) for source in structure.sources.values()}
    assert {("block1_attention", "heads"), ("block1_fc1", "units")} <= kinds
    assert structure.measured
    kept = structure.all_kept()
    for source in structure.sources.values():
        if source.kind == "heads" or source.layer.name == "block1_fc1":
            kept[source.labels[::2]] = False
    to_zero(structure, kept)
    smaller = rebuild(structure, kept)
    x = sequences("tiny_bert", 8)
    np.testing.assert_allclose(answers(smaller, x), answers(model, x), atol=1e-5)
    attention = smaller.get_layer("block1_attention")
    assert (attention.num_heads, attention.key_dim) == (1, 8)
    assert smaller.get_layer("block1_fc1").units == 16
    # All that is as wide as the embedding goes with it.
    width = next(source for source in structure.sources.values() if source.kind == "width")
    kept[structure.units.find(width.labels[:6])] = False
    narrow = rebuild(structure, kept)
    assert narrow.get_layer("block1_norm").gamma.shape == (10,)
    assert narrow.count_params() == structure.parameters(kept)


APPLICATIONS = {
    "ResNet50": (64, 1.0),
    "MobileNetV2": (64, 1.0),
    "DenseNet121": (64, 1.0),
    "EfficientNetB0": (64, 255.0),
    "InceptionV3": (75, 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras_applications(name):
    size, scale = APPLICATIONS[name]
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=20, classifier_activation=None)
    x = np.random.default_rng(1).uniform(0, scale, (2, size, size, 3)).astype(np.float32)
    smaller = check(model, x)
    # Every convolution may lose filters.
    convolutions = [layer for layer in model.layers if type(layer) is layers.Conv2D]
    assert all(
        smaller.get_layer(layer.name).filters < layer.filters or layer.filters == 1
        for layer in convolutions
    )


def split():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(12, 3, activation="relu", name="conv")(image)
    one, other = ops.split(x, [4], axis=-1)
    one = layers.Conv2D(4, 1, name="one")(one)
    other = layers.Conv2D(4, 1, name="other")(other)
    x = layers.Flatten()(layers.Subtract()([one, other]))
    return keras.Model(image, layers.Dense(10)(x))


def reshaped():
    """Squeeze and excite: the gate is brought back to (1, 1, channels)."""
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    gate = layers.Dense(4, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(x))
    gate = layers.Dense(8, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    x = ops.reshape(layers.Permute((2, 1, 3))(x), (-1, 36, 8))
    x = layers.Conv1D(4, 3, name="conv1d")(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def shared():
    """One convolution for two tensors, and a model inside that is called twice."""
    image = keras.Input((8, 8, 1))
    inner_input = keras.Input((8, 8, 6))
    inner = keras.Model(inner_input, layers.Conv2D(6, 3, padding="same", name="c")(inner_input))
    conv = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv")
    one, other = conv(image), conv(image * 2.0)
    x = layers.Concatenate()([inner(one), inner(other)])
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def two_in_two_out():
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    one = layers.Dense(8, activation="tanh", name="one")(left)
    other = layers.Dense(8, activation="tanh", name="other")(right)
    met = layers.Add(name="met")([one, other])
    first = layers.Dense(3, name="first")(met)
    second = layers.Dense(2, name="second")(layers.Concatenate()([met, one]))
    return keras.Model({"left": left, "right": right}, {"a": first, "b": second})


def states():
    """A decoder that begins in the encoder's state."""
    inputs = keras.Input((12, 6))
    _, h, c = layers.LSTM(8, return_state=True, name="encoder")(inputs)
    x = layers.LSTM(8, name="decoder")(inputs, initial_state=[h, c])
    return keras.Model(inputs, layers.Dense(10)(x))


OTHERS = {each.__name__: each for each in (split, reshaped, shared, two_in_two_out, states)}


@pytest.mark.parametrize("name", OTHERS)
def test_other_graphs(name):
    model = OTHERS[name]()
    random = np.random.default_rng(1)
    x = keras.tree.map_structure(
        lambda tensor: random.normal(size=(4, *tensor.shape[1:])).astype(np.float32), model.input
    )
    before = {layer.name: layer.count_params() for layer in model.layers}
    smaller = check(model, x)
    with_weights = {name for name, count in before.items() if count}
    same = {
        layer.name
        for layer in smaller.layers
        if layer.name in with_weights and layer.count_params() == before[layer.name]
    }
    assert same == set()


class TestWhatStays:
    def reason(self, model, layer):
        structure = follow(model)
        source = next(each for each in structure.sources.values() if each.layer.name == layer)
        return structure.units.reason(source.labels[0])

    def test_outputs(self):
        assert self.reason(split(), "dense") == "is an output of the model"

    def test_unknown_layers(self):
        @keras.saving.register_keras_serializable(package="compresskit_tests")
        class Odd(layers.Layer):
            def call(self, inputs):
                return inputs[..., ::-1]

        image = keras.Input((4,))
        x = Odd(name="odd")(layers.Dense(6, name="fc")(image))
        model = keras.Model(image, layers.Dense(2, name="last")(layers.Dense(4, name="mid")(x)))
        assert self.reason(model, "fc") == "goes into odd (Odd), which cannot be followed"
        assert self.reason(model, "mid") is None

    def test_what_meets_the_input(self):
        image = keras.Input((4,))
        x = layers.Add(name="add")([image, layers.Dense(4, name="fc")(image)])
        model = keras.Model(image, layers.Dense(2)(x))
        assert self.reason(model, "fc") == "meets in add what cannot be removed"

    def test_softmax_between(self):
        image = keras.Input((4,))
        model = keras.Model(
            image, layers.Dense(2)(layers.Dense(4, activation="softmax", name="fc")(image))
        )
        assert "goes through the activation of fc" in self.reason(model, "fc")

    def test_subclassed(self):
        with pytest.raises(ModelError) as raised:
            follow(GRAPHS["subclassed"](), "stages.shrink")
        (problem,) = raised.value.problems
        assert problem.where == "stages.shrink"
        assert "subclassed, a subclassed model" in problem.found
        assert problem.expected == "a functional or sequential model"


def test_multiply_adds_of_a_convolution():
    """Each of 6 x 6 positions and 4 filters: 3 x 3 x 2."""
    image = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, name="conv")(image)
    model = keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))
    structure = follow(model)
    kept = structure.all_kept()
    assert structure.multiply_adds(kept) == 36 * 4 * 18 + 36 * 4 * 10
    kept[next(iter(structure.sources.values())).labels[0]] = False
    assert structure.multiply_adds(kept) == 36 * 3 * 18 + 36 * 3 * 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_joined_is_an_equivalence(pairs):
    """As by following the pairs one by one."""
    units = Units()
    labels = units.new(10)
    sets = [{number} for number in range(10)]
    for one, other in pairs:
        units.join(labels[[one]], labels[[other]], "joined")
        merged = sets[one] | sets[other]
        for member in merged:
            sets[member] = merged
    found = units.find(labels)
    for one in range(10):
        for other in range(10):
            assert (found[one] == found[other]) == (other in sets[one])


@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 999),
    widths=st.lists(st.integers(2, 6), min_size=1, max_size=4),
    ways=st.lists(st.sampled_from(["add", "concat", "pass", "norm"]), min_size=4, max_size=4),
)
def test_random_graphs(seed, widths, ways):
    """Dense layers that are added to, put beside, or normalized with what came before."""
    given_input = keras.Input((3,))
    x = layers.Dense(4)(given_input)
    for width, way in zip(widths, ways, strict=False):
        before = x
        if way == "add":
            x = layers.Add()([before, layers.Dense(before.shape[-1], activation="relu")(x)])
        elif way == "concat":
            x = layers.Concatenate()([before, layers.Dense(width)(x)])
        elif way == "norm":
            x = layers.BatchNormalization()(layers.Dense(width, activation="tanh")(x))
        else:
            x = layers.Dense(width, activation="gelu")(x)
    model = keras.Model(given_input, layers.Dense(2)(x))
    check(model, np.random.default_rng(seed).normal(size=(5, 3)).astype(np.float32), seed)
