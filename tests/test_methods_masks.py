"""compresskit.methods.masks: properties of every pattern, and agreement with TFMOT."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskit.granularity import NM, Block, Unstructured
from compresskit.methods.masks import blocks, keep_largest, kept, masks, n_of_m, unstructured

quick = settings(max_examples=60, deadline=None)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 20))
shares = st.floats(0.0, 1.0)


@st.composite
def scores(draw):
    """A matrix of scores, some of them equal."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        return rng.integers(0, 4, size=shape).astype(np.float32)
    return np.abs(rng.normal(size=shape)).astype(np.float32)


class TestKeepLargest:
    @quick
    @given(matrix=scores(), data=st.data())
    def test_keeps_exactly_so_many_and_the_largest(self, matrix, data):
        keep = data.draw(st.integers(0, matrix.size))
        mask = keep_largest(matrix, keep)
        assert mask.shape == matrix.shape
        assert mask.dtype == bool
        assert mask.sum() == keep
        if 0 < keep < matrix.size:
            assert matrix[mask].min() >= matrix[~mask].max()

    @quick
    @given(matrix=scores(), data=st.data())
    def test_at_a_tie_the_earlier_one_stays(self, matrix, data):
        keep = data.draw(st.integers(0, matrix.size))
        order = np.argsort(-matrix.reshape(-1), kind="stable")[:keep]
        expected = np.zeros(matrix.size, bool)
        expected[order] = True
        np.testing.assert_array_equal(keep_largest(matrix, keep).reshape(-1), expected)

    def test_all_equal(self):
        np.testing.assert_array_equal(
            keep_largest(np.zeros((2, 3)), 4), [[True, True, True], [True, False, False]]
        )


class TestKept:
    @pytest.mark.parametrize(
        ("size", "sparsity", "keep"),
        [(10, 0.0, 10), (10, 0.25, 8), (10, 0.35, 6), (7, 0.5, 4), (5, 0.5, 2)],
    )
    def test_rounds_half_to_even(self, size, sparsity, keep):
        assert kept(size, sparsity) == keep


class TestUnstructured:
    @quick
    @given(matrices=st.lists(scores(), min_size=1, max_size=4), sparsity=shares)
    def test_all_share_one_budget(self, matrices, sparsity):
        made = unstructured(matrices, sparsity)
        assert [mask.shape for mask in made] == [matrix.shape for matrix in matrices]
        total = sum(matrix.size for matrix in matrices)
        assert sum(int(mask.sum()) for mask in made) == kept(total, sparsity)
        stays = np.concatenate([matrix[mask] for matrix, mask in zip(matrices, made, strict=True)])
        goes = np.concatenate([matrix[~mask] for matrix, mask in zip(matrices, made, strict=True)])
        if stays.size and goes.size:
            assert stays.min() >= goes.max()

    def test_global_is_not_by_layer(self):
        small, large = np.full((2, 4), 0.1), np.full((2, 4), 0.9)
        first, second = unstructured([small, large], 0.5)
        assert not first.any()
        assert second.all()


class TestNOfM:
    @quick
    @given(
        rows=st.integers(1, 6),
        window=st.integers(1, 3),
        run=st.integers(1, 19),
        pattern=st.sampled_from([(1, 2), (2, 4), (1, 4), (4, 8), (3, 5)]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_every_group_keeps_its_n_largest(self, rows, window, run, pattern, seed):
        n, m = pattern
        matrix = np.random.default_rng(seed).normal(size=(rows, window * run))
        matrix = np.abs(np.round(matrix, 1))
        mask = n_of_m(matrix, NM(n=n, m=m), run)
        assert mask.shape == matrix.shape
        values, chosen = matrix.reshape(-1, run), mask.reshape(-1, run)
        for start in range(0, run, m):
            group, stays = values[:, start : start + m], chosen[:, start : start + m]
            # A ragged last group keeps up to n of what it has.
            assert (stays.sum(axis=1) == min(n, group.shape[1])).all()
            lowest = np.where(stays, group, np.inf).min(axis=1)
            highest = np.where(stays, -np.inf, group).max(axis=1)
            assert (lowest >= highest).all()

    def test_a_group_does_not_cross_the_end_of_a_run(self):
        matrix = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
        np.testing.assert_array_equal(
            n_of_m(matrix, NM(n=1, m=2), 3), [[False, True, True, False, True, True]]
        )

    def test_at_a_tie_the_earlier_ones_stay(self):
        np.testing.assert_array_equal(
            n_of_m(np.zeros((1, 4)), NM(n=2, m=4), 4), [[True, True, False, False]]
        )


class TestBlocks:
    @quick
    @given(matrix=scores(), rows=st.integers(1, 5), columns=st.integers(1, 8), sparsity=shares)
    def test_are_whole_and_counted(self, matrix, rows, columns, sparsity):
        (mask,) = blocks([matrix], Block(rows=rows, columns=columns), sparsity)
        assert mask.shape == matrix.shape
        stays, goes, count = [], [], 0
        for top in range(0, matrix.shape[0], rows):
            for left in range(0, matrix.shape[1], columns):
                block = np.s_[top : top + rows, left : left + columns]
                assert mask[block].all() or not mask[block].any()
                count += 1
                (stays if mask[block].all() else goes).append(matrix[block].mean(dtype=np.float64))
        assert len(stays) == kept(count, sparsity)
        if stays and goes:
            assert min(stays) >= max(goes) - 1e-6

    def test_share_one_budget(self):
        low, high = np.full((4, 4), 0.1), np.full((4, 4), 0.9)
        first, second = blocks([low, high], Block(rows=2, columns=2), 0.5)
        assert not first.any()
        assert second.all()


class TestMasks:
    PATTERNS = (Unstructured(), NM(n=2, m=4), Block(rows=2, columns=4))

    @pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: type(p).__name__)
    def test_the_same_scores_give_the_same_masks(self, pattern):
        rng = np.random.default_rng(0)
        matrices = [rng.integers(0, 3, size=(6, 8)).astype(np.float32) for _ in range(2)]
        first = masks(matrices, pattern, 0.5, [4, 8])
        again = masks([matrix.copy() for matrix in matrices], pattern, 0.5, [4, 8])
        for mine, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert sum(int(mask.sum()) for mask in first) == 48

    def test_a_pattern_of_n_in_m_does_not_ask_for_the_sparsity(self):
        (mask,) = masks([np.arange(8.0).reshape(1, 8)], NM(n=1, m=4), 0.0, [8])
        np.testing.assert_array_equal(np.flatnonzero(mask), [3, 7])

    @pytest.mark.parametrize("pattern", [PATTERNS[0], PATTERNS[2]])
    def test_nothing_and_everything(self, pattern):
        matrix = np.arange(32.0).reshape(4, 8)
        assert masks([matrix], pattern, 0.0, [8])[0].all()
        # One weight, or one block, stays: without any a layer would be cut off.
        last = masks([matrix], pattern, 1.0, [8])[0]
        size = pattern.rows * pattern.columns if isinstance(pattern, Block) else 1
        assert last.sum() == size
        assert last[-1, -1]


# In a process of its own: importing TFMOT makes Keras 2 the tf.keras of the whole process.
TFMOT = """
import sys
import numpy as np
import tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_utils

given = np.load(sys.argv[1])
made = {}


def mask_of(weights, sparsity=None, block=(1, 1), m_by_n=None):
    weights = tf.constant(weights)
    pruning = pruning_impl.Pruning(
        lambda: 0, [(weights, None, None)], lambda step: (True, sparsity), block, "AVG", m_by_n
    )
    if m_by_n:
        return pruning._update_mask_sparsity_m_by_n(weights, m_by_n)
    return pruning._maybe_update_block_mask(weights)[1]


for name in ("dense", "conv"):
    for sparsity in (0.25, 0.5, 0.9):
        made[f"{name} {sparsity}"] = mask_of(given[name], sparsity).numpy()
    for zeros, m in ((2, 4), (1, 2), (3, 8)):
        made[f"{name} {m - zeros}:{m}"] = mask_of(given[name], m_by_n=(zeros, m)).numpy()
        if name == "dense":
            rows = pruning_utils.generate_m_by_n_mask(tf.constant(given[name].T), (zeros, m))
            made[f"rows {m - zeros}:{m}"] = rows.numpy()
# TFMOT's blocks lie on the kernel of Keras, ours on its transpose.
made["block"] = mask_of(given["even"], 0.5, (4, 2)).numpy()
np.savez(sys.argv[2], **made)
"""


@pytest.fixture(scope="module")
def tfmot(tmp_path_factory):
    """Weights, and the masks that TFMOT makes for them."""
    for package in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install compresskit[tfmot]")
    folder = tmp_path_factory.mktemp("tfmot")
    rng = np.random.default_rng(5)
    weights = {
        "dense": rng.normal(size=(22, 12)).astype(np.float32),
        "conv": rng.normal(size=(3, 3, 8, 6)).astype(np.float32),
        "even": rng.normal(size=(16, 12)).astype(np.float32),
    }
    np.savez(folder / "in.npz", **weights)
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", TFMOT, folder / "in.npz", folder / "out.npz"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return weights, dict(np.load(folder / "out.npz"))


def ours(values, pattern, sparsity=0.0):
    """Our mask for a kernel of Keras, in the kernel's own order."""
    import keras

    from compresskit.weights import Weight, layout_of

    layer = keras.layers.Dense(1) if values.ndim == 2 else keras.layers.Conv2D(1, 1)
    weight = Weight(layer=layer, variable=keras.Variable(values), layout=layout_of(layer)[0])
    (mask,) = masks([np.abs(weight.matrix(values))], pattern, sparsity, [weight.input_channels])
    return weight.from_matrix(mask)


class TestAgainstTFMOT:
    @pytest.mark.parametrize("name", ["dense", "conv"])
    @pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
    def test_unstructured(self, tfmot, name, sparsity):
        weights, made = tfmot
        mask = ours(weights[name], Unstructured(), sparsity)
        np.testing.assert_array_equal(mask, made[f"{name} {sparsity}"] != 0)

    @pytest.mark.parametrize("name", ["dense", "conv"])
    @pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (5, 8)])
    def test_n_of_m(self, tfmot, name, n, m):
        weights, made = tfmot
        mask = ours(weights[name], NM(n=n, m=m))
        np.testing.assert_array_equal(mask, made[f"{name} {n}:{m}"] != 0)

    @pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (5, 8)])
    def test_n_of_m_of_rows(self, tfmot, n, m):
        weights, made = tfmot
        rows = np.abs(weights["dense"].T)
        mask = n_of_m(rows, NM(n=n, m=m), rows.shape[1])
        np.testing.assert_array_equal(mask, made[f"rows {n}:{m}"] != 0)

    def test_blocks(self, tfmot):
        weights, made = tfmot
        mask = ours(weights["even"], Block(rows=2, columns=4), 0.5)
        np.testing.assert_array_equal(mask, made["block"] != 0)
