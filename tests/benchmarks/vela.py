"""What zeros and shared values are worth on Arm Ethos-U, by Vela.

    .venv/bin/python tests/benchmarks/vela.py

The models go through the stages of the package for two steps, on noise: how many bytes the
weights take and how many cycles an inference, does not depend on what they answer. Each is then
converted to int8 once and compiled for three accelerators. Bytes are those of the weights
as Vela encodes them, cycles its estimate for one inference; in brackets, relative to the dense
int8 file. Zeros and distinct values, the most in a tensor, are read from the int8 file.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

TARGETS = ("ethos-u55", "ethos-u65", "ethos-u85")
SAMPLES = 64
CLUSTER = {"type": "cluster", "clusters": 16, "epochs": 1}


def pruned(**settings):
    return {"type": "prune", "frequency": "1st", "epochs": 1, **settings}


VARIANTS = {
    "dense": [],
    "50 % zeros": [pruned(sparsity=0.5)],
    "75 % zeros": [pruned(sparsity=0.75)],
    "90 % zeros": [pruned(sparsity=0.9)],
    "2:4": [pruned(granularity="2:4")],
    "16 clusters": [CLUSTER],
    "90 % zeros, 16 clusters": [pruned(sparsity=0.9), CLUSTER],
}


def small_cnn():
    from compresskit.models.cnn import small_cnn

    return small_cnn(filters=(32, 64, 128))


def lstm():
    from compresskit.models.lstm import lstm_classifier

    return lstm_classifier(units=128)


def main():
    import keras
    import numpy as np

    import compresskit as ck
    from compresskit import catalog
    from compresskit.tflite.audit import audit
    from compresskit.tflite.convert import convert

    packages = ("tensorflow", "keras", "ethos-u-vela")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}\n")
    targets = [catalog.targets.get(name) for name in TARGETS]
    options = [{name: values[0] for name, values in each.options.items()} for each in targets]
    heads = ["model", "weights", "zeros", "distinct"]
    for chosen in options:
        print(f"* {', '.join(chosen.values())}")
        short = chosen["accelerator"].removeprefix("ethos-")
        heads += [f"bytes {short}", f"cycles {short}"]
    print("\n|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for build in (small_cnn, lstm):
        dense = {}
        for variant, stages in VARIANTS.items():
            keras.utils.set_random_seed(0)
            model = build()
            random = np.random.default_rng(0)
            x = random.normal(size=(SAMPLES, *model.input_shape[1:])).astype(np.float32)
            y = np.arange(SAMPLES) % 10
            if stages:
                recipe = {"version": 1, "name": "vela", "model": "given", "stages": stages}
                recipe["defaults"] = {"batch_size": SAMPLES // 2}
                model = ck.compress(model, ck.Recipe.from_dict(recipe), data=((x, y), (x, y))).model
            precision = targets[0].precisions["int8"]
            content = convert(model, precision, sample=x[:1], calibration=x)
            audited = audit(content)
            zeros = sum(float(np.sum(each.constant == 0)) for each in audited.weights)
            size = sum(each.constant.size for each in audited.weights)
            distinct = max(each.distinct for each in audited.weights)
            cells = [build.__name__, variant, f"{zeros / size:.1%}", str(distinct)]
            for target, chosen in zip(targets, options, strict=True):
                made, _ = target.compile(content, audited, name="m.tflite", options=chosen)
                assert not made.cpu_ops, made.cpu_ops
                for name in ("encoded_weight_bytes", "cycles"):
                    figure = getattr(made, name)
                    base = dense.setdefault((target.name, name), figure)
                    cells.append(f"{figure:,} ({figure / base:.2f})")
            print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
