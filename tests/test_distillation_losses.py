"""compresskit.distillation.losses: held against NumPy, written from the papers' formulas."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from compresskit.distillation.losses import FeatureLoss, LogitsLoss, logits

RANDOM = np.random.default_rng(3)


def softmax(values):
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def divergence(taught, learned):
    return (taught * (np.log(taught) - np.log(learned))).sum(axis=-1)


def value(loss, taught, learned, **given):
    made = loss.compute_loss(
        keras.tree.map_structure(lambda each: keras.ops.convert_to_tensor(each, "float32"), taught),
        keras.tree.map_structure(
            lambda each: keras.ops.convert_to_tensor(each, "float32"), learned
        ),
        **given,
    )
    assert made.shape == ()
    return float(made)


class TestLogits:
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    @pytest.mark.parametrize("shape", [(5, 7), (5, 3, 7)])
    def test_hinton(self, temperature, shape):
        taught, learned = RANDOM.normal(size=(2, *shape)) * 3
        expected = (
            temperature**2
            * divergence(softmax(taught / temperature), softmax(learned / temperature)).mean()
        )
        made = value(LogitsLoss(temperature, ["logits"], ["logits"]), taught, learned)
        assert made == pytest.approx(expected, rel=1e-4)

    def test_probabilities_are_those_of_the_same_logits(self):
        taught, learned = RANDOM.normal(size=(2, 5, 7)) * 2
        plain = value(LogitsLoss(3.0, ["logits"], ["logits"]), taught, learned)
        mixed = value(LogitsLoss(3.0, ["probabilities"], ["logits"]), softmax(taught), learned)
        both = LogitsLoss(3.0, ["probabilities"], ["probabilities"])
        assert mixed == pytest.approx(plain, rel=1e-4)
        assert value(both, softmax(taught), softmax(learned)) == pytest.approx(plain, rel=1e-4)

    @pytest.mark.parametrize("of", ["shares", "scores"])
    def test_yes_or_no(self, of):
        taught, learned = RANDOM.normal(size=(2, 6, 4)) * 2
        one, other = sigmoid(taught / 2.0), sigmoid(learned / 2.0)
        pairs = np.stack([one, 1 - one], -1), np.stack([other, 1 - other], -1)
        expected = 4.0 * divergence(*pairs).mean()
        given = (sigmoid(taught), sigmoid(learned)) if of == "shares" else (taught, learned)
        assert value(LogitsLoss(2.0, [of], [of]), *given) == pytest.approx(expected, rel=1e-3)

    def test_numbers(self):
        taught, learned = RANDOM.normal(size=(2, 6, 2))
        made = value(LogitsLoss(3.0, ["numbers"], ["numbers"]), taught, learned)
        assert made == pytest.approx(((taught - learned) ** 2).mean(), rel=1e-5)

    def test_several_outputs_are_added_up(self):
        one, other = RANDOM.normal(size=(2, 5, 3)), RANDOM.normal(size=(2, 5, 1))
        kinds = ["logits", "numbers"]
        both = value(LogitsLoss(3.0, kinds, kinds), [one[0], other[0]], [one[1], other[1]])
        apart = value(LogitsLoss(3.0, kinds[:1], kinds[:1]), *one) + value(
            LogitsLoss(3.0, kinds[1:], kinds[1:]), *other
        )
        assert both == pytest.approx(apart, rel=1e-5)

    def test_certainty_is_finite(self):
        sure = np.eye(3)
        loss = LogitsLoss(1.0, ["probabilities"], ["probabilities"])
        assert np.isfinite(value(loss, sure, sure[::-1]))
        assert value(loss, sure, sure) == pytest.approx(0.0, abs=1e-5)
        for share in (0.0, 1.0):
            assert np.isfinite(np.asarray(logits(keras.ops.full((2,), share), "shares"))).all()


class TestFeatures:
    def test_squares(self):
        taught, learned = RANDOM.normal(size=(2, 4, 5, 6))
        expected = ((taught - learned) ** 2).mean()
        assert value(FeatureLoss("mse"), taught, learned) == pytest.approx(expected, rel=1e-5)

    def test_cosine(self):
        taught, learned = RANDOM.normal(size=(2, 4, 6))
        norms = np.linalg.norm(taught, axis=-1) * np.linalg.norm(learned, axis=-1)
        expected = 1 - ((taught * learned).sum(axis=-1) / norms).mean()
        assert value(FeatureLoss("cosine"), taught, learned) == pytest.approx(expected, rel=1e-5)
        assert value(FeatureLoss("cosine"), taught, 3 * taught) == pytest.approx(0.0, abs=1e-6)

    def test_a_projection(self):
        taught, learned = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(4, 3))
        projection = keras.layers.Dense(6, use_bias=False)
        projection.build((None, 3))
        expected = ((taught - learned @ projection.kernel.numpy()) ** 2).mean()
        made = value(FeatureLoss("mse", projection), taught, learned)
        assert made == pytest.approx(expected, rel=1e-4)

    def test_padding_does_not_count(self):
        taught, learned = RANDOM.normal(size=(2, 4, 5, 6))
        tokens = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
        errors = ((taught - learned) ** 2).mean(axis=-1)
        made = value(FeatureLoss("mse"), taught, learned, tokens=tokens)
        assert made == pytest.approx(errors[tokens == 1].mean(), rel=1e-5)

    def test_of_nothing_but_padding_the_loss_is_zero(self):
        taught, learned = RANDOM.normal(size=(2, 4, 5, 6))
        assert value(FeatureLoss("mse"), taught, learned, tokens=np.zeros((4, 5))) == 0.0

    def test_what_has_no_steps_knows_no_padding(self):
        taught, learned = RANDOM.normal(size=(2, 4, 6))
        made = value(FeatureLoss("mse"), taught, learned, tokens=np.zeros((4, 5)))
        assert made == pytest.approx(((taught - learned) ** 2).mean(), rel=1e-5)

    @pytest.mark.parametrize("heads", [2, 4])
    def test_attention(self, heads):
        taught = softmax(RANDOM.normal(size=(3, 4, 5, 5)))
        learned = softmax(RANDOM.normal(size=(3, heads, 5, 5)))
        tokens = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
        one, other = (taught, learned) if heads == 4 else (taught.mean(1), learned.mean(1))
        errors = divergence(one, other)
        queries = np.broadcast_to(tokens[:, None] if heads == 4 else tokens, errors.shape)
        made = value(FeatureLoss("kl", heads=True), taught, learned, tokens=tokens)
        assert made == pytest.approx(errors[queries == 1].mean(), rel=1e-4)
