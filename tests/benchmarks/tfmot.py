"""The native engine and TFMOT side by side.

    .venv/bin/python tests/benchmarks/tfmot.py [accuracy | capabilities]

`accuracy`: lenet300 on 10,000 pictures of Fashion-MNIST, three seeds; both engines start from the
same trained weights and follow the same recipe, on the same batches: the pictures are shuffled
once, and no `fit` shuffles again. Each run is a process of its own; the peak of memory is that of
the process that trains. `capabilities`: tiny models of 13 kinds through six techniques, each
trained for two steps; what is in a cell has been run. TFMOT runs in a process of its own.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

TECHNIQUES = ("prune", "cluster", "qat", "pqat", "cqat", "pcqat")
STEPS = {
    "prune": ("prune",),
    "cluster": ("cluster",),
    "qat": ("qat",),
    "pqat": ("prune", "qat"),
    "cqat": ("cluster", "qat"),
    "pcqat": ("prune", "cluster", "qat"),
}
CLUSTERS = 8
PICTURE, SEQUENCE, TOKENS = (8, 8, 3), (6, 4), (6,)


def _functional(keras, shape, build, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    x = build(keras.layers, inputs)
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="out")(x))


def cnn(k):
    return _functional(k, PICTURE, lambda L, x: L.Flatten()(L.Conv2D(8, 3, activation="relu")(x)))


def resnet(k):
    def build(L, x):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x)))
        y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x))
        return L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([x, y])))

    return _functional(k, PICTURE, build)


def depthwise(k):
    def build(L, x):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
        return L.GlobalAveragePooling2D()(L.Conv2D(8, 3, activation="relu")(x))

    return _functional(k, PICTURE, build)


def conv_1x1(k):
    return _functional(
        k, PICTURE, lambda L, x: L.GlobalAveragePooling2D()(L.Conv2D(16, 1, activation="relu")(x))
    )


def conv1d(k):
    return _functional(
        k, SEQUENCE, lambda L, x: L.GlobalAveragePooling1D()(L.Conv1D(8, 3, activation="relu")(x))
    )


def lstm(k):
    return _functional(k, SEQUENCE, lambda L, x: L.LSTM(8)(x))


def gru(k):
    return _functional(k, SEQUENCE, lambda L, x: L.GRU(8)(x))


def bidirectional(k):
    return _functional(k, SEQUENCE, lambda L, x: L.Bidirectional(L.LSTM(8))(x))


def attention(k):
    return _functional(
        k, SEQUENCE, lambda L, x: L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(x, x))
    )


def layernorm(k):
    def build(L, x):
        return L.GlobalAveragePooling1D()(L.LayerNormalization()(L.Dense(8)(x)))

    return _functional(k, SEQUENCE, build)


def embedding(k):
    return _functional(
        k, TOKENS, lambda L, x: L.GlobalAveragePooling1D()(L.Embedding(20, 8)(x)), "int32"
    )


def nested(k):
    inner = k.Sequential([k.Input((4,)), k.layers.Dense(12, activation="relu")], name="inner")
    return _functional(k, (4,), lambda L, x: inner(x))


def subclassed(k):
    class Own(k.Model):
        def __init__(self):
            super().__init__()
            self.first = k.layers.Dense(12, activation="relu")
            self.last = k.layers.Dense(4, activation="softmax")

        def call(self, inputs):
            return self.last(self.first(inputs))

    model = Own()
    import numpy as np

    model(np.zeros((1, 4), np.float32))
    return model


NETWORKS = {
    "CNN": cnn,
    "ResNet": resnet,
    "depthwise": depthwise,
    "1x1 conv": conv_1x1,
    "Conv1D": conv1d,
    "LSTM": lstm,
    "GRU": gru,
    "Bidirectional": bidirectional,
    "attention": attention,
    "LayerNorm": layernorm,
    "embedding": embedding,
    "nested": nested,
    "subclassed": subclassed,
}


def samples(name):
    import numpy as np

    random = np.random.default_rng(0)
    shape = {"embedding": TOKENS, "nested": (4,), "subclassed": (4,)}.get(
        name, PICTURE if name in ("CNN", "ResNet", "depthwise", "1x1 conv") else SEQUENCE
    )
    if name == "embedding":
        x = random.integers(0, 20, (64, *shape), dtype="int32")
    else:
        x = random.random((64, *shape), dtype="float32")
    return x, random.integers(0, 4, 64)


def native(name, technique):
    """Runs a technique; what is wrong with what came out, or nothing."""
    import keras
    import numpy as np

    from compresskit.engine import compress
    from compresskit.recipe import Recipe

    x, y = samples(name)
    stages = {
        "prune": {"type": "prune", "sparsity": 0.5, "frequency": "1st"},
        "cluster": {"type": "cluster", "clusters": CLUSTERS},
        "qat": {"type": "qat"},
    }
    files = [{"target": "edge-cpu", "precision": "int8" if "qat" in technique else "float32",
              "parity": {"min_agreement": 0.0}}]  # fmt: skip
    keras.utils.set_random_seed(0)
    recipe = Recipe.from_dict(
        {
            "version": 1,
            "name": "c",
            "model": "lenet300",
            "data": "digits",
            "defaults": {"batch_size": 32},
            "stages": [stages[each] for each in STEPS[technique]],
            "export": files,
        }
    )
    model = NETWORKS[name](keras)
    result = compress(model, recipe, data=((x, y), (x[:8], y[:8])))
    assert np.isfinite(np.concatenate([w.ravel() for w in result.model.get_weights()])).all()
    return "; ".join(promise.what for promise in result.report.broken)


def tfmot(name, technique):
    """The same by TFMOT, on the whole model, as its guides do it."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_model_optimization as mot
    import tf_keras as keras
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    x, y = samples(name)
    keras.utils.set_random_seed(0)
    model = NETWORKS[name](keras)
    wrong = []
    done = STEPS[technique]
    kinds = {"prune": lambda w: np.mean(w == 0), "cluster": lambda w: len(np.unique(w))}

    def kernels(model):
        # Depthwise kernels are left alone by both engines.
        return [
            np.asarray(variable)
            for variable in model.weights
            if len(variable.shape) > 1 and "depthwise" not in variable.name
        ]

    def fit(model, callbacks=()):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=32, verbose=0, callbacks=list(callbacks))

    for step in done:
        if step == "prune":
            schedule = mot.sparsity.keras.ConstantSparsity(0.5, 1, frequency=1)
            wrapped = mot.sparsity.keras.prune_low_magnitude(model, schedule)
            fit(wrapped, [mot.sparsity.keras.UpdatePruningStep()])
            model = mot.sparsity.keras.strip_pruning(wrapped)
        elif step == "cluster":
            init = mot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
            wrapped = cluster.cluster_weights(
                model, CLUSTERS, init, preserve_sparsity="prune" in done
            )
            fit(wrapped)
            model = mot.clustering.keras.strip_clustering(wrapped)
        else:
            keep = mot.experimental.combine
            if "cluster" in done:
                scheme = keep.Default8BitClusterPreserveQuantizeScheme("prune" in done)
            elif "prune" in done:
                scheme = keep.Default8BitPrunePreserveQuantizeScheme()
            else:
                scheme = None
            annotated = mot.quantization.keras.quantize_annotate_model(model)
            apply = mot.quantization.keras.quantize_apply
            wrapped = apply(annotated, scheme) if scheme else apply(annotated)
            fit(wrapped)
            converter = tf.lite.TFLiteConverter.from_keras_model(wrapped)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            from compresskit.tflite.audit import audit

            # A depthwise kernel has one row for all its channels.
            weights = audit(converter.convert()).weights
            stored = [
                tensor.constant
                for tensor in weights
                if not (len(tensor.shape) == 4 and tensor.shape[0] == 1)
            ]
            if "prune" in done and any(kinds["prune"](w) < 0.45 for w in stored):
                wrong.append("zeros lost in the file")
            if "cluster" in done and any(kinds["cluster"](w) > CLUSTERS for w in stored):
                wrong.append(f"more than {CLUSTERS} integers in the file")
            return "; ".join(wrong)
        if "prune" in done and any(kinds["prune"](w) < 0.45 for w in kernels(model)):
            wrong.append(f"zeros not in every kernel after {step}")
        if step == "cluster" and any(kinds["cluster"](w) > CLUSTERS for w in kernels(model)):
            wrong.append("not every kernel has clusters")
    return "; ".join(dict.fromkeys(wrong))


def run_capabilities(engine):
    found = {}
    for name in NETWORKS:
        for technique in TECHNIQUES:
            try:
                found[f"{name}|{technique}"] = globals()[engine](name, technique) or "yes"
            except Exception as error:  # noqa: BLE001 - the refusal is the result
                words = " ".join(f"{type(error).__name__}: {error}".split())
                # Without what differs from run to run, so that equal reasons are one.
                words = re.sub(r"_\d+\b", "", words.split(" in user code:")[0])
                found[f"{name}|{technique}"] = f"refused: {words[:160]}"
            print(engine, name, technique, found[f"{name}|{technique}"][:90], file=sys.stderr)
    print(json.dumps(found))


def capabilities():
    results = {}
    for engine in ("native", "tfmot"):
        environment = dict(os.environ)
        if engine == "tfmot":
            environment["TF_USE_LEGACY_KERAS"] = "1"
        done = subprocess.run(
            [sys.executable, __file__, "--run", engine],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env=environment,
        )
        results[engine] = json.loads(done.stdout.splitlines()[-1])
    notes = []

    def cell(key):
        words = []
        for engine in ("native", "tfmot"):
            said = results[engine][key]
            if said == "yes":
                words.append("yes")
                continue
            text = f"{engine}: {said}"
            if text not in notes:
                notes.append(text)
            kind = "no" if said.startswith("refused") else "in part"
            words.append(f"{kind} ({notes.index(text) + 1})")
        return " / ".join(words)

    print(f"| native / TFMOT | {' | '.join(TECHNIQUES)} |")
    print("|---" * (len(TECHNIQUES) + 1) + "|")
    for name in NETWORKS:
        cells = [cell(f"{name}|{technique}") for technique in TECHNIQUES]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for index, note in enumerate(notes):
        print(f"{index + 1}. {note}")


def fashion(seed=0):
    """A recipe's builder: 10,000 and 5,000 pictures."""
    import dataclasses

    import numpy as np

    from compresskit.data import load

    dataset = load("fashion-mnist").limit(10_000, 5_000)
    order = np.random.default_rng(seed).permutation(len(dataset.x_train))
    return dataclasses.replace(
        dataset, x_train=dataset.x_train[order], y_train=dataset.y_train[order]
    )


def in_order(keras):
    """From now on `fit` takes the samples as they come."""
    keras.Model.fit = functools.partialmethod(keras.Model.fit, shuffle=False)


def peak_mb(process):
    """The most memory that a process has had."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def one_run(engine, seed, folder):
    """Runs the recipe; what came out goes to files in the folder."""
    import keras
    import numpy as np

    from compresskit.child import Child
    from compresskit.engine import compress
    from compresskit.recipe import Recipe
    from compresskit.tfmot import session

    in_order(keras)
    ordered = {**session._child.environment, "SIDE_BY_SIDE": "child"}
    session._child = Child("tests.benchmarks.tfmot", "TFMOT's process", ordered)
    recipe = Recipe.from_dict(
        {
            "version": 1,
            "name": "side-by-side",
            "engine": engine,
            "model": "lenet300",
            "data": {"builder": "tests.benchmarks.tfmot:fashion", "args": {"seed": int(seed)}},
            "baseline": {"epochs": 5},
            "defaults": {
                "learning_rate": 5.0e-4,
                "learning_rate_schedule": "cosine",
                "batch_size": 128,
            },
            "stages": [
                {"type": "prune", "sparsity": {"initial": 0.5, "final": 0.9},
                 "frequency": "20st", "epochs": 4},
                {"type": "cluster", "clusters": 16, "init": "kmeans++", "epochs": 2},
                {"type": "qat", "learning_rate": 1.0e-4, "epochs": 2},
            ],
            "export": [{"target": "edge-tpu", "metadata": False}],
        }
    )  # fmt: skip
    result = compress(None, recipe, seed=int(seed))
    trainer = os.getpid() if engine == "native" else session._child._process.pid
    kernels = [each for each in result.model.get_weights() if each.ndim > 1]
    np.savez(Path(folder, f"{engine}-{seed}.npz"), *[each == 0 for each in kernels])
    made = {**json.loads(result.report.to_json()), "peak_mb": peak_mb(trainer)}
    Path(folder, f"{engine}-{seed}.json").write_text(json.dumps(made))


def accuracy():
    import numpy as np

    columns = ("engine", "seed", "baseline", "prune", "cluster", "QAT", "int8 file", "zeros",
               "distinct", "agreement", "bytes", "gzip", "packed", "peak MB")  # fmt: skip
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    lost, common = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(3):
            zeros = {}
            for engine in ("native", "tfmot"):
                command = [sys.executable, "-m", "tests.benchmarks.tfmot"]
                subprocess.run([*command, "--one", engine, str(seed), folder], check=True)
                report = json.loads(Path(folder, f"{engine}-{seed}.json").read_text())
                with np.load(Path(folder, f"{engine}-{seed}.npz")) as arrays:
                    zeros[engine] = np.concatenate([arrays[key].ravel() for key in arrays.files])
                (file,) = report["artifacts"]
                before, after = (each["metrics"]["accuracy"] for each in (report["baseline"], file))
                lost.setdefault(engine, []).append(before - after)
                stages = " | ".join(
                    f"{each['metrics']['accuracy']:.2%}" for each in report["stages"]
                )
                print(
                    f"| {engine} | {seed} | {before:.2%} | {stages} | {after:.2%} | "
                    f"{file['sparsity']:.1%} | "
                    f"{max(tensor['distinct'] for tensor in file['tensors'])} | "
                    f"{file['parity']['agreement']:.2%} | {file['bytes']:,} | "
                    f"{file['gzip_bytes']:,} | {file['packed_bytes']:,} | "
                    f"{report['peak_mb']:.0f} |",
                    flush=True,
                )
            both = np.sum(zeros["native"] & zeros["tfmot"])
            common.append(both / np.sum(zeros["native"] | zeros["tfmot"]))
    for engine, each in lost.items():
        print(f"\n{engine}: mean loss {statistics.mean(each):.2%}")
    print(f"\nzeros in both, of zeros in either: {statistics.mean(common):.1%}")


def main():
    if os.environ.get("SIDE_BY_SIDE") == "child":
        import tf_keras

        from compresskit.child import serve
        from compresskit.tfmot import child

        in_order(tf_keras)
        serve(child.handle)
        return
    if sys.argv[1:2] == ["--run"]:
        run_capabilities(sys.argv[2])
        return
    if sys.argv[1:2] == ["--one"]:
        one_run(*sys.argv[2:])
        return
    packages = ("tensorflow", "keras", "tf_keras", "tensorflow-model-optimization")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}\n")
    for part in sys.argv[1:] or ("accuracy", "capabilities"):
        {"accuracy": accuracy, "capabilities": capabilities}[part]()
        print()


if __name__ == "__main__":
    main()
