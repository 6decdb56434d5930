"""compresskit.artifacts: what a file keeps of what a recipe promised."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compresskit import artifacts
from compresskit.artifacts import compare
from compresskit.ledger import Kept
from compresskit.outputs import Output
from compresskit.progress import Bars
from compresskit.recipe_export import Export
from compresskit.resolution import resolve
from compresskit.tflite.audit import audit
from compresskit.tflite.metadata import Metadata
from compresskit.trained import Plain
from compresskit.weights import weights_of
from tests.files import PRECISIONS, folded_tables, int8_file, plain_file
from tests.runs import digits, recipe
from tests.training import compressed, trained

CLASSES = np.array([0, 1, 3])


class TestCompare:
    def test_equal(self):
        outputs = np.eye(4, dtype=np.float32)
        made = compare(outputs, outputs, CLASSES)
        assert (made.samples, made.agreement) == (4, 1.0)
        assert made.max_abs_error == made.mean_abs_error == 0.0

    def test_another_answer(self):
        reference = np.eye(4, dtype=np.float32)
        outputs = reference.copy()
        outputs[0] = [0.0, 1.0, 0.0, 0.0]
        made = compare(outputs, reference, CLASSES)
        assert made.agreement == 0.75
        assert made.max_abs_error == 1.0
        assert made.mean_abs_error == pytest.approx(2 / 16)

    def test_another_number_with_the_same_answer(self):
        reference = np.eye(4, dtype=np.float32)
        made = compare(reference * np.float32(0.5), reference, CLASSES)
        assert made.agreement == 1.0
        assert made.max_abs_error == 0.5

    def test_yes_or_no(self):
        made = compare(np.array([[0.6], [0.2]]), np.array([[0.4], [0.1]]), np.array([0, 1]))
        assert made.agreement == 0.5

    def test_several_labels(self):
        one = np.array([[0.6, 0.2], [0.9, 0.1]])
        made = compare(one, np.array([[0.4, 0.1], [0.8, 0.3]]), np.array([[0, 1], [1, 1]]))
        assert made.agreement == 0.75

    def test_numbers(self):
        reference = np.array([[0.0], [10.0]])
        made = compare(np.array([[0.2], [10.3]]), reference, np.array([0.5, 7.0]))
        assert made.agreement == 0.5


@pytest.fixture(scope="module")
def made():
    """A pruned, quantized perceptron as a file: report, audit, resolved export."""
    (resolved, _), _ = resolve(recipe())
    done = compressed("mlp")
    report, audited, files, _ = artifacts.artifact(
        Plain(model=done.model, ranges=done.ranges),
        Export(target="edge-cpu"),
        resolved,
        digits(),
        metric="accuracy",
        output=Output(),
        provenance=Metadata(),
        bars=Bars(),
    )
    assert list(files) == [resolved.file]
    return report, audited, files[resolved.file], resolved


def kept(change=None, **promised):
    """What was made of the first weight, as if by a stage `sparsify`."""
    done = compressed("mlp")
    (weight, *_) = weights_of(done.model)
    matrix = weight.matrix(weight.variable.numpy())
    matrix = matrix if change is None else change(matrix)
    return Kept(path=weight.path, matrix=matrix, stage="sparsify", **promised)


def promises(made, *kept, export=None, audited=None, drop=0.0):
    report, read, _, resolved = made
    export = export or Export(target="edge-cpu")
    return artifacts.promises(report, audited or read, export, resolved, kept, drop)


def only_broken(found):
    (one,) = [each for each in found if not each.kept]
    return one


class TestArtifact:
    def test_figures_are_those_of_the_bytes(self, made):
        report, audited, content, _ = made
        assert report.bytes == len(content) > audited.size  # metadata at its end
        assert report.path == "edge-cpu-int8.tflite"
        assert report.ops == audited.counts
        assert report.float_ops == 0
        assert [each.shape for each in report.tensors] == [(32, 64), (10, 32)]
        assert report.weight_bytes == 32 * 64 + 10 * 32
        assert report.parity.samples == 64
        # It is timed in the end, in turn with the other files of the run.
        assert np.isnan(report.latency_ms)

    def test_sparsity_counts_values_not_tensors(self, made):
        report = made[0]
        zeros = sum(each.sparsity * each.bytes for each in report.tensors)
        assert report.sparsity == pytest.approx(zeros / report.weight_bytes)


class TestPromises:
    def test_all_kept(self, made):
        share = float(np.mean(kept().matrix == 0))
        assert share >= 0.6
        found = promises(made, kept(sparsity=share, bits=8))
        assert all(each.kept for each in found)
        assert [each.what for each in found] == [
            "edge-cpu-int8.tflite agrees with the Keras model",
            "no op of edge-cpu-int8.tflite computes in float",
            "sparsity of fc1/kernel in edge-cpu-int8.tflite",
        ]

    def test_less_sparse_than_pruned(self, made):
        one = only_broken(promises(made, kept(sparsity=0.999)))
        assert one.stage == "sparsify"
        assert one.what == "sparsity of fc1/kernel in edge-cpu-int8.tflite"
        assert one.expected == 0.999
        assert one.measured == pytest.approx(np.mean(kept().matrix == 0), abs=0.01)

    def test_a_weight_that_is_missing(self, made):
        one = only_broken(promises(made, kept(lambda matrix: matrix[:, ::-1], sparsity=0.5)))
        assert one.stage == "sparsify"
        assert one.what == "fc1/kernel is found in edge-cpu-int8.tflite"
        assert (one.expected, one.measured) == ("a weight tensor", "none like it")

    def test_a_file_of_another_model(self, made):
        other = audit(int8_file("cnn"))
        assert only_broken(promises(made, kept(sparsity=0.5), audited=other)).stage == "sparsify"

    def test_a_weight_that_came_back_to_life(self, made):
        """The unpruned file of the same model: its weights are not those that were baked."""
        dense = audit(plain_file("mlp", "dynamic"))
        matrix = weights_of(trained("mlp"))[0]
        trained_matrix = matrix.matrix(matrix.variable.numpy())
        promise = Kept(path="fc1/kernel", matrix=trained_matrix, stage="sparsify", sparsity=0.6)
        one = only_broken(promises(made, promise, audited=dense))
        assert one.stage == "sparsify"
        assert one.measured < 0.1

    def test_more_values_than_bits(self, made):
        one = only_broken(promises(made, kept(bits=3)))
        assert one.what == "distinct values in a channel of fc1/kernel in edge-cpu-int8.tflite"
        assert one.expected == 7
        assert one.measured > 7

    def test_answers_that_disagree(self, made):
        export = Export(target="edge-cpu", parity={"min_agreement": 1.0})
        found = promises(made, export=export)
        assert found[0].expected == 1.0
        assert found[0].kept == (found[0].measured == 1.0)
        assert found[0].stage == "edge-cpu-int8.tflite"

    @pytest.mark.parametrize(("drop", "holds"), [(-0.1, True), (0.01, True), (0.0101, False)])
    def test_gate(self, made, drop, holds):
        export = Export(target="edge-cpu", gate={"max_drop": 0.01})
        gate = promises(made, export=export, drop=drop)[1]
        assert gate.what == "edge-cpu-int8.tflite loses at most so much of accuracy"
        assert (gate.expected, gate.measured, gate.kept) == (0.01, drop, holds)

    def test_a_hair_above_the_gate(self, made):
        export = Export(target="edge-cpu", gate={"max_drop": 0.005})
        drop = 0.905 - 0.9
        assert drop > 0.005
        assert promises(made, export=export, drop=drop)[1].kept


class TestFoldedTables:
    """Tables of which a file holds only the rows that the converter looked up."""

    def kept(self, path="position_embedding/embeddings", table=True, change=None, **promised):
        model, _ = folded_tables("int8")
        weight = next(each for each in weights_of(model) if each.path == path)
        matrix = weight.matrix(weight.variable.numpy())
        if change is not None:
            change(matrix)
        return Kept(path=path, matrix=matrix, stage="sparsify", table=table, **promised)

    def promises(self, made, kept):
        # After those of the file as a whole.
        return promises(made, kept, audited=audit(folded_tables("int8")[1]))[2:]

    @pytest.mark.parametrize("name", ["position", "segment", "token"])
    def test_all_kept(self, made, name):
        kept = self.kept(f"{name}_embedding/embeddings", bits=8)
        share = float(np.mean(kept.matrix == 0))
        (one,) = self.promises(made, dataclasses.replace(kept, sparsity=share))
        assert one.kept
        assert one.stage == "sparsify"
        assert one.what == f"sparsity of {name}_embedding/embeddings in edge-cpu-int8.tflite"

    def test_only_the_rows_that_are_there_are_asked_for(self, made):
        def more_zeros_elsewhere(matrix):
            matrix[12:, :-1] = 0.0

        kept = self.kept(change=more_zeros_elsewhere)
        share, held = np.mean(kept.matrix == 0), np.mean(kept.matrix[:12] == 0)
        assert share > held + 0.1
        (one,) = self.promises(made, dataclasses.replace(kept, sparsity=float(share)))
        assert one.kept
        assert one.expected == one.measured == pytest.approx(held)

    def test_no_more_than_pruning_promised(self, made):
        (one,) = self.promises(made, self.kept(sparsity=0.1))
        assert one.kept
        assert one.expected == 0.1
        assert one.measured > 0.2

    def test_fewer_zeros_than_the_table_has(self, made):
        def more_zeros(matrix):
            small = np.abs(matrix) < 0.05 * np.abs(matrix).max()
            assert small[:12].sum() > (matrix[:12] == 0).sum()
            matrix[small] = 0.0

        kept = self.kept(change=more_zeros, sparsity=0.9)
        (one,) = self.promises(made, kept)
        assert not one.kept
        assert one.stage == "sparsify"
        assert one.expected == pytest.approx(np.mean(kept.matrix[:12] == 0))
        assert one.measured == pytest.approx(np.mean(self.kept().matrix[:12] == 0))

    def test_without_a_sparsity_there_is_none(self, made):
        assert self.promises(made, self.kept(bits=8)) == []

    @pytest.mark.parametrize("table", [True, False])
    def test_one_that_is_missing(self, made, table):
        def turn(matrix):
            matrix[:] = matrix[:, ::-1].copy()

        kept = self.kept(table=table, change=turn if table else None, sparsity=0.1)
        (one,) = self.promises(made, kept)
        assert not one.kept
        assert one.what == "position_embedding/embeddings is found in edge-cpu-int8.tflite"
        assert one.expected == "a weight tensor"
        assert one.measured.startswith("none like it")
        assert ("`ignore:` it" in one.measured) == table

    @pytest.mark.parametrize(
        ("promised", "broken"),
        [({"sparsity": 0.1}, True), ({"bits": 8}, False), ({"bits": 4}, False)],
        ids=str,
    )
    def test_one_that_a_float_file_adds_up_with_another(self, made, promised, broken):
        report, _, content, resolved = made
        floats = (
            report,
            _,
            content,
            dataclasses.replace(resolved, precision=PRECISIONS["float32"]),
        )
        read = audit(folded_tables("float32")[1])
        found = promises(floats, self.kept(**promised), audited=read)[1:]
        assert [each.kept for each in found] == ([False] if broken else [])
