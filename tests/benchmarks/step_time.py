"""Time of a training step with pruning, clustering and QAT, relative to the plain step.

    .venv/bin/python tests/benchmarks/step_time.py [NETWORK...]

One thread, and processor time rather than time on the clock, which other work on the machine
would disturb. In each engine's process the models take turns, block by block, and the
ratio of each block to the plain block beside it is taken; the table shows the median and
the range of the ratios. TFMOT runs on the same network in tf_keras, in a process of its
own (`pip install -e .[tfmot]`); a dash is what it refuses, with its words below the table.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

BATCH, STEPS, BLOCKS = 64, 20, 11
METHODS = ("prune", "cluster", "qat")
CLUSTERS = 16
INPUTS = {"cnn": (28, 28, 1), "resnet8": (28, 28, 1), "lstm": (40, 13), "bert": (32,)}
TOKENS = 1000


def cnn(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def resnet8(keras):
    layers = keras.layers

    def conv_bn(x, filters, strides):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv_bn(inputs, 16, 1))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(conv_bn(x, filters, strides))
        y = conv_bn(y, filters, 1)
        if strides != 1:
            x = layers.Conv2D(filters, 1, strides=strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


def lstm(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((40, 13)),
            layers.LSTM(128, return_sequences=True),
            layers.LSTM(128),
            layers.Dense(10, activation="softmax"),
        ]
    )


def bert(keras):
    layers = keras.layers
    tokens = keras.Input((32,), dtype="int32")
    x = layers.Embedding(TOKENS, 128)(tokens)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 32)(x, x)]))
        y = layers.Dense(128)(layers.Dense(512, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(10, activation="softmax")(x))


def native(network):
    import keras

    from compresskit.method import Length
    from compresskit.methods.cluster import Clustering
    from compresskit.methods.prune import Pruning
    from compresskit.methods.quantize import Quantization
    from compresskit.stages import QAT, Cluster, Prune
    from compresskit.target import Grid

    sample = samples(network, 2)
    length = Length(epochs=1, steps_per_epoch=(BLOCKS + 1) * STEPS)
    prune = Prune(sparsity={"initial": 0.3, "final": 0.8}, frequency="100st", end="100%")
    models = {}
    for name, method in (
        ("plain", None),
        ("prune", Pruning(prune)),
        ("cluster", Clustering(Cluster(clusters=CLUSTERS))),
        ("qat", Quantization(QAT())),
    ):
        keras.utils.set_random_seed(0)
        model = globals()[network](keras)
        callbacks = []
        if method is not None:
            callbacks = list(method.attach(model, sample, Grid(), length).callbacks)
        model.compile("adam", "sparse_categorical_crossentropy")
        models[name] = (model, callbacks)
    return models, {}


def tfmot(network):
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    sparsity = tfmot.sparsity.keras
    schedule = sparsity.PolynomialDecay(0.3, 0.8, 0, (BLOCKS + 1) * STEPS, frequency=100)
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    share = {"number_of_clusters": CLUSTERS, "cluster_centroids_init": start}
    models, refused = {}, {}
    for name, attach in (
        ("plain", lambda model: model),
        ("prune", lambda model: sparsity.prune_low_magnitude(model, schedule)),
        ("cluster", lambda model: tfmot.clustering.keras.cluster_weights(model, **share)),
        ("qat", tfmot.quantization.keras.quantize_model),
    ):
        keras.utils.set_random_seed(0)
        try:
            model = attach(globals()[network](keras))
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            refused[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        model.compile("adam", "sparse_categorical_crossentropy")
        callbacks = [sparsity.UpdatePruningStep()] if name == "prune" else []
        models[name] = (model, callbacks)
    return models, refused


def samples(network, count):
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (count, *INPUTS[network])
    if network == "bert":
        return generator.integers(0, TOKENS, shape, dtype="int32")
    return generator.random(shape, dtype="float32")


def measure(engine, network):
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    models, refused = globals()[engine](network)
    x = samples(network, BATCH * STEPS)
    y = np.random.default_rng(1).integers(0, 10, BATCH * STEPS)
    times = {name: [] for name in models}
    for block in range(BLOCKS + 1):
        for name, (model, callbacks) in models.items():
            start = time.process_time()
            model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False, callbacks=callbacks)
            if block:  # the first one traces
                times[name].append((time.process_time() - start) / STEPS * 1000)
    ratios = {
        name: [t / p for t, p in zip(times[name], times["plain"], strict=True)]
        for name in METHODS
        if name in times
    }
    return {"plain_ms": statistics.median(times["plain"]), "refused": refused, **ratios}


def main():
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
        return
    packages = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}")
    print(f"batch {BATCH}, median of {BLOCKS} blocks of {STEPS} steps, one thread\n")
    print("| network | engine | plain step, ms | prune / plain | cluster / plain | QAT / plain |")
    print("|---|---|---|---|---|---|")
    refusals = []
    for network in sys.argv[1:] or INPUTS:
        for engine in ("native", "tfmot"):
            done = subprocess.run(
                [sys.executable, __file__, "--measure", engine, network],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(done.stderr)
            figures = json.loads(done.stdout.splitlines()[-1])
            cells = [
                f"{statistics.median(figures[name]):.3f} "
                f"({min(figures[name]):.2f}-{max(figures[name]):.2f})"
                if name in figures
                else "-"
                for name in METHODS
            ]
            print(
                f"| {network} | {engine} | {figures['plain_ms']:.1f} | {' | '.join(cells)} |",
                flush=True,
            )
            refusals += [
                f"{network}, {name}: {words}" for name, words in figures["refused"].items()
            ]
    print("\nTFMOT refuses:", *refusals, sep="\n")


if __name__ == "__main__":
    main()
