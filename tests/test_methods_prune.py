"""compresskit.methods.prune: masks on a schedule, kept by a hold."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from compresskit import catalog
from compresskit.holds import holds_of
from compresskit.method import Length
from compresskit.methods.masks import kept
from compresskit.methods.prune import Pruning
from compresskit.stages import Prune
from compresskit.target import Grid
from compresskit.weights import weights_of
from tests.models import MODELS, cnn, depthwise, mlp
from tests.training import STEPS, compiled, fit, inputs_of, length

RAMP = {"initial": 0.2, "final": 0.75}


def attach(model, x, epochs=2, **settings):
    settings = {"sparsity": RAMP, "frequency": "2st", **settings}
    method = Pruning(Prune(**settings))
    return method, method.attach(model, x[:2], Grid(), length(epochs))


def zeros(variable):
    return int(np.sum(variable.numpy() == 0.0))


def touched(model, attached):
    return [weight for weight in weights_of(model) if weight.path in attached.touched]


class TestContract:
    """What holds of every model."""

    @pytest.mark.parametrize("name", MODELS)
    def test_each_weight_comes_to_its_sparsity_exactly_and_detaches_plain(self, name):
        x = inputs_of(name)
        model = compiled(MODELS[name](), keras.optimizers.AdamW(0.01, weight_decay=0.01))
        before = {variable.path: variable.constraint for variable in model.trainable_variables}
        _, attached = attach(model, x)
        pruned = touched(model, attached)
        assert pruned
        fit(model, x, attached)
        for weight in pruned:
            size = int(np.prod(weight.shape))
            assert zeros(weight.variable) == size - kept(size, 0.75)
        assert attached.detach() == {}
        for weight in pruned:
            size = int(np.prod(weight.shape))
            assert zeros(weight.variable) == size - kept(size, 0.75)
        for variable in model.trainable_variables:
            assert variable.constraint is before[variable.path]

    @pytest.mark.parametrize("name", ["cnn_bn", "nested"])
    def test_all_together_come_to_the_sparsity_exactly(self, name):
        x = inputs_of(name)
        model = compiled(MODELS[name]())
        _, attached = attach(model, x, scope="global")
        fit(model, x, attached)
        pruned = touched(model, attached)
        size = sum(int(np.prod(weight.shape)) for weight in pruned)
        assert sum(zeros(weight.variable) for weight in pruned) == size - kept(size, 0.75)
        shares = [zeros(weight.variable) / np.prod(weight.shape) for weight in pruned]
        assert max(shares) - min(shares) > 0.01

    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("granularity", ["1:2", "2:4", "block(2x4)"])
    def test_patterns(self, name, granularity):
        x = inputs_of(name)
        model = MODELS[name]()
        sparsity = 0.5 if granularity.startswith("block") else None
        method, attached = attach(model, x, granularity=granularity, sparsity=sparsity)
        held = [(weight, holds_of(weight.variable)[0]) for weight in touched(model, attached)]
        method.update(held, 0.5)
        for weight, _ in held:
            matrix = weight.matrix(weight.variable.numpy()) != 0
            if granularity.startswith("block"):
                rows, columns = matrix.shape
                count = -(-rows // 2) * -(-columns // 4)
                stays = sum(
                    matrix[top : top + 2, left : left + 4].any()
                    for top in range(0, rows, 2)
                    for left in range(0, columns, 4)
                )
                assert stays == kept(count, 0.5)
            else:
                n, m = method.pattern.n, method.pattern.m
                runs = matrix.reshape(-1, weight.input_channels)
                for left in range(0, weight.input_channels, m):
                    assert runs[:, left : left + m].sum(axis=1).max() <= n

    @pytest.mark.parametrize("criterion", sorted(catalog.criteria.names()))
    def test_every_criterion_has_scores_of_the_weight_s_shape(self, criterion):
        values = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
        scores = catalog.criteria.get(criterion)(values)
        assert scores.shape == values.shape
        assert np.isfinite(scores).all()


class TestWhatIsPruned:
    def test_the_smallest(self):
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        before = np.abs(kernel.numpy())
        method, attached = attach(model, inputs_of("mlp"), targets=["fc1"])
        method.update([(weight, holds_of(kernel)[0]) for weight in touched(model, attached)], 0.5)
        gone = kernel.numpy() == 0
        assert before[gone].max() <= before[~gone].min()
        np.testing.assert_array_equal(np.abs(kernel.numpy()[~gone]), before[~gone])

    def test_a_weight_can_come_back(self):
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        method, attached = attach(model, inputs_of("mlp"), targets=["fc1"])
        held = [(weight, holds_of(kernel)[0]) for weight in touched(model, attached)]
        method.update(held, 0.5)
        method.update(held, 0.25)
        assert np.mean(holds_of(kernel)[0].mask.numpy()) == pytest.approx(0.75)

    def test_depthwise_kernels_are_left_out(self):
        _, attached = attach(depthwise(), inputs_of("depthwise"))
        skipped = {skip.path: skip.reason for skip in attached.skipped}
        reason = "depthwise kernels are pruned only when targets names them"
        assert skipped == {"depthwise/kernel": reason, "separable/depthwise_kernel": reason}
        assert "separable/pointwise_kernel" in attached.touched

    def test_unless_they_are_named(self):
        _, attached = attach(depthwise(), inputs_of("depthwise"), targets=["type:DepthwiseConv2D"])
        assert attached.touched == ("depthwise/kernel",)

    def test_layers_that_are_not_known_are_left_out_unless_they_are_named(self):
        inputs = keras.Input((4, 3))
        x = keras.layers.SimpleRNN(4, name="rnn")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, name="fc")(x))
        stage = Prune(sparsity=0.5)
        selection = Pruning(stage).select(model, "stages[0]")
        assert [weight.path for weight in selection.taken] == ["fc/kernel"]
        assert selection.skipped[0].reason == (
            "layers of type SimpleRNNCell are pruned only when targets names them"
        )
        named = Pruning(Prune(sparsity=0.5, targets=["rnn"])).select(model, "stages[0]")
        assert len(named.taken) == 2

    def test_too_few_channels_for_a_pattern(self):
        selection = Pruning(Prune(granularity="2:4")).select(cnn(), "stages[0]")
        (skip,) = selection.skipped
        assert skip.path == "conv1/kernel"
        assert skip.reason == "1 input channels hold no group of 2:4"

    def test_selecting_leaves_the_model_alone(self):
        model = mlp()
        Pruning(Prune(sparsity=0.5)).select(model, "stages[0]")
        assert all(variable.constraint is None for variable in model.variables)


class TestSchedule:
    def test_times_are_of_the_stage(self):
        stage = Prune(sparsity=RAMP, begin="1ep", end="75%", frequency="3st")
        made = Pruning(stage).schedule(Length(epochs=4, steps_per_epoch=10))
        assert (made.begin, made.end, made.frequency) == (10, 30, 3)
        assert (made.initial, made.final, made.power, made.constant) == (0.2, 0.75, 3.0, False)

    def test_a_pattern_of_n_in_m_is_constant(self):
        assert Pruning(Prune(granularity="2:4")).schedule(length()).constant

    def test_a_number_is_constant(self):
        made = Pruning(Prune(sparsity=0.5)).schedule(length())
        assert made.constant
        assert made.final == 0.5

    @pytest.mark.parametrize(
        ("steps_per_execution", "expected"),
        # 12 steps; the ramp is from 1 to 9, an update every 3 steps.
        [(1, {1: 1, 4: 4, 7: 7, 9: 9}), (4, {4: 4, 8: 7, 12: 9})],
    )
    def test_masks_are_made_at_the_steps_of_the_schedule(self, steps_per_execution, expected):
        x = inputs_of("mlp")
        model = compiled(mlp(), steps_per_execution=steps_per_execution)
        method, attached = attach(model, x, 3, begin="1st", end="75%", frequency="3st")
        schedule = method.schedule(length(3))
        assert (schedule.begin, schedule.end) == (1, 9)
        made = {}
        update = method.update

        def spy(held, sparsity):
            made[int(model.optimizer.iterations)] = sparsity
            update(held, sparsity)

        method.update = spy
        fit(model, x, attached, epochs=3)
        assert made == {
            step: pytest.approx(schedule.sparsity(due)) for step, due in expected.items()
        }

    def test_steps_count_from_the_start_of_the_stage(self):
        x = inputs_of("mlp")
        model = compiled(mlp())
        fit(model, x)
        assert int(model.optimizer.iterations) == 2 * STEPS
        method, attached = attach(model, x, begin="2st", end="100%")
        made = []
        method.update = lambda held, sparsity: made.append(
            (int(model.optimizer.iterations) - 2 * STEPS, sparsity)
        )
        fit(model, x, attached)
        assert [step for step, _ in made] == [2, 4, 6, 8]
        assert made[-1][1] == 0.75

    def test_an_optimizer_that_accumulates_gradients(self):
        x = inputs_of("mlp")
        model = compiled(mlp(), keras.optimizers.Adam(0.01, gradient_accumulation_steps=2))
        _, attached = attach(model, x)
        fit(model, x, attached)
        for weight in touched(model, attached):
            size = int(np.prod(weight.shape))
            assert zeros(weight.variable) == size - kept(size, 0.75)


class TestHeld:
    def test_an_optimizer_that_keeps_averages_cannot_undo_it(self):
        """At the end of `fit` it overwrites the weights, after all constraints."""
        x = inputs_of("mlp")
        model = compiled(mlp(), keras.optimizers.Adam(0.01, use_ema=True))
        _, attached = attach(model, x)
        fit(model, x, attached)
        for weight in touched(model, attached):
            assert zeros(weight.variable) >= 0.74 * np.prod(weight.shape)

    def test_the_user_s_constraint_is_kept(self):
        x = inputs_of("mlp")
        model = compiled(mlp(), keras.optimizers.SGD(0.5))
        kernel = model.get_layer("fc1").kernel
        mine = kernel.constraint = keras.constraints.MaxNorm(0.2)
        _, attached = attach(model, x, targets=["fc1"])
        fit(model, x, attached)
        assert np.linalg.norm(kernel.numpy(), axis=0).max() <= 0.2 + 1e-5
        assert np.mean(kernel.numpy() == 0) == pytest.approx(0.75)
        attached.detach()
        assert kernel.constraint is mine

    def test_zeros_stay_through_training_without_its_callbacks(self):
        """The hold of an earlier stage while a later one trains."""
        x = inputs_of("mlp")
        model = compiled(mlp(), keras.optimizers.Adam(0.01))
        method, attached = attach(model, x, targets=["fc1"])
        kernel = model.get_layer("fc1").kernel
        method.update([(touched(model, attached)[0], holds_of(kernel)[0])], 0.75)
        gone = kernel.numpy() == 0
        fit(model, x, epochs=1)
        assert not kernel.numpy()[gone].any()
        assert gone.mean() == pytest.approx(0.75)

    def test_two_stages_hold_one_weight(self):
        x = inputs_of("mlp")
        model = mlp()
        kernel = model.get_layer("fc1").kernel
        first, one = attach(model, x, targets=["fc1"])
        first.update([(touched(model, one)[0], holds_of(kernel)[0])], 0.5)
        second, two = attach(model, x, targets=["fc1"])
        second.update([(touched(model, two)[0], holds_of(kernel)[1])], 0.75)
        assert np.mean(kernel.numpy() == 0) == pytest.approx(0.75)
        one.detach()
        assert np.mean(kernel.numpy() == 0) == pytest.approx(0.75)
        two.detach()
        assert kernel.constraint is None
