"""Does a teacher help? The same student with and without one, three seeds.

    .venv/bin/python tests/benchmarks/distill.py RECIPE [TEACHER.keras]

The recipe's model is trained once, or read from a file, and teaches in every run. Without it
the recipe is the same but that the labels alone count: no samples without labels, no teacher in
later stages, and in each stage whole epochs of at least as many steps. All accuracies are those
of the first file that the recipe exports, run by LiteRT on the same test samples.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras

import compresskit as ck
from compresskit.preparation import check
from compresskit.stages import Compression, Distill

SEEDS = (0, 1, 2)


def without(recipe: ck.Recipe, steps: list[int]) -> ck.Recipe:
    """The recipe with no teacher in it, and at least as many steps in each stage."""
    stages = []
    for stage in recipe.stages:
        if isinstance(stage, Distill):
            stage = stage.model_copy(update={"alpha": 0.0, "transfer": None})
        elif isinstance(stage, Compression):
            stage = stage.model_copy(update={"distill": None})
        stages.append(stage)
    alone = check(recipe.model_copy(update={"stages": tuple(stages)}), model=MODEL[0]).steps
    for index, stage in enumerate(stages):
        if isinstance(stage, Distill | Compression):
            epochs = math.ceil(stage.epochs * steps[index] / alone[index])
            stages[index] = stage.model_copy(update={"epochs": epochs})
    return recipe.model_copy(update={"stages": tuple(stages)})


MODEL: list[keras.Model] = []


def main() -> None:
    path = Path(sys.argv[1])
    recipe = ck.Recipe.load(path)
    if len(sys.argv) > 2:
        MODEL.append(keras.saving.load_model(sys.argv[2]))
    else:
        alone = recipe.model_copy(update={"stages": (), "export": recipe.export[:1]})
        alone = alone.model_copy(
            update={
                "export": (recipe.export[0].model_copy(update={"precision": "float32"}),),
            }
        )
        MODEL.append(ck.compress(None, alone, base=path.parent).model)
    recipe = recipe.model_copy(update={"baseline": None, "export": recipe.export[:1]})
    steps = check(recipe, model=MODEL[0]).steps
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("tensorflow", "keras"))
    print(f"{recipe.name}, {time.strftime('%Y-%m-%d')}, {versions}", flush=True)
    reached: dict[str, list[float]] = {"with": [], "without": []}
    for seed in SEEDS:
        for name, each in (("with", recipe), ("without", without(recipe, steps))):
            keras.utils.set_random_seed(seed)
            made = ck.compress(MODEL[0], each, seed=seed).report
            file = made.artifacts[0]
            value = file.metrics[made.metric]
            reached[name].append(value)
            stages = ", ".join(f"{s.name} {100 * s.metrics[made.metric]:.2f}" for s in made.stages)
            print(
                f"seed {seed} {name:8s} file {100 * value:.2f} % ({stages}); "
                f"{made.baseline.tflite_bytes / file.bytes:.1f}x smaller, "
                f"{made.baseline.latency_ms / file.latency_ms:.1f}x faster, "
                f"agreement {file.parity.agreement:.4f}, {made.seconds:.0f} s",
                flush=True,
            )
    print(f"teacher {100 * made.baseline.metrics[made.metric]:.2f} %")
    for name, values in reached.items():
        mean, spread = statistics.mean(values), statistics.stdev(values)
        print(f"{name} a teacher: {100 * mean:.2f} % ± {100 * spread:.2f}")


if __name__ == "__main__":
    main()
