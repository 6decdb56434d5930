"""Does QAT earn its keep? Float, post-training and QAT files of the same network.

    .venv/bin/python tests/benchmarks/qat_bits.py

For each seed a ResNet-8 is trained once on 10,000 pictures of Fashion-MNIST; every file is
made of those same weights. Post-training: the weights are rounded to the grid and ranges are
calibrated, nothing is trained. QAT: two epochs behind that rounding. A control trains the same two
epochs without rounding and is then rounded, so that QAT is not credited for mere training.
All accuracies are those of the file, run by LiteRT on the same 10,000 test pictures.
"""

from __future__ import annotations

import os
import platform
import statistics
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

from compresskit import catalog, data
from compresskit.artifacts import artifact
from compresskit.method import Length
from compresskit.methods.quantize import Quantization
from compresskit.models.resnet import resnet8
from compresskit.progress import Bars
from compresskit.recipe import Export
from compresskit.resolution import Resolved
from compresskit.stages import QAT
from compresskit.target import Grid
from compresskit.training import fit

SEEDS, BASELINE_EPOCHS, EPOCHS, RATE = (0, 1, 2), 6, 2, 2e-4


def train(model, dataset, epochs, rate, seed, callbacks=()):
    return fit(
        model,
        dataset,
        optimizer="adam",
        learning_rate=rate,
        batch_size=128,
        epochs=epochs,
        loss="sparse_categorical_crossentropy",
        seed=seed,
        bars=Bars(),
        where="benchmark",
        callbacks=callbacks,
    )


def accuracy(model, dataset, precision, ranges=()):
    target = catalog.targets.get("edge-cpu")
    resolved = Resolved(
        target=target,
        precision_name=precision,
        precision=target.precisions[precision],
        file="benchmark.tflite",
    )
    export = Export(target="edge-cpu", precision=precision)
    report, _, _ = artifact(
        model, export, resolved, dataset, metric="accuracy", ranges=ranges, bars=Bars()
    )
    return report.metrics["accuracy"] * 100


def one_seed(dataset, seed):
    keras.utils.set_random_seed(seed)
    model = resnet8()
    train(model, dataset, BASELINE_EPOCHS, 2e-3, seed)
    weights = model.get_weights()
    figures = {"float32": accuracy(model, dataset, "float32")}
    length = Length(epochs=EPOCHS, steps_per_epoch=-(-len(dataset.x_train) // 128))
    for bits in (8, 4):
        for kind in ("post-training", "trained on, then rounded", "QAT"):
            model.set_weights(weights)
            if kind == "trained on, then rounded":
                train(model, dataset, EPOCHS, RATE, seed + 1)
            method = Quantization(QAT(weight_bits=bits))
            attached = method.attach(model, dataset.x_train[:2], Grid(), length)
            if kind == "QAT":
                train(model, dataset, EPOCHS, RATE, seed + 1, attached.callbacks)
            ranges = attached.detach()["ranges"]
            used = ranges if kind == "QAT" else ()
            figures[f"{kind}, {bits}-bit weights"] = accuracy(model, dataset, "int8", used)
    return figures


def main():
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}\n")
    dataset = data.load("fashion-mnist").limit(train=10000)
    rows = [one_seed(dataset, seed) for seed in SEEDS]
    print("| file | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | to float |")
    print("|---" * (len(SEEDS) + 3) + "|")
    floats = statistics.mean(row["float32"] for row in rows)
    for name in rows[0]:
        values = [row[name] for row in rows]
        mean = float(np.mean(values))
        cells = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {cells} | {mean:.2f} | {mean - floats:+.2f} |", flush=True)


if __name__ == "__main__":
    main()
