"""Time of a training step with pruning and with QAT, relative to the plain step.

    .venv/bin/python tests/benchmarks/step_time.py

One thread, and processor time rather than time on the clock, which other work on the machine
would disturb. In each engine's process the three models take turns, block by block, and the
ratio of each block to the plain block beside it is taken; the table shows the median and
the range of the ratios. TFMOT runs on the same network in tf_keras, in a process of its
own (`pip install -e .[tfmot]`).
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

BATCH, STEPS, BLOCKS = 64, 20, 15
NETWORKS = ("cnn", "resnet8")


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


def native(network):
    import keras
    import numpy as np

    from compresskit.method import Length
    from compresskit.methods.prune import Pruning
    from compresskit.methods.quantize import Quantization
    from compresskit.stages import QAT, Prune
    from compresskit.target import Grid

    sample = np.zeros((2, 28, 28, 1), "float32")
    length = Length(epochs=1, steps_per_epoch=(BLOCKS + 1) * STEPS)
    prune = Prune(sparsity={"initial": 0.3, "final": 0.8}, frequency="100st", end="100%")
    models = {}
    for name, method in (
        ("plain", None),
        ("prune", Pruning(prune)),
        ("qat", Quantization(QAT())),
    ):
        keras.utils.set_random_seed(0)
        model = globals()[network](keras)
        callbacks = []
        if method is not None:
            callbacks = list(method.attach(model, sample, Grid(), length).callbacks)
        model.compile("adam", "sparse_categorical_crossentropy")
        models[name] = (model, callbacks)
    return models


def tfmot(network):
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    sparsity = tfmot.sparsity.keras
    schedule = sparsity.PolynomialDecay(0.3, 0.8, 0, (BLOCKS + 1) * STEPS, frequency=100)
    models = {}
    for name, attach in (
        ("plain", lambda model: model),
        ("prune", lambda model: sparsity.prune_low_magnitude(model, schedule)),
        ("qat", tfmot.quantization.keras.quantize_model),
    ):
        keras.utils.set_random_seed(0)
        model = attach(globals()[network](keras))
        model.compile("adam", "sparse_categorical_crossentropy")
        callbacks = [sparsity.UpdatePruningStep()] if name == "prune" else []
        models[name] = (model, callbacks)
    return models


def measure(engine, network):
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    models = globals()[engine](network)
    generator = np.random.default_rng(0)
    x = generator.random((BATCH * STEPS, 28, 28, 1), dtype="float32")
    y = generator.integers(0, 10, BATCH * STEPS)
    times = {name: [] for name in models}
    for block in range(BLOCKS + 1):
        for name, (model, callbacks) in models.items():
            start = time.process_time()
            model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False, callbacks=callbacks)
            if block:  # the first one traces
                times[name].append((time.process_time() - start) / STEPS * 1000)
    ratios = {
        name: [t / p for t, p in zip(times[name], times["plain"], strict=True)]
        for name in ("prune", "qat")
    }
    return {"plain_ms": statistics.median(times["plain"]), **ratios}


def main():
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    packages = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}")
    print(f"batch {BATCH}, median of {BLOCKS} blocks of {STEPS} steps, one thread\n")
    print("| network | engine | plain step, ms | prune / plain | QAT / plain |")
    print("|---|---|---|---|---|")
    for network in NETWORKS:
        for engine in ("native", "tfmot"):
            done = subprocess.run(
                [sys.executable, __file__, engine, network],
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
                for name in ("prune", "qat")
            ]
            print(f"| {network} | {engine} | {figures['plain_ms']:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
