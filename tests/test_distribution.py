"""compresskit.distribution: the same training on one device, on two, and by two workers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from compresskit.distribution import agreed, is_chief, share_problems, training_on, written_once
from compresskit.errors import ModelError, RecipeError
from compresskit.recipe import Recipe
from compresskit.recipe_strategy import Strategy
from tests.models import mlp
from tests.recipes import HEAD, problems_of

ROOT = Path(__file__).parents[1]


def start(module, *args):
    words = [sys.executable, "-m", module, *map(str, args)]
    return subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process):
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said[-3000:]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two replicas and one wrote."""
    made = tmp_path_factory.mktemp("replicas")
    finished(start("tests.replicas", made / "replicas.json"))
    return made


@pytest.fixture(scope="module")
def replicas(folder):
    return json.loads((folder / "replicas.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def workers(folder):
    """What two workers wrote, beside what one device did."""
    ports = free_ports(2)
    for each in [start("tests.workers", index, *ports, folder) for index in range(2)]:
        finished(each)
    return [
        json.loads((folder / f"worker-{index}.json").read_text(encoding="utf-8"))
        for index in range(2)
    ]


def weights(folder, name):
    with np.load(folder / f"{name}.npz") as arrays:
        return [arrays[key] for key in arrays.files]


# Replicas.


@pytest.mark.parametrize("way", ["course", "recipe"])
def test_two_replicas_and_one_give_the_same_weights(replicas, way):
    found = replicas[way]
    assert found["replicas"] == [2, 2, 2, 2]
    assert found["same"]
    assert found["zeros"]
    assert found["difference"] < 1e-6


def test_ranges_are_those_of_the_whole_batch(replicas):
    np.testing.assert_allclose(*replicas["ranges"], atol=1e-5)


def test_what_was_promised_is_kept_and_exported(replicas):
    assert replicas["broken"] == replicas["promises"] == []
    assert replicas["ops"]["FULLY_CONNECTED"] == 2


def test_metrics_are_those_of_one_device(replicas):
    two, one = replicas["metrics"]
    assert len(two) == 2
    assert two == one


def test_what_cannot_be_shared_out(replicas):
    device, model, few = replicas["errors"]
    assert "no device GPU:7" in device
    assert "one of: CPU:0, CPU:1" in device
    assert "leave `strategy` out of the recipe" in model
    assert "65 samples in batches of 32: 1 in the last one, for 2 replicas" in few
    assert few.count("expected: at least one for each") == 2


# Workers.


def test_two_workers_and_one_device_give_the_same_weights(folder, workers):
    first, second = (weights(folder, f"course-{index}") for index in range(2))
    assert all(map(np.array_equal, first, second))
    for values, alone in zip(first, weights(folder, "course"), strict=True):
        np.testing.assert_array_equal(values == 0, alone == 0)
        np.testing.assert_allclose(values, alone, atol=1e-6)


def test_workers_agree(folder, workers):
    first, second = workers
    assert first == second
    recipes = [weights(folder, f"recipe-{index}") for index in range(2)]
    assert all(map(np.array_equal, *recipes))
    assert first["broken"] == []
    assert first["history"]["sparsity"] == pytest.approx([0.5, 0.5], abs=1e-3)


def test_only_the_chief_leaves_files(folder, workers):
    assert (folder / "run-0" / "model.keras").exists()
    assert not (folder / "run-1").exists()


# On one device.


def test_without_a_strategy_nothing_changes(tmp_path):
    with training_on(None, mlp()), written_once(tmp_path) as out:
        assert not tf.distribute.has_strategy()
        assert out == tmp_path
        assert is_chief()
        assert agreed(0.1) == 0.1
    assert share_problems(33, 16, "stages[0]") == []


def test_one_replica_is_enough():
    with training_on(Strategy(type="mirrored"), None):
        assert tf.distribute.get_strategy().num_replicas_in_sync == 1
        assert type(mlp().weights[0]._value).__name__ == "MirroredVariable"
        assert agreed(0.1) == 0.1


def test_a_model_from_outside_of_the_scope():
    strategy, model = tf.distribute.MirroredStrategy(["CPU:0"]), mlp()
    with (
        pytest.raises(ModelError, match="built outside of the strategy"),
        strategy.scope(),
        training_on(None, model),
    ):
        pass
    with strategy.scope():
        inside = mlp()
    with training_on(None, inside):
        assert tf.distribute.get_strategy() is strategy


def test_what_tensorflow_refuses(monkeypatch):
    # Of a process that has computed something already.
    tf.constant(1.0) + 1.0
    cluster = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with (
        pytest.raises(RecipeError) as caught,
        training_on(Strategy(type="multi-worker"), None, "r.yaml:4 strategy"),
    ):
        pass
    (problem,) = caught.value.problems
    assert problem.where == "r.yaml:4 strategy"
    assert "multi-worker, and RuntimeError: " in problem.found
    assert "TF_CONFIG" in problem.expected


# What a recipe says.


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("mirrored", Strategy(type="mirrored")),
        ("multi-worker", Strategy(type="multi-worker")),
        ("{type: mirrored, devices: [GPU:0, GPU:1]}",
         Strategy(type="mirrored", devices=("GPU:0", "GPU:1"))),
        ("{type: tpu, tpu: local}", Strategy(type="tpu", tpu="local")),
    ],
)  # fmt: skip
def test_a_strategy(text, strategy):
    recipe = Recipe.loads(f"{HEAD}stages: [{{type: qat}}]\nstrategy: {text}\n")
    assert recipe.strategy == strategy
    assert Recipe.loads(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("text", "place", "expected", "fix"),
    [
        ("mirored", "", "one of: mirrored, multi-worker, tpu or a mapping", "'mirrored'"),
        ("{type: tpus}", ".type", "one of: mirrored, multi-worker, tpu", "did you mean 'tpu'?"),
        ("{type: tpu, devices: [TPU:0]}", ".devices", "no `devices`", "remove `devices`"),
        ("{type: mirrored, devices: [CPU:0, CPU:0]}", ".devices", "each device once", "twice"),
        ("{type: mirrored, tpu: local}", ".tpu", "no `tpu`", "write `type: tpu`"),
        ("{typ: tpu}", ".typ", "one of: type, devices, tpu", "did you mean 'type'?"),
    ],
)
def test_a_wrong_strategy(text, place, expected, fix):
    (problem,) = problems_of(f"{HEAD}stages: [{{type: qat}}]\nstrategy: {text}\n")
    assert problem.where == f"recipe.yaml:5 strategy{place}"
    assert problem.expected.startswith(expected)
    assert fix in problem.fix


def test_tfmot_trains_on_one_device():
    (problem,) = problems_of(f"{HEAD}engine: tfmot\nstages: [{{type: qat}}]\nstrategy: mirrored\n")
    assert problem.expected == "no `strategy`: engine tfmot trains on one device"
