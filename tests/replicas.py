"""Trains on two replicas and on one; in a process of its own, for devices come first of all.

    python -m tests.replicas FILE

writes what came out to a file of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import compresskit as ck
from compresskit.recipe import Recipe
from tests.models import mlp
from tests.runs import PRUNE, digits, settings, untrained
from tests.training import inputs_of, labels

BOTH = ["CPU:0", "CPU:1"]
FEATURES = {"type": "features", "layers": {"fc1": "fc1"}}
TAUGHT = {"teacher": "baseline", "losses": [{"type": "logits"}, FEATURES]}
COURSE = [
    {"type": "prune", "sparsity": 0.5, "frequency": "1st"},
    {"type": "qat", "distill": TAUGHT},
]
STAGES = [{**PRUNE, "distill": TAUGHT}, {"type": "cluster", "clusters": 8}]


def replicas_of(model):
    """The weights of a model: of each replica, or of the only one."""
    values = [getattr(variable._value, "values", (variable._value,)) for variable in model.weights]
    return [[replica.numpy() for replica in each] for each in values]


def compared(two, one):
    """How the weights of a model on two replicas differ: from each other, and from one's."""
    pairs = list(zip(replicas_of(two), (each[0] for each in replicas_of(one)), strict=True))
    return {
        "replicas": [len(each) for each, _ in pairs],
        "same": all(np.array_equal(*each) for each, _ in pairs),
        "zeros": all(np.array_equal(each[0] == 0, value == 0) for each, value in pairs),
        "difference": max(float(np.abs(each[0] - value).max()) for each, value in pairs),
    }


def course(strategy):
    """The callback in a `fit`."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = mlp()
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    x = inputs_of("mlp")
    callback = ck.CompressionCallback(COURSE, target="edge-cpu", precision="int8", sample=x)
    model.fit(x, labels(), epochs=2, batch_size=16, shuffle=False, verbose=0, callbacks=[callback])
    return model, callback


def recipe(strategy, stages=STAGES):
    changes = {"stages": stages, "strategy": strategy, "baseline": None, "export": []}
    return Recipe.from_dict(settings(**changes))


def ends(ranges):
    return [(each.low, each.high) for each in ranges]


def errors(model):
    """The texts of what cannot be."""
    yield None, recipe({"type": "mirrored", "devices": ["GPU:7"]}), digits("mlp")
    yield model, recipe("mirrored"), digits("mlp")
    yield None, recipe({"type": "mirrored", "devices": BOTH}), digits("mlp").limit(train=65)


def refusal(*given):
    try:
        ck.compress(*given[:2], data=given[2])
    except ck.CompressKitError as error:
        return str(error)
    return None


def main():
    (cpu,) = tf.config.list_physical_devices("CPU")
    halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(cpu, halves)
    file = Path(sys.argv[1])

    mirrored = tf.distribute.MirroredStrategy(BOTH)
    two, callback = course(mirrored)
    one, expected = course(tf.distribute.get_strategy())
    report = callback.export(path=file.parent / "course.tflite")
    found = {
        "course": compared(two, one),
        "broken": [each.what for each in callback.result().broken],
        "ops": report.ops,
        "ranges": [ends(callback.ranges), ends(expected.ranges)],
        "errors": [refusal(*each) for each in errors(one)],
    }

    keras.utils.set_random_seed(0)
    with mirrored.scope():
        mine = ck.compress(untrained("mlp"), recipe(None), data=digits("mlp"))
    keras.utils.set_random_seed(0)
    alone = ck.compress(None, recipe({"type": "mirrored", "devices": BOTH[:1]}))
    found["recipe"] = compared(mine.model, alone.model)
    found["promises"] = [each.what for each in mine.report.broken]
    found["metrics"] = [[each.metrics for each in run.report.stages] for run in (mine, alone)]
    np.savez(file.parent / "course.npz", *one.get_weights())
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
