"""Flash and arena of files for TensorFlow Lite Micro, weights as they are and as look-up tables.

    .venv/bin/python tests/benchmarks/micro.py

The models of `vela.py`, dense and with 16 shared values; see there. Files with tables are run, too,
and must answer as those without.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from vela import CLUSTER, SAMPLES, lstm, small_cnn

import compresskit as ck
from compresskit.tflite.micro import arena_bytes
from compresskit.tflite.runtime import Runner


def main():
    print(
        "| model | weights | flash, bytes | arena, bytes | flash with tables | arena with tables |"
    )
    print("|---|---|---|---|---|---|")
    for build in (small_cnn, lstm):
        for variant, stages in (("dense", []), ("16 clusters", [CLUSTER])):
            keras.utils.set_random_seed(0)
            model = build()
            random = np.random.default_rng(0)
            x = random.normal(size=(SAMPLES, *model.input_shape[1:])).astype(np.float32)
            y = np.arange(SAMPLES) % 10
            if stages:
                export = [{"target": "micro", "parity": {"min_agreement": 0.0}}]
                recipe = {"version": 1, "name": "micro", "model": "given", "stages": stages}
                recipe |= {"defaults": {"batch_size": SAMPLES // 2}, "export": export}
                model = ck.compress(model, ck.Recipe.from_dict(recipe), data=((x, y), (x, y))).model
            cells, answers = [], []
            for compress in ("none", "lut") if stages else ("none",):
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder, "m.tflite")
                    ck.export(
                        model, target="micro", path=path, representative_data=x, compress=compress
                    )
                    content = path.read_bytes()
                answers.append(Runner(content, runtime="tflite-micro").predict(x))
                cells += [f"{len(content):,}", f"{arena_bytes(content, 'm.tflite'):,}"]
            assert all(np.array_equal(each, answers[0]) for each in answers)
            cells += ["", ""] * (2 - len(answers))
            print("|", " | ".join([build.__name__, variant, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
