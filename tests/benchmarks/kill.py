"""Runs that are killed at random moments, each gone on with: do they end with the same weights?

    .venv/bin/python tests/benchmarks/kill.py [MOMENTS] [SEED]

A recipe of five stages (a student learns, is made smaller, pruned, clustered, and quantized with a
teacher) is run once to its end. Then, for each moment, it is started in a process of its own,
which `kill -9` ends a random time after a random epoch, and `compresskit apply --resume` is run to
its end. A run that was killed before the first epoch has nothing to go on with: it must say so,
and is begun anew. The table is Markdown, for docs/results.md.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import yaml

from compresskit.checkpoint import saved

ROOT = Path(__file__).parents[2]
RECIPE = {
    "version": 1,
    "name": "kill",
    "model": {"builder": "tests.test_resuming:large"},
    "data": "digits",
    "baseline": {"epochs": 3, "learning_rate": 0.003, "batch_size": 32},
    "defaults": {"learning_rate": 0.001, "batch_size": 32},
    "stages": [
        {"type": "distill", "student": {"builder": "tests.test_resuming:small"}, "epochs": 3},
        {"type": "shrink", "amount": 0.25, "frequency": "20st", "epochs": 3},
        {"type": "prune", "sparsity": {"final": 0.5}, "frequency": "20st", "epochs": 3},
        {"type": "cluster", "clusters": 16, "epochs": 3},
        {"type": "qat", "distill": {"teacher": "previous"}, "epochs": 3},
    ],
    "export": [{"target": "edge-cpu", "precision": "int8"}],
}
EPOCHS = 18


def start(recipe: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "compresskit", "apply", str(recipe), "--out", str(out), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs(out: Path) -> int:
    """How many epochs a run has kept so far."""
    folders = (out / "checkpoints").glob("*-*")
    return sum(max(saved(folder), default=0) for folder in folders)


def kill(process: subprocess.Popen[str], out: Path, epoch: int, delay: float) -> None:
    """Ends a process so many seconds after it has kept an epoch, if it still runs."""
    while epochs(out) < epoch and process.poll() is None:
        time.sleep(0.005)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()


def reached(out: Path) -> str:
    """What a killed run has left: the last epoch that was kept, and how far the end has come."""
    if (out / "report.json").exists():
        return "all files in place"
    if list(out.glob("*.tflite")):
        return "between the files"
    found = sorted((out / "checkpoints").glob("*-*"))
    last = [f"{folder.name[2:]}, epoch {saved(folder)[-1]}" for folder in found if saved(folder)]
    return last[-1] if last else "nothing yet"


def same(one: Path, other: Path) -> bool:
    """Whether weights are equal bit for bit, and files byte for byte."""
    weights = [keras.saving.load_model(each / "model.keras").get_weights() for each in (one, other)]
    files = [(each / "edge-cpu-int8.tflite").read_bytes() for each in (one, other)]
    return all(map(np.array_equal, *weights)) and files[0] == files[1]


def main(moments: int, seed: int) -> None:
    packages = ("compresskit", "tensorflow", "keras", "numpy")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"python {platform.python_version()}, {versions}, seed {seed}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
        began = time.monotonic()
        whole = start(recipe, folder / "whole")
        whole.communicate()
        took = time.monotonic() - began
        print(f"without interruption: {took:.0f} s, exit status {whole.returncode}\n")
        random = np.random.default_rng(seed)
        print("| killed | last that was kept | went on with | status | equal |")
        print("|---|---|---|---|---|")
        for index, epoch in enumerate(np.sort(random.choice(EPOCHS + 1, moments, replace=False))):
            out = folder / str(index)
            process = start(recipe, out)
            delay = random.uniform(0, took / EPOCHS)
            kill(process, out, epoch, delay)
            state = reached(out) if process.returncode else "ended by itself"
            again = start(recipe, out, "--resume")
            _, said = again.communicate()
            how = said.strip().splitlines()[-1].replace(str(out), "") if said.strip() else ""
            if state == "nothing yet":
                assert again.returncode == 2, said
                how = "refused; begun anew"
                again = start(recipe, out)
                again.communicate()
            equal = same(folder / "whole", out)
            row = [
                f"{delay:.2f} s after epoch {epoch}",
                state,
                how,
                str(again.returncode),
                "yes" if equal else "NO",
            ]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [10, 0][len(given) :]))
