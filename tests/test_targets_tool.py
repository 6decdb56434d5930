"""compresskit.targets.tool: what becomes of a command that fails, crashes or hangs."""

from __future__ import annotations

import sys
import time

import pytest

from compresskit.errors import ConversionError
from compresskit.targets.tool import run, stays
from compresskit.tflite.audit import audit
from tests.files import changed, int8_file


def python(code, folder, **arguments):
    return run(
        [sys.executable, "-c", code], tool="tool", where="m.tflite", folder=folder, **arguments
    )


def words(code, folder, **arguments):
    with pytest.raises(ConversionError) as raised:
        python(code, folder, **arguments)
    (problem,) = raised.value.problems
    assert problem.where == "tool on m.tflite"
    return problem.found


class TestRun:
    def test_what_it_says(self, tmp_path):
        code = "import os, sys; print(os.getcwd()); print('more', file=sys.stderr)"
        assert sorted(python(code, tmp_path).split()) == sorted([str(tmp_path), "more"])

    def test_a_status(self, tmp_path):
        code = "print('first'); print('last words'); raise SystemExit(3)"
        assert words(code, tmp_path) == "it ended with status 3: first | last words"

    def test_a_signal(self, tmp_path):
        code = "import os, signal; os.kill(os.getpid(), signal.SIGFPE)"
        assert words(code, tmp_path) == "it died of SIGFPE, without a word"

    def test_a_hang_ends_with_what_it_started(self, tmp_path):
        code = (
            "import subprocess, sys, time; print('working', flush=True)\n"
            "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        )
        started = time.monotonic()
        found = words(code, tmp_path, timeout=2)
        assert found == "no result after 2 seconds; it was stopped: working"
        # The pipe is open for as long as the child lives.
        assert time.monotonic() - started < 30

    def test_no_such_command(self, tmp_path):
        with pytest.raises(ConversionError, match="could not be started: No such file"):
            run(["no-such-tool"], tool="tool", where="m.tflite", folder=tmp_path)


class TestStays:
    def test_by_name_then_by_kind(self):
        """The second FULLY_CONNECTED and the SOFTMAX are left, one under another name."""

        def keep_the_last_two(graph):
            graph.operators = graph.operators[-2:]
            graph.tensors[graph.operators[0].outputs[0]].name = b"renamed"

        content = int8_file("mlp")
        exported, compiled = audit(content), audit(changed(content, keep_the_last_two))
        first, second = exported.ops[-2:]
        output = exported.tensors[second.outputs[0]].name
        found = stays(exported, compiled, "custom", {(second.name, output): "because"})
        # Of ops of one kind the first that is free is taken for one that was renamed.
        same = [op.index for op in exported.ops if op.name == first.name]
        assert found == {same[0]: "the tool does not say why", second.index: "because"}

    def test_what_the_compiler_made_is_no_op_of_the_file(self):
        exported = audit(int8_file("mlp"))
        assert stays(exported, exported, exported.ops[0].name, {}).keys() == {
            op.index for op in exported.ops if op.name != exported.ops[0].name
        }
        only = changed(int8_file("mlp"), lambda graph: setattr(graph, "operators", []))
        assert stays(audit(only), exported, "custom", {}) == {}
