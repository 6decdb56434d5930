"""Peak memory of `fit` with the callback, over 2 GB of a tf.data set and over 20 MB.

    .venv/bin/python tests/benchmarks/memory.py

The samples are made while they are read; each run has a process of its own. The figure is the
largest resident set of the process, in MB. Exit status 1 if more than 300 MB lie between the two.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

FEATURES, BATCH = 4096, 512
SIZES = {"20 MB": 20_000_000, "2 GB": 2_000_000_000}
STAGES = {
    "no callback": [],
    "prune, qat": [{"type": "prune", "sparsity": 0.8}, {"type": "qat"}],
    "cluster": [{"type": "cluster", "clusters": 16}],
}
MOST = 300


def measure(name, size):
    import keras
    import tensorflow as tf

    import compresskit as ck

    def batch(index):
        seed = tf.stack([index, 0])
        x = tf.random.stateless_uniform((BATCH, FEATURES), seed)
        return x, tf.random.stateless_uniform((BATCH,), seed, 0, 10, tf.int64)

    stages = STAGES[name]
    steps = SIZES[size] // (4 * FEATURES * BATCH)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    callback = ck.CompressionCallback(stages, target="edge-cpu", precision="int8")
    start = time.perf_counter()
    model.fit(
        tf.data.Dataset.range(steps).map(batch).prefetch(1),
        epochs=max(1, len(stages)),
        shuffle=False,
        verbose=0,
        callbacks=[callback] if stages else [],
    )
    seconds = time.perf_counter() - start
    if stages:
        assert callback.result().broken == ()
    return {"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": seconds}


def main():
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:])))
        return 0
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("tensorflow", "keras"))
    print(f"Python {platform.python_version()}, {versions}\n")
    print("| stages | 20 MB: peak, MB | 2 GB: peak, MB | difference, MB |")
    print("|---|---|---|---|")
    worst = 0.0
    for name in STAGES:
        peaks = []
        for size in SIZES:
            words = [sys.executable, __file__, "--measure", name, size]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            peaks.append(json.loads(done.stdout.splitlines()[-1])["mb"])
        worst = max(worst, peaks[1] - peaks[0])
        print(
            f"| {name} | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] - peaks[0]:.0f} |", flush=True
        )
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
