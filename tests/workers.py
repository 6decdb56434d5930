"""One of two workers that train together; each in a process of its own.

    python -m tests.workers INDEX PORT PORT FOLDER

writes the worker's weights, and what else came out, to a folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main():
    index, ports, folder = int(sys.argv[1]), sys.argv[2:4], Path(sys.argv[4])
    addresses = [f"127.0.0.1:{port}" for port in ports]
    place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(place)

    import keras
    import numpy as np

    import compresskit as ck
    from tests.models import mlp
    from tests.replicas import COURSE, STAGES, recipe
    from tests.training import compiled, inputs_of, labels

    result = ck.compress(None, recipe("multi-worker", STAGES[1:]), out=folder / f"run-{index}")
    np.savez(folder / f"recipe-{index}.npz", *result.model.get_weights())

    keras.utils.set_random_seed(1)
    with result.model.distribute_strategy.scope():
        model = compiled(mlp(), keras.optimizers.SGD(0.05))
    x, y = inputs_of("mlp"), labels()
    callback = ck.CompressionCallback(COURSE, target="edge-cpu", precision="int8", sample=x)
    history = model.fit(
        x, y, epochs=2, batch_size=16, shuffle=False, verbose=0, callbacks=[callback],
        validation_data=(x, y), validation_batch_size=16,
    ).history  # fmt: skip
    np.savez(folder / f"course-{index}.npz", *model.get_weights())
    found = {
        "artifacts": len(result.artifacts),
        "metrics": [each.metrics for each in result.report.stages],
        "history": history,
        "broken": [each.what for each in (*result.report.broken, *callback.result().broken)],
    }
    (folder / f"worker-{index}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
