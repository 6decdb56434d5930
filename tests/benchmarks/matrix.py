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
from compresskit.fitting import try_out
from compresskit.models.load import load_model
from compresskit.tflite.lower import predictions
from compresskit.tflite.runtime import Runner

SAMPLES, CALIBRATION, TRAINED = 200, 100, 3000
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


def cell(model: keras.Model, dataset: data.Dataset, target: str, precision: str) -> str:
    """What one export comes to, for a table."""
    x = dataset.x_test[:SAMPLES]
    record = catalog.targets.get(target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
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


def main() -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(f"{versions}; agreement and mean difference over {SAMPLES} test samples\n")
    names = sys.argv[1:] or list(MODELS)
    models = {name: trained(name) for name in names}
    for name, (model, dataset) in models.items():
        try_out(model, dataset.x_test, where=name)
    print(f"| target | precision | {' | '.join(names)} |")
    print("|---" * (2 + len(names)) + "|")
    for target in catalog.targets.names():
        for precision in catalog.targets.get(target).precisions:
            cells = [cell(*models[name], target, precision) for name in names]
            print(f"| {target} | {precision} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
