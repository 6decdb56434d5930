"""compresskit.methods.calibrate: ranges of activations, estimated on samples."""

from __future__ import annotations

import numpy as np
import pytest

import compresskit as ck
from compresskit import catalog
from compresskit.methods.calibrate import _Seen, calibrate
from compresskit.ranges import completed
from compresskit.recipe_rounding import Calibration
from compresskit.tflite.audit import audit
from compresskit.tflite.convert import convert
from compresskit.tflite.lower import predictions
from compresskit.tflite.runtime import Runner
from compresskit.tflite.scales import check_scales
from tests.training import answers, calls, compressed, inputs_of, trained

INT8 = catalog.targets.get("edge-cpu").precisions["int8"]


def seen(values, estimator, percentile=99.99):
    """The range of values, of which each row is a sample."""
    observer = _Seen()
    observer(values)
    observer.start_counting()
    observer(values)
    return observer.range(estimator, percentile)


class TestEstimators:
    values = np.random.default_rng(0).normal(size=(50, 400)).astype(np.float32)

    def test_min_max(self):
        assert seen(self.values, "min-max") == (self.values.min(), self.values.max())

    def test_moving_average_is_that_of_the_samples_ends(self):
        low, high = seen(self.values, "moving-average")
        assert low == pytest.approx(self.values.min(axis=1).mean(), abs=1e-5)
        assert high == pytest.approx(self.values.max(axis=1).mean(), abs=1e-5)

    def test_percentile(self):
        low, high = seen(self.values, "percentile", 98.0)
        expected = np.percentile(self.values, [1, 99])
        np.testing.assert_allclose([low, high], expected, atol=0.01)
        assert seen(self.values, "percentile", 100.0) == pytest.approx(
            (self.values.min(), self.values.max())
        )

    def test_mse_rounds_with_the_least_squared_error(self):
        def error(low, high):
            step = (high - low) / 255
            rounded = np.clip(np.round((heavy - low) / step), 0, 255) * step + low
            return np.square(rounded - heavy).mean()

        heavy = np.random.default_rng(0).standard_t(4, size=(20, 20000)).astype(np.float32)
        low, high = seen(heavy, "mse")
        assert heavy.min() < low < 0 < high < heavy.max()
        assert error(low, high) < 0.9 * error(heavy.min(), heavy.max())
        assert error(low, high) < error(low * 0.9, high * 0.9)
        even = np.linspace(-1, 1, 2000, dtype=np.float32).reshape(2, -1)
        np.testing.assert_allclose(seen(even, "mse"), (-1, 1), atol=0.05)

    @pytest.mark.parametrize("estimator", ["min-max", "moving-average", "percentile", "mse"])
    def test_zero_is_inside(self, estimator):
        assert seen(np.abs(self.values) + 1, estimator)[0] == 0

    def test_what_is_always_zero_has_no_range(self):
        assert seen(np.zeros((2, 3), np.float32), "mse") == (0.0, 0.0)


class TestCalibrate:
    @pytest.mark.parametrize("estimator", ["moving-average", "percentile", "mse"])
    @pytest.mark.parametrize("name", ["cnn_bn", "depthwise", "nested"])
    def test_the_file_has_the_ranges_and_answers_as_the_model_with_them(self, name, estimator):
        model, x = trained(name), inputs_of(name)
        ranges = calibrate(model, x, Calibration(estimator=estimator))
        assert calls(model) == []
        content = convert(model, INT8, sample=x[:1], calibration=x, ranges=ranges)
        audited = audit(content)
        check_scales(audited, name)
        assert audited.computed_in_float() == []
        scales = {float(each.scales[0]) for each in audited.tensors if each.scales.size == 1}
        for each in ranges:
            step = (each.high - each.low) / 255
            assert min(abs(scale / step - 1) for scale in scales) < 0.01, each.name
        given = Runner(content).predict(x)
        expected = predictions(model, x, ranges)
        assert np.abs(given - expected).max() <= 4 / 256
        assert np.abs(given - answers(model, x)).mean() < 0.02

    def test_attention_and_normalization(self):
        model, x = compressed("tiny_bert").model, compressed("tiny_bert").x
        ranges = calibrate(model, x, Calibration(estimator="percentile"))
        assert {each.place for each in ranges} == {"input", "inside", "activation", "output"}
        assert calls(model) == []
        learned = compressed("tiny_bert").ranges
        known = {(each.operation, each.place, each.inner) for each in learned}
        assert {(each.operation, each.place, each.inner) for each in ranges} == known

    def test_what_was_learned_stays(self):
        learned = compressed("cnn").ranges
        more = calibrate(trained("cnn"), inputs_of("cnn"), Calibration(estimator="mse"))
        assert completed(learned, more) == learned
        assert len(completed(learned[1:], more)) == len(learned)


def test_an_export_by_hand(tmp_path):
    x, model = inputs_of("cnn"), trained("cnn")
    files = [
        ck.export(
            model,
            target="edge-cpu",
            path=tmp_path / f"{estimator}.tflite",
            representative_data=x,
            calibration=Calibration(estimator=estimator, percentile=90),
        )
        for estimator in ("min-max", "percentile")
    ]
    first, second = (
        audit((tmp_path / f"{name}.tflite").read_bytes()) for name in ("min-max", "percentile")
    )
    assert len(files) == 2
    assert (
        first.tensors[first.inputs[0]].scales[0] > 1.2 * second.tensors[second.inputs[0]].scales[0]
    )
