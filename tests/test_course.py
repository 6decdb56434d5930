"""compresskit.course: the same stages on one device and on two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process of its own: devices are made before TensorFlow does anything.
REPLICAS = """
import keras
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
halves = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
tf.config.set_logical_device_configuration(cpu, halves)

import compresskit as ck
from tests.models import mlp
from tests.training import inputs_of, labels

STAGES = [
    {"type": "prune", "sparsity": 0.5, "frequency": "1st"},
    {"type": "cluster", "clusters": 8},
    {"type": "qat", "distill": {"teacher": "baseline"}},
]


def train(strategy):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = mlp()
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    callback = ck.CompressionCallback(STAGES, target="edge-cpu", precision="int8")
    model.fit(inputs_of("mlp"), labels(), epochs=3, batch_size=16, shuffle=False, verbose=0,
              callbacks=[callback])
    assert callback.result().broken == ()
    return model, callback.ranges


two, seen = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
one, expected = train(tf.distribute.get_strategy())
for variable, value in zip(two.weights, one.get_weights(), strict=True):
    first, second = (replica.numpy() for replica in variable._value.values)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first == 0, value == 0)
    np.testing.assert_allclose(first, value, atol=1e-6)
ends = [[(each.low, each.high) for each in ranges] for ranges in (seen, expected)]
np.testing.assert_allclose(*ends, atol=1e-5)
print("same")
"""


def test_two_replicas_and_one_give_the_same_weights():
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["same"], done.stderr[-3000:]
