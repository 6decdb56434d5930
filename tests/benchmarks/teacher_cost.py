"""What a teacher costs: an epoch with its answers on disk, and asking it, beside the student alone.

    .venv/bin/python tests/benchmarks/teacher_cost.py RECIPE...

The student of the recipe's first stage, with random weights, on at most 4,096 of its training
samples. Epochs of the three take turns; the figures are ratios of medians, on one thread.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras

import compresskit as ck
from compresskit.distillation.distiller import Distiller
from compresskit.distillation.feed import Feed, remember
from compresskit.distillation.teaching import comparisons
from compresskit.preparation import check

SAMPLES, EPOCHS = 4096, 5


def measured(path):
    recipe = ck.Recipe.load(path)
    stage = recipe.stages[0]
    made = check(recipe.model_copy(update={"stages": (stage,)}), base=path.parent)
    lesson = made.lessons[0]
    dataset = lesson.dataset.limit(train=SAMPLES)
    batch = stage.batch_size or recipe.defaults.batch_size
    settings = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"}

    alone = keras.models.clone_model(lesson.student)
    alone.compile(**settings, metrics=["accuracy"])
    ways = {
        "alone": lambda: alone.fit(dataset.x_train, dataset.y_train, batch_size=batch, verbose=0)
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cached", "asked"):
            student = keras.models.clone_model(lesson.student)
            terms = comparisons(
                lesson.learning,
                made.model,
                student,
                dataset.x_train[:2],
                dataset.y_train,
                where="benchmark",
                ids=lesson.ids,
            )
            distiller = Distiller(
                made.model,
                student,
                terms,
                alpha=lesson.learning.alpha,
                padding=dataset.tokenizer is not None,
                ids=lesson.ids,
            )
            distiller.compile(**settings, weighted_metrics=["accuracy"])
            shown = None
            if name == "cached":
                start = time.perf_counter()
                shown = remember(
                    distiller, dataset.x_train, Path(folder), "benchmark", lambda **_: None
                )
                once = time.perf_counter() - start
            feed = Feed(dataset.x_train, dataset.y_train, shown=shown, batch_size=batch, seed=0)
            ways[name] = lambda each=distiller, feed=feed: each.fit(feed, shuffle=False, verbose=0)
        times = {name: [] for name in ways}
        for epoch in range(EPOCHS + 1):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                if epoch:  # the first one traces
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in times.items()}
    base = medians["alone"]
    print(
        f"| {recipe.name} | {base:.2f} s | {medians['cached'] / base:.2f} | "
        f"{medians['asked'] / base:.2f} | {once / base:.2f} |",
        flush=True,
    )


def main():
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("tensorflow", "keras"))
    print(f"{time.strftime('%Y-%m-%d')}, {versions}, {SAMPLES:,} samples, median of {EPOCHS}\n")
    print("| recipe | epoch alone | cached | asked | asking once |\n|---|---|---|---|---|")
    for path in sys.argv[1:]:
        measured(Path(path))


if __name__ == "__main__":
    main()
