"""What `CompressionCallback` costs in a `fit`, and what a second replica brings.

    .venv/bin/python tests/benchmarks/overhead.py [NETWORK...]
    .venv/bin/python tests/benchmarks/overhead.py --replicas [NETWORK...]

The networks are those of step_time.py. One thread, and processor time; the plain `fit` and those
with the callback take turns, epoch by epoch, and the ratio of each epoch to the plain one beside
it is taken. An epoch is everything: steps, schedules, figures for the logs, copies of weights. The
first one, which traces, is left out.

`--replicas`: samples a second, by the clock, on two logical devices of the processor over those on
one, one thread each, also in turns. Another load on the machine spoils it.
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

import step_time
from step_time import BATCH, CLUSTERS, INPUTS, samples

NETWORKS = ("cnn", "lstm", "bert")
STEPS, EPOCHS = 30, 5
STAGES = {
    "prune": {"type": "prune", "sparsity": {"initial": 0.3, "final": 0.8}, "end": "100%"},
    "cluster": {"type": "cluster", "clusters": CLUSTERS},
    "qat": {"type": "qat"},
    "distill": {"type": "distill"},
}


def epoch_of(callback, epoch):
    """Hands one epoch of a longer training on to a callback."""
    import keras

    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda _, logs: callback.on_epoch_begin(epoch, logs),
        on_train_batch_begin=callback.on_train_batch_begin,
        on_train_batch_end=callback.on_train_batch_end,
        on_epoch_end=lambda _, logs: callback.on_epoch_end(epoch, logs),
    )


def model_of(network):
    import keras

    keras.utils.set_random_seed(0)
    model = getattr(step_time, network)(keras)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def data(network):
    import numpy as np

    count = BATCH * STEPS
    y = np.random.default_rng(1).integers(0, 10, count)
    return {"x": samples(network, count), "y": y, "batch_size": BATCH, "shuffle": False}


def overhead(network):
    import compresskit as ck

    given = data(network)
    models, callbacks = {"plain": model_of(network)}, {}
    for name, stage in STAGES.items():
        models[name] = model_of(network)
        callbacks[name] = ck.CompressionCallback(
            [{**stage, "epochs": EPOCHS + 1}],
            target="edge-cpu",
            precision="int8",
            sample=given["x"][:2],
        )
        callbacks[name].set_model(models[name])
        callbacks[name].set_params({"epochs": EPOCHS + 1, "steps": STEPS})
        callbacks[name].on_train_begin()
    times = {name: [] for name in models}
    for epoch in range(EPOCHS + 1):
        for name, model in models.items():
            start = time.process_time()
            relayed = [epoch_of(callbacks[name], epoch)] if name in callbacks else []
            model.fit(**given, verbose=0, callbacks=relayed)
            if epoch:
                times[name].append(time.process_time() - start)
    for callback in callbacks.values():
        callback.on_train_end()
        assert callback.result().broken == ()
    ratios = {
        name: [each / plain for each, plain in zip(times[name], times["plain"], strict=True)]
        for name in STAGES
    }
    return {"plain": statistics.median(times["plain"]) / STEPS * 1000, **ratios}


def replicas(network):
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(cpu, halves)
    given, models = data(network), {}
    # Keras makes an iterator over arrays anew behind the last batch of an epoch and throws it away
    # at once; on several logical devices of a processor that has crashed and hung.
    pairs = tf.data.Dataset.from_tensor_slices((given["x"], given["y"])).batch(BATCH).repeat()
    for name, devices in (("one", ["CPU:0"]), ("two", ["CPU:0", "CPU:1"])):
        with tf.distribute.MirroredStrategy(devices).scope():
            models[name] = model_of(network)
    speeds = {name: [] for name in models}
    for epoch in range(EPOCHS + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(pairs, steps_per_epoch=STEPS, verbose=0)
            if epoch:
                speeds[name].append(BATCH * STEPS / (time.perf_counter() - start))
    ratios = [two / one for two, one in zip(speeds["two"], speeds["one"], strict=True)]
    return {"plain": statistics.median(speeds["one"]), "two": ratios}


def main():
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(globals()[sys.argv[2]](sys.argv[3])))
        return
    several = sys.argv[1:2] == ["--replicas"]
    columns = ["two"] if several else list(STAGES)
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "2" if several else "1"}
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(f"Python {platform.python_version()}, {versions}")
    print(f"batch {BATCH}, median (range) of {EPOCHS} epochs of {STEPS} steps\n")
    heads = ["two replicas / one"] if several else [f"{name} / plain" for name in columns]
    first = "one replica, samples/s" if several else "plain step, ms"
    print(f"| network | {first} | {' | '.join(heads)} |")
    print(f"|{'---|' * (2 + len(columns))}")
    for network in sys.argv[1 + several :] or NETWORKS:
        assert network in INPUTS, network
        words = ["--measure", "replicas" if several else "overhead", network]
        done = subprocess.run(
            [sys.executable, __file__, *words],
            env={**os.environ, **threads},
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
            for name in columns
        ]
        print(f"| {network} | {figures['plain']:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
