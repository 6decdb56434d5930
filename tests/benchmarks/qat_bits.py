"""Does QAT earn its keep? Float, post-training and QAT files of the same network.

    .venv/bin/python tests/benchmarks/qat_bits.py [NETWORK] [prune|cluster]

For each seed the network is trained once; every file is made of those same weights. With
`prune` they are then pruned and trained on, with `cluster` made to share 16 values, which
all later training keeps: QAT is then what is called PQAT and CQAT.
Post-training: the weights are rounded to the grid and ranges are calibrated, nothing is
trained. QAT: some epochs behind that rounding. A control trains the same epochs without
rounding and is then rounded, so that QAT is not credited for mere training. With a
teacher: as QAT, and the network learns from its own float32 form besides. All
accuracies are those of the file, run by LiteRT on the same test samples.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np

from compresskit import catalog, data
from compresskit.artifacts import artifact
from compresskit.distillation.copies import copy_of
from compresskit.lessons import Lesson
from compresskit.method import Length
from compresskit.methods.cluster import Clustering
from compresskit.methods.prune import Pruning
from compresskit.methods.quantize import Quantization
from compresskit.models.bert import bert_tiny
from compresskit.models.cnn import small_cnn
from compresskit.models.lenet import lenet5, lenet300
from compresskit.models.lstm import lstm_classifier
from compresskit.outputs import Output
from compresskit.progress import Bars
from compresskit.recipe_distill import Learning
from compresskit.recipe_export import Export
from compresskit.resolution import Resolved
from compresskit.stages import QAT, Cluster, Prune
from compresskit.target import Grid
from compresskit.trained import Plain
from compresskit.training import fit, learn

SEEDS = (0, 1, 2)
EARLIER = {
    "none": None,
    # Masks are chosen at once: they are the same in every later training.
    "prune": lambda network: Pruning(Prune(sparsity=network.sparsity, end="1st", ignore=LOOKED_UP)),
    "cluster": lambda network: Clustering(Cluster(clusters=16, ignore=LOOKED_UP)),
}
# Looked up at conversion, and constants in the file.
LOOKED_UP = ("position_embedding", "segment_embedding")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained on what, and for how long."""

    make: Callable[[], keras.Model]
    data: Callable[[], data.Dataset]
    batch_size: int
    baseline: tuple[int, float]  # epochs, learning rate
    stage: tuple[int, float]
    sparsity: float = 0.9


NETWORKS = {
    # Without normalization: in so few steps its averages would lag behind the weights.
    "lenet5": Network(
        make=lenet5,
        data=lambda: data.load("fashion-mnist").limit(train=20000),
        batch_size=128,
        baseline=(5, 1.5e-3),
        stage=(2, 2e-4),
    ),
    "lenet300": Network(
        make=lenet300,
        data=lambda: data.load("fashion-mnist"),
        batch_size=128,
        baseline=(6, 1e-3),
        stage=(2, 3e-4),
    ),
    "small-cnn": Network(
        make=small_cnn,
        data=lambda: data.load("fashion-mnist"),
        batch_size=128,
        baseline=(6, 4e-3),
        stage=(2, 5e-4),
    ),
    "lstm": Network(
        make=lambda: lstm_classifier((32,), 6, vocabulary=4096, units=128),
        data=lambda: data.load("trec"),
        batch_size=64,
        baseline=(6, 2e-3),
        stage=(2, 5e-4),
        sparsity=0.7,
    ),
    "bert": Network(
        make=lambda: bert_tiny((32,), 6, vocabulary=4096),
        data=lambda: data.load("trec"),
        batch_size=32,
        baseline=(5, 5e-4),
        stage=(2, 2e-4),
        sparsity=0.7,
    ),
}


def train(model, network, dataset, length, seed, callbacks=(), teacher=None):
    epochs, rate = length
    settings = {
        "optimizer": "adam",
        "learning_rate": rate,
        "learning_rate_schedule": "cosine",
        "batch_size": network.batch_size,
        "epochs": epochs,
        "loss": "sparse_categorical_crossentropy",
        "seed": seed,
        "bars": Bars(),
        "where": "benchmark",
        "callbacks": callbacks,
    }
    if teacher is None:
        return fit(model, dataset, **settings)
    lesson = Lesson(
        learning=Learning(temperature=1.0, alpha=0.5),
        teacher=teacher,
        student=None,
        inherits=False,
        embedded=False,
        dataset=dataset,
        transfer=None,
        ids=None,
        first_ids=None,
    )
    return learn(model, teacher, lesson, **settings)


def measured(model, dataset, precision, ranges=()):
    target = catalog.targets.get("edge-cpu")
    resolved = Resolved(
        target=target,
        precision_name=precision,
        precision=target.precisions[precision],
        file="benchmark.tflite",
    )
    export = Export(target="edge-cpu", precision=precision)
    report, *_ = artifact(
        Plain(model=model, ranges=ranges),
        export,
        resolved,
        dataset,
        metric="accuracy",
        output=Output(),
        bars=Bars(),
    )
    distinct = max(tensor.distinct for tensor in report.tensors)
    return report.metrics["accuracy"] * 100, report.sparsity, distinct


def one_seed(network, dataset, seed, earlier):
    keras.utils.set_random_seed(seed)
    model = network.make()
    steps = -(-len(dataset.x_train) // network.batch_size)
    length = Length(epochs=network.stage[0], steps_per_epoch=steps)

    def trained_from(weights, bits=None, number=1, spent=network.stage, teacher=None):
        """Trains behind the earlier method and, with `bits`, behind rounding."""
        model.set_weights(weights)
        methods = [earlier(network)] if earlier else []
        methods += [Quantization(QAT(weight_bits=bits))] if bits else []
        attached = [method.attach(model, dataset.x_train[:2], Grid(), length) for method in methods]
        callbacks = [callback for each in attached for callback in each.callbacks]
        train(model, network, dataset, spent, seed + number, callbacks, teacher)
        return [each.detach() for each in attached]

    train(model, network, dataset, network.baseline, seed)
    teacher = copy_of(model)
    figures = {"float32": measured(model, dataset, "float32")}
    if earlier:
        # As long as the first training: pruned at once, it has much to learn again.
        trained_from(model.get_weights(), number=2, spent=network.baseline)
        figures["float32, compressed"] = measured(model, dataset, "float32")
    start = model.get_weights()
    trained_from(start)
    trained_on = model.get_weights()
    for bits in (8, 4):
        for kind, weights in (
            ("post-training", start),
            ("trained on, then rounded", trained_on),
        ):
            model.set_weights(weights)
            method = Quantization(QAT(weight_bits=bits))
            method.attach(model, dataset.x_train[:2], Grid(), length).detach()
            figures[f"{kind}, {bits}-bit weights"] = measured(model, dataset, "int8")
        ranges = trained_from(start, bits)[-1]["ranges"]
        figures[f"QAT, {bits}-bit weights"] = measured(model, dataset, "int8", ranges)
        ranges = trained_from(start, bits, teacher=teacher)[-1]["ranges"]
        name = f"QAT with a teacher, {bits}-bit weights"
        figures[name] = measured(model, dataset, "int8", ranges)
    return figures


def main():
    packages = ("tensorflow", "keras", "ai-edge-litert")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}\n")
    network = NETWORKS[sys.argv[1] if len(sys.argv) > 1 else "lenet5"]
    earlier = EARLIER[sys.argv[2] if len(sys.argv) > 2 else "none"]
    dataset = network.data()
    rows = [one_seed(network, dataset, seed, earlier) for seed in SEEDS]
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    print(f"| file | {seeds} | mean | to float | zeros | most distinct values |")
    print("|---" * (len(SEEDS) + 5) + "|")
    floats = statistics.mean(row["float32"][0] for row in rows)
    for name in rows[0]:
        values, zeros, distinct = zip(*(row[name] for row in rows), strict=True)
        mean = float(np.mean(values))
        cells = " | ".join(f"{value:.2f}" for value in values)
        cells += f" | {mean:.2f} | {mean - floats:+.2f} | {min(zeros):.1%} | {max(distinct):,}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
