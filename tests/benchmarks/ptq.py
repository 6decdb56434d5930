"""What post-training estimators and algorithms are worth: lenet5 and resnet8 on Fashion-MNIST.

    .venv/bin/python tests/benchmarks/ptq.py [NETWORK] [MODEL.keras]

The network is trained once, or a trained one is given; every file is made of those same
weights, with the same 128 training samples. All accuracies are those of the file, run by
LiteRT on the same test samples. Prints a row a file.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras

from compresskit import catalog, data
from compresskit.artifacts import artifact
from compresskit.method import Examples, Length
from compresskit.methods.ptq import PostTraining
from compresskit.outputs import Output
from compresskit.progress import Bars
from compresskit.recipe_export import Export
from compresskit.resolution import Resolved
from compresskit.stages import PTQ
from compresskit.trained import Plain
from compresskit.training import fit

EQUALIZE, GPTQ, CORRECT = "cross_layer_equalization", "gptq", "bias_correction"
# The kernels of 16 bits take 56 ms for a picture in resnet8 beside other work.
TEST = 2000
STAGES = {
    EQUALIZE: (EQUALIZE,),
    CORRECT: (CORRECT,),
    f"{EQUALIZE}, {CORRECT}": (EQUALIZE, CORRECT),
    GPTQ: (GPTQ,),
    f"{GPTQ}, {CORRECT}": (GPTQ, CORRECT),
    f"{EQUALIZE}, {GPTQ}, {CORRECT}": (EQUALIZE, GPTQ, CORRECT),
}
ESTIMATORS = (
    {"estimator": "min-max"},
    {"estimator": "moving-average"},
    {"estimator": "percentile", "percentile": 99.99},
    {"estimator": "percentile", "percentile": 99.9},
    {"estimator": "mse"},
)
ROUNDINGS = (
    {"algorithm": "mse"},
    {"algorithm": "octav"},
    {"algorithm": "gptq"},
    {"granularity": "block", "block": 32},
    {"granularity": "block", "block": 32, "algorithm": "gptq"},
)


def measured(model, dataset, precision, **settings):
    target = catalog.targets.get("edge-cpu")
    resolved = Resolved(
        target=target,
        precision_name=precision,
        precision=target.precisions[precision],
        file="benchmark.tflite",
    )
    export = Export.model_validate({"target": "edge-cpu", "precision": precision, **settings})
    report, *_ = artifact(
        Plain(model=model),
        export,
        resolved,
        dataset,
        metric="accuracy",
        output=Output(),
        bars=Bars(),
    )
    return report


def row(name, precision, report, started):
    print(
        f"| {precision} | {name} | {report.metrics['accuracy']:.2%} | {report.bytes:,} | "
        f"{time.process_time() - started:.0f} |",
        flush=True,
    )


def words(settings):
    return ", ".join(f"{key}: {value}" for key, value in settings.items())


def main(network="lenet5", path=None):
    dataset = data.load("fashion-mnist").limit(test=TEST)
    keras.utils.set_random_seed(0)
    if path is None:
        model = catalog.models.get(network)()
        fit(
            model,
            dataset.limit(train=10000),
            optimizer="adam",
            learning_rate=1.5e-3,
            learning_rate_schedule="cosine",
            batch_size=128,
            epochs=4,
            loss="sparse_categorical_crossentropy",
            seed=0,
            bars=Bars(),
            where="benchmark",
        )
    else:
        model = keras.models.load_model(path, compile=False)
    versions = [f"{each} {metadata.version(each)}" for each in ("tensorflow", "litert-quantizer")]
    print(f"{network}, Python {platform.python_version()}, {', '.join(versions)}")
    weights = model.get_weights()
    grids = catalog.targets.get("edge-cpu").precisions
    for precision in ("float32", "dynamic", "int8", "int4"):
        started = time.process_time()
        row("", precision, measured(model, dataset, precision), started)
    for settings in ESTIMATORS[1:]:
        started = time.process_time()
        row(
            words(settings), "int8", measured(model, dataset, "int8", calibration=settings), started
        )
    for settings in ROUNDINGS:
        started = time.process_time()
        row(words(settings), "int4", measured(model, dataset, "int4", weights=settings), started)
    for precision in ("int8", "int4"):
        for name, algorithms in STAGES.items():
            model.set_weights(weights)
            started = time.process_time()
            attached = PostTraining(PTQ(algorithms=algorithms)).attach(
                model,
                dataset.x_train[:2],
                grids[precision].grid,
                Length(epochs=0, steps_per_epoch=0),
                Examples(representative=dataset.representative),
            )
            report = measured(model, dataset, precision)
            if attached.difference is not None:
                name += f" (difference {attached.difference:.0e})"
            row(name, precision, report, started)
    model.set_weights(weights)
    started = time.process_time()
    row("", "int16x8", measured(model, dataset, "int16x8"), started)


if __name__ == "__main__":
    main(*sys.argv[1:])
