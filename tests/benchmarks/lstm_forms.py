"""The forms that an LSTM is exported in, and what Keras's own export makes of it.

    .venv/bin/python tests/benchmarks/lstm_forms.py

Latency on one thread: the files take turns, round by round, and the ratio of each round to the
fused file's in the same round is taken. The table shows medians, the largest difference of
the float file's answers to Keras's over 100 sequences, and what happens to int8. Keras's own
files are made in processes of their own, since some of these conversions abort.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

RUNS, SEQUENCES = 300, 100
FORMS = ("fused", "while", "unrolled")


def tutorial(keras):
    """The classifier of sequences of many a tutorial."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((100,), dtype="int32"),
            layers.Embedding(10000, 64),
            layers.LSTM(64, return_sequences=True),
            layers.LSTM(64),
            layers.Dense(64, activation="relu"),
            layers.Dense(6, activation="softmax"),
        ],
        name="tutorial",
    )


def features(keras):
    """One layer over 40 steps of 13 features."""
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((40, 13)), layers.LSTM(128), layers.Dense(10, activation="softmax")],
        name="features",
    )


NETWORKS = {"tutorial": tutorial, "features": features}


def made(name):
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = NETWORKS[name](keras)
    random = np.random.default_rng(0)
    shape = (SEQUENCES, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        return model, random.integers(0, 10000, shape).astype(np.int32)
    return model, random.normal(size=shape).astype(np.float32)


KERAS = """
import sys, keras
sys.path.insert(0, sys.argv[1])
import lstm_forms, tensorflow as tf
model, x = lstm_forms.made(sys.argv[2])
options = {}
if sys.argv[4] == "int8":
    options = {"optimizations": [tf.lite.Optimize.DEFAULT],
               "representative_dataset": lambda: ([x[i : i + 1]] for i in range(20))}
model.export(sys.argv[3], format="litert", verbose=False, **options)
"""


def keras_own(name, folder, precision):
    """The file of `model.export(format="litert")`, or the last line of what went wrong."""
    path = Path(folder, f"keras-{name}-{precision}.tflite")
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KERAS, here, name, str(path), precision]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0 and path.exists():
        return path.read_bytes(), ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None, f"status {done.returncode}: {lines[-1][:150] if lines else ''}"


def described(content, x, expected):
    """A runner, or why LiteRT does not load the file; ops; error."""
    import numpy as np

    from compresskit.errors import ModelError
    from compresskit.tflite.audit import audit
    from compresskit.tflite.runtime import Runner

    counts = audit(content).counts
    ops = ", ".join(op for op in counts if "LSTM" in op or op == "WHILE" or "Flex" in op)
    try:
        runner = Runner(content)
        error = float(np.abs(runner.predict(x) - expected).max())
    except ModelError as refused:
        return None, ops, refused.problems[0].found[:160]
    return runner, f"{ops or 'no recurrent op'}, {sum(counts.values())} ops", error


def network(name):
    from compresskit import catalog
    from compresskit.errors import ConversionError
    from compresskit.tflite.convert import convert
    from compresskit.tflite.lower import predictions
    from compresskit.tflite.timing import interleaved

    model, x = made(name)
    expected = predictions(model, x)
    precisions = catalog.targets.get("edge-cpu").precisions
    runners, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for form in (*FORMS, "Keras's own"):
            files = {}
            for precision in ("float32", "int8"):
                if form == "Keras's own":
                    files[precision] = keras_own(name, folder, precision)
                    continue
                try:
                    content = convert(
                        model, precisions[precision], sample=x[:1], calibration=x[:20], lstm=form
                    )
                    files[precision] = content, ""
                except ConversionError as error:
                    files[precision] = None, error.problems[0].found[:120]
            content, wrong = files["float32"]
            row = [wrong, "", ""]
            if content is not None:
                runner, ops, error = described(content, x, expected)
                row = [ops, f"{error:.1e}" if runner else error, f"{len(content):,}"]
                if runner:
                    runners[form] = runner
            content, wrong = files["int8"]
            if content is not None:
                _, ops, error = described(content, x, expected)
                wrong = f"{ops}; {error if isinstance(error, str) else f'{error:.3f}'}"
            rows[form] = [*row, wrong]
    # Ratios are to the first, the fused form.
    measured = interleaved(list(runners.values()), [x] * len(runners), runs=RUNS)
    times = dict(zip(runners, measured, strict=True))
    for form, row in rows.items():
        latency = ratio = ""
        if form in times:
            latency, ratio = f"{times[form].ms():.3f}", f"{times[form].ratio():.2f}"
        print(
            f"| {name} | {form} | {row[0]} | {row[1]} | {row[2]} | {latency} | {ratio} | {row[3]} |"
        )


def main():
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}\n")
    heads = "network|form|float32 file|largest error|bytes|median ms|to fused|int8: ops; error"
    print("|", " | ".join(heads.split("|")), "|")
    print("|---" * 8 + "|")
    for name in NETWORKS:
        network(name)


if __name__ == "__main__":
    main()
