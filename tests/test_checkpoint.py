"""compresskit.checkpoint: a training goes on in another process as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from compresskit import catalog, checkpoint
from compresskit.checkpoint import Checkpoints
from compresskit.errors import ConversionError, Problem
from compresskit.method import Examples, Length
from compresskit.progress import Bars
from compresskit.stages import QAT, Cluster, Prune, Shrink
from compresskit.target import Grid
from compresskit.training import fit
from tests.models import MODELS, SEQUENCE_MODELS
from tests.runs import digits, names_in

# What is learned beside the variables is another thing for each of them.
STAGES = {
    "cnn": Shrink(amount=0.3, frequency="3st"),
    "nested": QAT(),
    "subclassed": QAT(activation_bits=6),
    "lstm": Cluster(clusters=4),
    "tiny_bert": Prune(sparsity={"final": 0.6}, frequency="3st", end="100%"),
}


def train(name, folder, *, resumed=False):
    """The weights, figures and ranges after two epochs."""
    keras.utils.set_random_seed(0)
    model = {**MODELS, **SEQUENCE_MODELS}[name]()
    data = digits(name)
    attached = catalog.methods.get(STAGES[name].type)(STAGES[name]).attach(
        model, data.x_train[:2], Grid(), Length(epochs=2, steps_per_epoch=4), Examples()
    )
    run = Checkpoints(folder, {}, resumed=resumed)
    state = run.training(1, "stage", 2, attached=[attached])

    history = fit(
        model,
        data,
        optimizer="adam",
        learning_rate=0.01,
        learning_rate_schedule="cosine",
        batch_size=64,
        epochs=2,
        loss="sparse_categorical_crossentropy",
        seed=1,
        bars=Bars(),
        where="stage",
        callbacks=attached.callbacks,
        checkpoint=state,
    )
    smaller = attached.smaller().model.get_weights() if attached.smaller else []
    # Keras numbers the names of layers that have none.
    ranges = [replace(each, name="") for each in attached.detach().get("ranges", ())]
    return [*model.get_weights(), *smaller], history, ranges


@pytest.mark.parametrize("name", STAGES)
def test_every_kind_of_model(name, tmp_path):
    weights, history, ranges = train(name, tmp_path)
    # As if the process had ended within the second epoch.
    (tmp_path / "1-stage" / "epoch-2.npz").unlink()
    again = train(name, tmp_path, resumed=True)
    for mine, theirs in zip(again[0], weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again[1] == history
    assert again[2] == ranges


class TestFiles:
    def test_the_last_two_stay(self, tmp_path):
        for epoch in (1, 2, 10):
            checkpoint.save(tmp_path, epoch, {"mask": np.full(3, epoch)})
        assert checkpoint.saved(tmp_path) == [2, 10]
        assert checkpoint.load(tmp_path, 10)["mask"].tolist() == [10, 10, 10]

    def test_killed_while_it_is_written(self, tmp_path, monkeypatch):
        checkpoint.save(tmp_path, 1, {"mask": np.ones(3)})

        def stops(stream, **arrays):
            stream.write(b"PK\x03\x04")
            raise KeyboardInterrupt

        monkeypatch.setattr("compresskit.checkpoint.np.savez", stops)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 2, {"mask": np.zeros(3)})
        assert checkpoint.saved(tmp_path) == [1]
        assert checkpoint.load(tmp_path, 1)["mask"].tolist() == [1, 1, 1]


def plain(folder, *, epochs, resumed=False, last=False):
    """The weights of a dense layer after so many of three epochs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.add(keras.layers.Dropout(0.1))  # its seed is a variable
    run = Checkpoints(folder, {}, resumed=resumed)
    settings = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 64, "seed": 1}
    settings |= {
        "loss": "sparse_categorical_crossentropy",
        "bars": Bars(),
        "where": "baseline",
        "epochs": epochs,
    }
    fit(model, digits(), checkpoint=run.training(0, "baseline", 3), **settings)
    return model.get_weights()


class TestDamage:
    """Files that were cut off, or overwritten, are found out by their checksums."""

    @pytest.mark.parametrize("damaged", [(3,), (2, 3)])
    def test_what_is_before_is_taken(self, tmp_path, damaged):
        whole = plain(tmp_path, epochs=3)
        folder = tmp_path / "0-baseline"
        assert checkpoint.saved(folder) == [2, 3]
        for epoch in damaged:
            file = folder / f"epoch-{epoch}.npz"
            content = bytearray(file.read_bytes())
            if epoch == 2:
                content[len(content) // 2] ^= 1
            file.write_bytes(content if epoch == 2 else content[:-40])
        (tmp_path / "1-later").mkdir()
        (tmp_path / "1-later" / "epoch-1.npz").write_bytes(b"of something else")
        again = plain(tmp_path, epochs=3, resumed=True)
        for mine, theirs in zip(again, whole, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        # Nothing counts that came after what is trained again.
        assert names_in(tmp_path) == ["0-baseline", "run.json"]


class TestErrors:
    def fail(self, run):
        with run.told():
            raise ConversionError(Problem(where="a", found="b", expected="c", fix="do this"))

    def test_how_to_go_on(self, tmp_path):
        plain(tmp_path, epochs=1)
        with pytest.raises(ConversionError) as caught:
            self.fail(Checkpoints(tmp_path, {}, resumed=True))
        assert caught.value.problems[0].fix == (
            "do this; what was trained before is kept: `--resume`, or resume=True, goes on with it"
        )

    @pytest.mark.parametrize("folder", [None, "here"])
    def test_nothing_is_kept(self, tmp_path, folder):
        with pytest.raises(ConversionError) as caught:
            self.fail(Checkpoints(folder and tmp_path / folder, {}))
        assert caught.value.problems[0].fix == "do this"


def test_what_is_no_number_is_not_kept(tmp_path):
    plain(tmp_path, epochs=1)
    run = Checkpoints(tmp_path, {}, resumed=True)
    state = run.training(0, "baseline", 3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    state.set_model(model)
    state.on_epoch_end(1, {"loss": float("nan")})
    model.trainable_variables[0].assign([[np.inf], [0.0]])
    state.on_epoch_end(1, {"loss": 1.0})
    assert checkpoint.saved(tmp_path / "0-baseline") == [1]
