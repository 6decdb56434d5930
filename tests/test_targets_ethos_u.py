"""compresskit.targets.ethos_u: files compiled by Vela, and what it says of them."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import compresskit as ck
from compresskit import catalog, installed
from compresskit.errors import ConversionError, ModelError, Problem, RecipeError, TargetError
from compresskit.files import reported_files
from compresskit.findings import findings
from compresskit.targets.vela import compile_file
from compresskit.tflite.audit import audit
from compresskit.tflite.macs import multiply_adds
from tests.files import int8_file, plain_file, written
from tests.models import mlp
from tests.runs import command, digits, names_in, recipe, recipe_file, report_in
from tests.training import compressed, inputs_of

pytestmark = pytest.mark.skipif(find_spec("ethosu") is None, reason="Vela is not installed")
TARGETS = ("ethos-u55", "ethos-u65", "ethos-u85")
U55 = catalog.targets.get("ethos-u55")
DEFAULTS = {name: values[0] for name, values in U55.options.items()}


def compiled(content, target="ethos-u55", **options):
    record = catalog.targets.get(target)
    chosen = {name: values[0] for name, values in record.options.items()}
    return compile_file(content, audit(content), name="m.tflite", options={**chosen, **options})


@pytest.fixture(scope="module")
def cnn():
    return compiled(int8_file("cnn"))


class TestCompile:
    def test_all_of_a_cnn(self, cnn):
        made, content = cnn
        audited = audit(int8_file("cnn"))
        assert (made.tool, made.version) == ("ethos-u-vela", metadata.version("ethos-u-vela"))
        assert made.options == {
            "accelerator": "ethos-u55-128",
            "system_config": "Ethos_U55_High_End_Embedded",
            "memory_mode": "Shared_Sram",
        }
        assert made.path == "m_vela.tflite"
        assert made.bytes == len(content)
        assert audit(content).counts == {"ethos-u": 1}
        assert (made.npu_ops, made.cpu_ops) == (len(audited.ops), ())
        total = sum(multiply_adds(op, audited) for op in audited.ops)
        assert made.npu_multiply_adds == made.multiply_adds == total > 0
        # And 8 that Vela takes the mean by.
        assert made.weight_bytes == sum(t.constant.size for t in audited.weights) + 8
        assert 0 < made.npu_cycles <= made.cycles == sum(made.op_cycles.values())
        assert made.latency_ms == pytest.approx(made.cycles / 500e6 * 1000)
        assert made.sram_bytes > 0
        # The memory mode puts what is constant in flash.
        assert made.flash_bytes >= made.encoded_weight_bytes > 0
        assert made.dram_bytes == 0

    def test_another_accelerator(self, cnn):
        made, _ = compiled(int8_file("cnn"), accelerator="ethos-u55-32")
        assert made.options["accelerator"] == "ethos-u55-32"
        assert made.npu_cycles > cnn[0].npu_cycles

    @pytest.mark.parametrize("target", TARGETS[1:])
    def test_weights_in_dram(self, target):
        made, _ = compiled(int8_file("mlp"), target)
        assert made.flash_bytes == 0
        assert made.dram_bytes >= made.encoded_weight_bytes > 0
        assert made.options["accelerator"].startswith(f"{target}-")

    def test_zeros_are_stored_in_less(self):
        """The same file with weights that are zero: everything else is the same."""
        content = int8_file("mlp")

        def without(graph_of):
            model = schema.ModelT.InitFromPackedBuf(content, 0)
            for tensor in audit(content).weights:
                raw = model.subgraphs[0].tensors[tensor.index]
                values = np.asarray(model.buffers[raw.buffer].data).copy()
                values[graph_of(values)] = 0
                model.buffers[raw.buffer].data = values
            return model

        dense = without(lambda values: values == 0)
        sparse = without(lambda values: np.arange(values.size) % 10 > 0)
        before, after = (compiled(written(each))[0] for each in (dense, sparse))
        assert before.weight_bytes == after.weight_bytes
        assert after.encoded_weight_bytes < 0.5 * before.encoded_weight_bytes
        assert after.cycles < before.cycles

    def test_floats_stay_on_the_cpu(self):
        """Vela ends with status 0."""
        content = plain_file("mlp", "float32")
        made, _ = compiled(content)
        audited = audit(content)
        assert made.npu_ops == made.npu_multiply_adds == 0
        assert [op.op for op in made.cpu_ops] == [op.name for op in audited.ops]
        assert "unsupported DataType Float32" in made.cpu_ops[0].reason
        assert made.cycles is made.latency_ms is made.encoded_weight_bytes is None
        found, claim = findings(audited, U55, U55.precisions["int8"], made)
        assert claim == ""
        assert not any(each.warning for each in found[: len(audited.ops)])

    def test_a_lookup_stays_on_the_cpu_of_a_u55(self):
        content = int8_file("bidirectional")
        audited = audit(content)
        made, file = compiled(content)
        assert {(op.op, op.reason) for op in made.cpu_ops} == {("GATHER", "Unsupported opType")}
        lookups = [op.index for op in audited.ops if op.name == "GATHER"]
        assert [op.index for op in made.cpu_ops] == lookups
        counts = audit(file).counts
        assert (counts["GATHER"], set(counts)) == (len(lookups), {"GATHER", "ethos-u"})
        assert made.op_cycles["UnidirectionalSequenceLstm"] > 0
        found, claim = findings(audited, U55, U55.precisions["int8"], made)
        reason = "stays on the CPU: Unsupported opType"
        assert [(each.index, each.reason, each.warning) for each in found] == [
            (index, reason, True) for index in lookups
        ]
        count = len(audited.ops)
        assert claim.endswith(f"{count - len(lookups)} of {count} ops run on the accelerator")
        on_u85, _ = compiled(content, "ethos-u85")
        assert len(on_u85.cpu_ops) < len(lookups)

    def test_a_crash_is_an_error(self):
        """Half of a file makes Vela 5.2 end in a signal."""
        content = int8_file("mlp")
        with pytest.raises(ConversionError) as raised:
            compile_file(
                content[: len(content) // 2], audit(content), name="m.tflite", options=DEFAULTS
            )
        (problem,) = raised.value.problems
        assert problem.where == "ethos-u-vela on m.tflite"
        assert problem.found.startswith(("it died of SIG", "it ended with status"))
        assert "Failed to load TfLite model" in problem.found

    def test_not_installed(self, monkeypatch):
        monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError) as raised:
            compiled(int8_file("mlp"))
        (problem,) = raised.value.problems
        assert problem.found == "the package ethosu is not installed"
        assert "pip install 'compresskit[ethos-u]'" in problem.fix


class TestRecipe:
    def test_apply(self, tmp_path):
        exports = [
            {
                "target": "ethos-u55",
                "options": {"accelerator": "ethos-u55-64"},
                "parity": {"min_agreement": 0.9},
            }
        ]
        path = recipe_file(tmp_path, export=exports)
        out = tmp_path / "out"
        done = command("apply", path, "--out", out)
        assert done.exit_code == 0, done.stderr
        assert {"ethos-u55-int8.tflite", "ethos-u55-int8_vela.tflite"} <= set(names_in(out))
        report = report_in(out)
        (made,) = report["artifacts"]
        now = made["compiled"]
        was = report["baseline"]["compiled"]["ethos-u55-int8.tflite"]
        assert now["options"]["accelerator"] == was["options"]["accelerator"] == "ethos-u55-64"
        assert now["path"] == "ethos-u55-int8_vela.tflite"
        assert now["bytes"] == (out / now["path"]).stat().st_size
        assert now["npu_ops"] == sum(made["ops"].values())
        assert now["weight_bytes"] == was["weight_bytes"] == made["weight_bytes"]
        # Half of the weights are zero.
        assert now["encoded_weight_bytes"] < was["encoded_weight_bytes"]
        assert made["claim"].startswith("compiled by ethos-u-vela")
        ratio = now["encoded_weight_bytes"] / was["encoded_weight_bytes"]
        assert f"({ratio:.2f}x)" in done.stdout
        page = (out / "report.html").read_text(encoding="utf-8")
        assert f"{ratio:.2f}×" in page  # noqa: RUF001
        assert "ethos-u55-int8_vela.tflite" in page
        assert "ops run on the accelerator" in page

    def test_what_another_run_left_goes(self, tmp_path):
        (tmp_path / "report.json").write_text(
            '{"artifacts": [{"path": "a.tflite", "compiled": {"path": "a_vela.tflite"}},'
            ' {"path": "b.tflite", "compiled": null}, {"path": "c.tflite"}]}'
        )
        assert {path.name for path in reported_files(tmp_path)} == {
            *("a.tflite", "a_vela.tflite", "b.tflite", "c.tflite")
        }

    def test_wrong_options(self):
        exports = [
            {"target": "ethos-u55", "options": {"accelerator": "ethos-u65-256"}},
            {"target": "ethos-u65", "options": {"acelerator": "ethos-u65-256"}},
            {"target": "edge-cpu", "options": {"accelerator": "ethos-u65-256"}},
        ]
        with pytest.raises(RecipeError) as raised:
            ck.plan(recipe(export=exports), imports=False)
        first, second, third = raised.value.problems
        assert first.where == "export[0].options"
        assert first.found == "accelerator 'ethos-u65-256' for target 'ethos-u55'"
        assert first.expected == f"one of: {', '.join(U55.options['accelerator'])}"
        assert second.found == "unknown option 'acelerator' for target 'ethos-u65'"
        assert second.fix == "did you mean 'accelerator'?"
        assert (third.expected, third.fix) == ("no options", "remove `options`")

    def test_two_exports_of_one_name(self):
        exports = [{"target": "ethos-u55", "name": "a"}, {"target": "edge-cpu", "name": "a_vela"}]
        with pytest.raises(RecipeError) as raised:
            ck.plan(recipe(export=exports), imports=False)
        (problem,) = raised.value.problems
        assert problem.found == "a second export to a_vela.tflite"

    def test_worth(self):
        made = ck.plan(recipe(export=[{"target": "ethos-u55"}]), imports=False)
        worth = made.stages[0].worth["ethos-u55"]
        assert "weight" in worth
        assert "cycles" in worth


class TestExport:
    def test_command(self, tmp_path):
        done = compressed("mlp")
        done.model.save(tmp_path / "m.keras")
        np.savez(
            tmp_path / "d.npz",
            x_train=digits("mlp").x_train,
            y_train=digits("mlp").y_train,
            x_test=digits("mlp").x_test,
            y_test=digits("mlp").y_test,
        )
        out = tmp_path / "m.tflite"
        words = [
            "export",
            tmp_path / "m.keras",
            "--target",
            "ethos-u55",
            "--data",
            tmp_path / "d.npz",
        ]
        made = command(*words, "--option", "accelerator=ethos-u55-256", "--out", out)
        assert made.exit_code == 0, made.stderr
        assert "ethos-u55-256" in made.stdout
        assert "m_vela.tflite" in made.stdout
        assert audit((tmp_path / "m_vela.tflite").read_bytes()).counts == {"ethos-u": 1}
        wrong = command(*words, "--option", "accelerator", "--out", out)
        assert wrong.exit_code == 2
        assert "'accelerator' is not NAME=VALUE" in wrong.stderr

    def test_a_wrong_option(self, tmp_path):
        with pytest.raises(TargetError) as raised:
            ck.export(
                mlp(),
                target="ethos-u55",
                path=tmp_path / "m.tflite",
                representative_data=inputs_of("mlp"),
                options={"accelerator": "ethos-u55-250"},
            )
        (problem,) = raised.value.problems
        assert problem.fix == "did you mean 'ethos-u55-256'?"
        assert not list(tmp_path.iterdir())

    def test_not_installed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "compresskit.exporting.missing", lambda package, *, where: _absent(where)
        )
        with pytest.raises(ModelError, match="ethos-u"):
            ck.export(
                mlp(),
                target="ethos-u55",
                path=tmp_path / "m.tflite",
                representative_data=inputs_of("mlp"),
            )
        assert not list(tmp_path.iterdir())


def _absent(where):
    return Problem(where=where, found="absent", expected="vela", fix=installed.VELA.install)
