"""compresskit.tflite.c_array: a file as C source, for firmware."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from compresskit.tflite.audit import audit
from compresskit.tflite.c_array import method, sources
from tests.files import int8_file

FILE = "my model-int8.tflite"
ARENA = 2064
# What counts the ops that are added, in place of TensorFlow Lite Micro.
RESOLVER = """
#include <cstdio>
#include "my model-int8.h"
struct Resolver {
  int added = 0;
  int fails = 0;
  int AddReshape() { return ++added, 0; }
  int AddFullyConnected() { return ++added, fails; }
  int AddSoftmax() { return ++added, 0; }
};
int main() {
  Resolver good, bad;
  bad.fails = 1;
  const int status = g_my_model_int8_add_ops(good);
  std::printf("%d %d %d ", status, good.added, G_MY_MODEL_INT8_OPS);
  std::printf("%d %d ", g_my_model_int8_add_ops(bad), G_MY_MODEL_INT8_ARENA_SIZE);
  std::printf("%u %d\\n", g_my_model_int8_model_len, g_my_model_int8_model[4]);
}
"""
PRINT = """
#include <stdio.h>
#include <stdint.h>
#include "my model-int8.h"
int main(void) {
  if ((uintptr_t)g_my_model_int8_model % 16) return 1;
  return fwrite(g_my_model_int8_model, 1, g_my_model_int8_model_len, stdout) == 0;
}
"""


@pytest.fixture(scope="module")
def made():
    content = int8_file("mlp", False)
    return content, sources(content, audit(content), FILE, ARENA)


@pytest.fixture
def folder(made, tmp_path):
    for name, text in made[1].items():
        (tmp_path / name).write_text(text, encoding="ascii")
    return tmp_path


def run(folder, compiler, *files):
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"no {compiler}")
    words = [path, "-Wall", "-Wextra", "-Wno-deprecated", "-Werror", "-o", "program", *files]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
    return subprocess.run([folder / "program"], check=True, capture_output=True).stdout


def test_the_array_gives_back_the_bytes(made):
    content, texts = made
    assert list(texts) == ["my model-int8.h", "my model-int8.c"]
    array = re.search(r"_model\[\] = \{(.*?)\}", texts["my model-int8.c"], re.DOTALL)[1]
    assert bytes(int(each, 16) for each in re.findall("0x[0-9a-f]{2}", array)) == content
    assert f"_model_len = {len(content)};" in texts["my model-int8.c"]


def test_the_header_guards_itself(made):
    lines = made[1]["my model-int8.h"].splitlines()
    assert lines[1:3] == ["#ifndef G_MY_MODEL_INT8_MODEL_H_", "#define G_MY_MODEL_INT8_MODEL_H_"]
    assert lines[-1].startswith("#endif")


def test_c_compiles_and_holds_the_bytes(made, folder):
    (folder / "main.c").write_text(PRINT, encoding="ascii")
    assert run(folder, "cc", "-std=c11", "main.c", "my model-int8.c") == made[0]


def test_cpp_adds_the_ops(made, folder):
    content = made[0]
    assert set(audit(content).counts) == {"RESHAPE", "FULLY_CONNECTED", "SOFTMAX"}
    (folder / "main.cc").write_text(RESOLVER, encoding="ascii")
    # As C++, too: a constant of C++ is seen in its own file alone unless it is declared.
    said = run(folder, "c++", "main.cc", "my model-int8.c").split()
    assert said == [str(each).encode() for each in (0, 3, 3, 1, ARENA, len(content), ord("T"))]


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("CONV_2D", "Conv2D"),
        ("DEPTHWISE_CONV_2D", "DepthwiseConv2D"),
        ("AVERAGE_POOL_2D", "AveragePool2D"),
        ("TRANSPOSE_CONV", "TransposeConv"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UnidirectionalSequenceLSTM"),
        ("SQUARED_DIFFERENCE", "SquaredDifference"),
        ("BATCH_MATMUL", "BatchMatMul"),
        ("SELECT_V2", "SelectV2"),
        ("TFLM_DECODE", "Decode"),
    ],
)
def test_methods(op, name):
    assert method(op) == name
