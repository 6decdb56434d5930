"""compresskit.targets.edge_tpu_compiler, with a stand-in for the compiler.

The compiler is closed and comes from no package registry. The script that stands in for it
prints a log in the form that users of compiler 16 have published, and writes the file with its
first ops replaced by the custom op. What the real one says of these files is not known here.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest

from compresskit import catalog
from compresskit.errors import ConversionError
from compresskit.exporting import export
from compresskit.targets.edge_tpu_compiler import available, compile_file
from compresskit.tflite.audit import audit
from tests.files import int8_file
from tests.runs import names_in
from tests.training import compressed

STAND_IN = """#!{python}
import sys, time
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

assert [*sys.argv[1:3], *sys.argv[4:]] == ["-s", "-t", "-o", ".", "model.tflite"], sys.argv
if {hangs}:
    time.sleep(60)
if {crashes}:
    print("Edge TPU Compiler version 16.0.384591198")
    print("Internal compiler error. Aborting!")
    sys.exit({status})
model = schema.ModelT.InitFromPackedBuf(open("model.tflite", "rb").read(), 0)
graph = model.subgraphs[0]
mapped, rest = graph.operators[: {mapped}], graph.operators[{mapped} :]
code = schema.OperatorCodeT()
code.builtinCode = schema.BuiltinOperator.CUSTOM
code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
code.customCode = b"edgetpu-custom-op"
code.version = 1
model.operatorCodes.append(code)
one = schema.OperatorT()
one.opcodeIndex = len(model.operatorCodes) - 1
one.inputs, one.outputs = mapped[0].inputs[:1], mapped[-1].outputs
graph.operators = [one, *rest]
builder = flatbuffers.Builder(1024)
builder.Finish(model.Pack(builder), b"TFL3")
open("model_edgetpu.tflite", "wb").write(bytes(builder.Output()))
print('''{log}''')
"""
LOG = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 96 ms.

Input model: model.tflite
Input size: 7.02KiB
Output model: model_edgetpu.tflite
Output size: 44.14KiB
On-chip memory used for caching model parameters: 6.50KiB
On-chip memory remaining for caching model parameters: 8.04MiB
Off-chip memory used for streaming uncached model parameters: 1.25MiB
Number of Edge TPU subgraphs: 1
Total number of operations: {total}
Operation log: model_edgetpu.log

Operator                       Count      Status

{rows}
Compilation child process completed within timeout period.
Compilation succeeded!
"""
MORE_THAN_ONE = "More than one subgraph is not supported"


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Puts a stand-in on PATH: how many ops of the perceptron it maps, or how it fails."""

    def make(mapped=1, *, rows=None, crashes=False, status=1, hangs=False, log=None):
        ops = [op.name for op in audit(int8_file("mlp", False)).ops]
        if rows is None:
            rows = [(op, 1, "Mapped to Edge TPU") for op in ops[:mapped]]
            rows += [(op, 1, MORE_THAN_ONE) for op in ops[mapped:]]
        table = "\n".join(f"{op:<30} {count:<10} {words}" for op, count, words in rows)
        text = STAND_IN.format(
            python=sys.executable,
            mapped=mapped,
            crashes=crashes,
            status=status,
            hangs=hangs,
            log=LOG.format(total=len(ops), rows=table) if log is None else log,
        )
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / "edgetpu_compiler"
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return make


def compiled():
    content = int8_file("mlp", False)
    return compile_file(content, audit(content), name="m.tflite", options={})


def wrong():
    with pytest.raises(ConversionError) as raised:
        compiled()
    (problem,) = raised.value.problems
    assert problem.where == "edgetpu_compiler on m.tflite"
    return problem.found


def test_it_is_not_on_path_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not available()
    assert catalog.targets.get("edge-tpu").compiler is None


def test_part_of_a_file(put):
    audited = audit(int8_file("mlp", False))
    names = [op.name for op in audited.ops]
    mapped = names.index("FULLY_CONNECTED") + 1
    put(mapped)
    assert available()
    made, content = compiled()
    assert (made.tool, made.version) == ("edgetpu_compiler", "16.0.384591198")
    assert (made.path, made.bytes, made.options) == ("m_edgetpu.tflite", len(content), {})
    assert made.npu_ops == mapped
    assert [(op.index, op.op, op.reason) for op in made.cpu_ops] == [
        (index, name, MORE_THAN_ONE) for index, name in enumerate(names) if index >= mapped
    ]
    assert (made.npu_multiply_adds, made.multiply_adds) == (64 * 32, 64 * 32 + 32 * 10)
    assert (made.sram_bytes, made.dram_bytes) == (6656, 1310720)
    assert made.cycles is made.latency_ms is made.encoded_weight_bytes is None


def test_what_the_log_alone_leaves_to_the_cpu(put):
    """The log counts one FULLY_CONNECTED more than the file has."""
    names = [op.name for op in audit(int8_file("mlp", False)).ops]
    rows = [(name, 1, "Mapped to Edge TPU") for name in names if name != "FULLY_CONNECTED"]
    rows += [("FULLY_CONNECTED", 1, "Mapped to Edge TPU")]
    rows += [("FULLY_CONNECTED", 1, "Operation version not supported")]
    put(len(names), rows=rows)
    (left,) = compiled()[0].cpu_ops
    last = max(index for index, name in enumerate(names) if name == "FULLY_CONNECTED")
    assert (left.index, left.reason) == (last, "Operation version not supported")


def test_failures(put, monkeypatch):
    put(crashes=True)
    assert wrong() == (
        "it ended with status 1: Edge TPU Compiler version 16.0.384591198 | "
        "Internal compiler error. Aborting!"
    )
    put(crashes=True, status=0)
    assert wrong().startswith("it wrote no file: Edge TPU Compiler version")
    put(log="another log")
    assert wrong() == "its log has no version or no table of ops: another log"
    monkeypatch.setattr("compresskit.targets.edge_tpu_compiler._OWN_TIMEOUT", 1)
    put(hangs=True)
    assert wrong() == "no result after 2 seconds; it was stopped, without a word"


def test_its_word_counts_and_not_that_of_the_rules(put, tmp_path):
    put(1)
    done = compressed("mlp", False)
    path = tmp_path / "out" / "m.tflite"
    made = export(done.model, target="edge-tpu", path=path, representative_data=done.x)
    assert names_in(path.parent) == ["m.tflite", "m_edgetpu.tflite"]
    assert made.placement is None
    assert made.compiled is not None
    count = sum(made.ops.values())
    assert made.claim == (
        f"compiled by edgetpu_compiler 16.0.384591198: 1 of {count} ops run on the accelerator"
    )
    assert {each.reason for each in made.findings} == {f"stays on the CPU: {MORE_THAN_ONE}"}


def test_by_rules_without_it():
    """GELU aborts, GATHER ends the mapping, and what is before is mapped."""
    place = catalog.targets.get("edge-tpu").place
    whole = audit(int8_file("mlp", False))
    made = place(whole)
    assert (made.npu_ops, made.cpu_ops) == (len(whole.ops), ())
    assert made.npu_multiply_adds == made.multiply_adds == 64 * 32 + 32 * 10
    first = [op.name for op in whole.ops].index("FULLY_CONNECTED")
    assert first > 0

    def with_op(name):
        renamed = [replace(op, name=name) if op.index == first else op for op in whole.ops]
        return place(replace(whole, ops=tuple(renamed)))

    made = with_op("HARD_SWISH")
    assert made.npu_ops == first
    assert made.cpu_ops[0].reason == "is not an op of the Edge TPU"
    ends = f"nothing wrong with it, but op {first} HARD_SWISH, at which the mapping ends"
    assert {op.reason for op in made.cpu_ops[1:]} == {ends}
    # The product of the op that was renamed is none any more.
    assert (made.npu_multiply_adds, made.multiply_adds) == (0, 320)
    assert sum(op.multiply_adds for op in made.cpu_ops) == 320
    made = with_op("GELU")
    assert (made.npu_ops, made.npu_multiply_adds) == (0, 0)
    assert made.cpu_ops[0].reason.endswith(f"op {first} GELU, on which the compiler aborts")
