"""Every model family in every precision of every target: does it convert, and does it agree?

    .venv/bin/python tests/benchmarks/matrix.py [MODEL...]

Models are trained for a moment, so that their answers differ from sample to sample, and quantized
after training: what fails here fails because of the target or the format, not of training. A file
agrees if it gives the class that the Keras model gives and its shares differ little, both within
`LIMITS`. The tables are Markdown, for docs/targets.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

import compresskit as ck
from compresskit import catalog, data
from compresskit.errors import CompressKitError
from compresskit.models.load import load_model
from compresskit.tflite.lower import predictions
from compresskit.tflite.micro import arena_bytes
from compresskit.tflite.runtime import Runner

SAMPLES, CALIBRATION, TRAINED, RUNS = 200, 100, 3000, 200
# Model, data set, epochs over TRAINED samples.
MODELS = {
    "lenet5": ("lenet5", "fashion-mnist", 2),
    "resnet8": ("resnet8", "fashion-mnist", 2),
    "lstm": ("lstm", "spoken-digits", 8),
    "gru": ("gru", "spoken-digits", 8),
    "bert": ("bert-tiny", "trec-wordpiece", 3),
}
# Largest mean difference of a probability, and least agreement, by precision.
LIMITS = {
    "float32": (1e-4, 1.0),
    "float16": (5e-3, 0.99),
    "dynamic": (0.01, 0.98),
    "int16x8": (0.01, 0.98),
    "int8": (0.03, 0.93),
    "int4": (0.06, 0.85),
}


def trained(name: str) -> tuple[keras.Model, data.Dataset]:
    model_name, dataset_name, epochs = MODELS[name]
    dataset = data.load(dataset_name)
    keras.utils.set_random_seed(0)
    model = load_model(model_name, where="model", dataset=dataset)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(
        dataset.x_train[:TRAINED],
        dataset.y_train[:TRAINED],
        epochs=epochs,
        batch_size=64,
        verbose=0,
    )
    return model, dataset


def cell(model: keras.Model, dataset: data.Dataset, target: str, precision: str, path: Path) -> str:
    """What one export comes to, for a table."""
    x = dataset.x_test[:SAMPLES]
    record = catalog.targets.get(target)
    try:
        made = ck.export(
            model,
            target=target,
            precision=precision,
            path=path,
            representative_data=dataset.x_train[:CALIBRATION],
        )
    except CompressKitError as error:
        return "no: " + error.problems[0].found
    answers = Runner(path.read_bytes(), runtime=record.runtime).predict(x)
    expected = predictions(model, x)
    difference = float(np.abs(answers - expected).mean())
    agreement = float(np.mean(answers.argmax(-1) == expected.argmax(-1)))
    most, least = LIMITS[precision.split("-")[0]]
    verdict = "" if difference <= most and agreement >= least else " **outside**"
    if made.findings and not made.claim:
        verdict += f"; not for this device: {made.findings[0].op} {made.findings[0].reason}"
    return f"{agreement:.1%}, {difference:.1g}{verdict}"


def latencies(names: list[str], folder: Path) -> None:
    """The files of edge-cpu, those of a model in turn in one run."""
    print("\n| model | precision | bytes | median ms | to float32, p10 to p90 | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name in names:
        files = [folder / f"{name}-edge-cpu-{precision}.tflite" for precision in LIMITS]
        for file in ck.bench([file for file in files if file.exists()], runs=RUNS).files:
            precision = Path(file.path).stem.split("-")[-1]
            spread = f"{file.ratio:.2f}, {file.ratio_p10:.2f} to {file.ratio_p90:.2f}"
            memory = (file.peak_memory_bytes or 0) / 1e6
            print(
                f"| {name} | {precision} | {file.bytes:,} | {file.latency_ms:.3f} | {spread} "
                f"| {memory:.1f} |",
                flush=True,
            )


def arenas(names: list[str], folder: Path) -> None:
    """What the files of micro need of a chip."""
    print("\n| model | flash, bytes | arena, bytes |")
    print("|---|---|---|")
    for name in names:
        file = folder / f"{name}-micro-int8.tflite"
        if file.exists():
            content = file.read_bytes()
            print(
                f"| {name} | {len(content):,} | {arena_bytes(content, file.name):,} |", flush=True
            )


def main() -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(f"{versions}; agreement and mean difference over {SAMPLES} test samples\n")
    names = sys.argv[1:] or list(MODELS)
    models = {name: trained(name) for name in names}
    print(f"| target | precision | {' | '.join(names)} |")
    print("|---" * (2 + len(names)) + "|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for target in catalog.targets.names():
            for precision in catalog.targets.get(target).precisions:
                cells = [
                    cell(
                        *models[name],
                        target,
                        precision,
                        folder / f"{name}-{target}-{precision}.tflite",
                    )
                    for name in names
                ]
                print(f"| {target} | {precision} | {' | '.join(cells)} |", flush=True)
        latencies(names, folder)
        arenas(names, folder)


if __name__ == "__main__":
    main()
