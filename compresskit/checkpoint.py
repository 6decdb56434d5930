"""What a training needs to go on in another process: a file an epoch, whole or not there at all."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from compresskit.errors import CompressKitError
from compresskit.files import write_file
from compresskit.method import Attached, State
from compresskit.progress import Bars

RECORD = "run.json"
_NAME = "epoch-{}.npz"
_PATTERN = r"epoch-(\d+)\.npz"
# A process may be killed between this file and what belongs to it elsewhere, whichever is first;
# and should the last one be damaged, there is another.
_KEPT = 2
# Each array of an .npz file has a checksum: what was cut off, or overwritten, is not read.
_DAMAGED = (ValueError, EOFError, KeyError, zipfile.BadZipFile)


def save(folder: Path, epoch: int, state: State) -> None:
    """Writes the state after so many epochs; of older ones the last stays."""
    write_arrays(folder / _NAME.format(epoch), state)
    keep(folder, _KEPT)


def load(folder: Path, epoch: int) -> State:
    """The state after so many epochs."""
    return read_arrays(folder / _NAME.format(epoch))


def saved(folder: Path) -> list[int]:
    """After how many epochs states were written, in ascending order."""
    names = [file.name for file in folder.glob(_NAME.format("*"))]
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(_PATTERN, name)))


def keep(folder: Path, number: int) -> None:
    """Takes all states but the last ones away."""
    epochs = saved(folder)
    for epoch in epochs[: max(0, len(epochs) - number)]:
        (folder / _NAME.format(epoch)).unlink(missing_ok=True)


def write_arrays(file: Path, arrays: State) -> None:
    """Writes arrays by name, under a temporary name first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, file)


def read_arrays(file: Path) -> State:
    """What `write_arrays` has written."""
    # NumPy leaves a file open that it cannot read.
    with file.open("rb") as stream, np.load(stream) as arrays:
        return {name: arrays[name] for name in arrays.files}


@final
class Checkpoints:
    """The states of all trainings of a run.

    Args:
        folder: where they are kept; None: nothing is.
        record: what the run is made of, as plain data, for whoever goes on with it.
        resumed: whether what is in the folder belongs to this run.

    Attributes:
        earlier: seconds that earlier processes have spent on what was taken over so far.
    """

    def __init__(
        self,
        folder: Path | None = None,
        record: dict[str, Any] | None = None,
        *,
        bars: Bars | None = None,
        resumed: bool = False,
    ):
        self.earlier = 0.0
        self._folder = folder
        self._record = record
        self._bars = bars or Bars()
        self._mine = resumed

    def training(
        self,
        index: int,
        name: str,
        epochs: int,
        *,
        attached: Sequence[Attached] = (),
        followed: Sequence[keras.callbacks.Callback] = (),
    ) -> Checkpoint | None:
        """That of one training, or None if nothing is kept.

        Args:
            index: 0 is the baseline, then the stages.
            attached: the techniques on the model; the last is the one that is trained.
            followed: callbacks that go by the figures of all epochs.
        """
        if self._folder is None:
            return None
        folder = training_folder(self._folder, index, name)
        return Checkpoint(self, folder, index, epochs, attached, followed)

    def begin(self, index: int) -> bool:
        """A training begins. Returns whether states of it may be there."""
        if self._folder is None or not self._mine:
            return False
        for before in range(index):
            for folder in self._folder.glob(f"{before}-*"):
                keep(folder, 1)
        return True

    def take_over(self, index: int, done: int, epochs: int, seconds: float, name: str) -> None:
        """A training goes on where it was; nothing that came later counts if it was not done."""
        assert self._folder is not None
        self.earlier += seconds
        if done >= epochs:
            self.say(f"{name}: is trained")
        elif done:
            self.say(f"{name}: goes on after epoch {done} of {epochs}")
        if done < epochs:
            drop(self._folder, index + 1)

    def claim(self) -> None:
        """Before the first state is written: an older run's are thrown away."""
        assert self._folder is not None
        if not self._mine:
            self.clear()
            self.write_record()
            self._mine = True

    def write_record(self) -> None:
        """Writes what the run is made of, in place of what it was made of before."""
        assert self._folder is not None
        write_file(self._folder / RECORD, json.dumps(self._record, indent=2).encode())

    def clear(self) -> None:
        """Takes all away. The record first: what has none is nothing to go on with."""
        if self._folder is not None:
            (self._folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def say(self, text: str) -> None:
        self._bars.say(text)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, an error also says how to go on, if anything is kept."""
        try:
            yield
        except CompressKitError as error:
            if self._folder is None or not self._mine:
                raise
            kept = "what was trained before is kept: `--resume`, or resume=True, goes on with it"
            raise type(error)(
                [replace(each, fix=f"{each.fix}; {kept}") for each in error.problems]
            ) from error


@final
class Checkpoint(keras.callbacks.Callback):
    """The states of one training; as a callback it writes one after each epoch.

    Attributes:
        done: how many epochs earlier processes have trained.
        history: training metrics by name, a value an epoch, theirs included.
    """

    def __init__(
        self,
        run: Checkpoints,
        folder: Path,
        index: int,
        epochs: int,
        attached: Sequence[Attached],
        followed: Sequence[keras.callbacks.Callback],
    ):
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.done = 0
        self._run = run
        self._folder = folder
        self._epochs = epochs
        self._attached = attached
        self._followed = followed
        self._started = time.perf_counter()
        self._earlier = 0.0
        self._state: State = {}
        if run.begin(index):
            self._find()
            run.take_over(index, self.done, epochs, self._earlier, folder.name.partition("-")[2])

    def _find(self) -> None:
        """The last state that can be read."""
        for epoch in reversed(saved(self._folder)):
            try:
                self._state = load(self._folder, epoch)
                self._earlier = float(self._state.pop("seconds"))
            except _DAMAGED as cause:
                self._run.say(f"{self._folder / _NAME.format(epoch)} is damaged: {cause}")
                (self._folder / _NAME.format(epoch)).unlink()
                continue
            # A training that has learned enough ends before its epochs.
            self.done = self._epochs if self._state.pop("stopped") else epoch
            self.history = {
                name: values.tolist() for name, values in _under("history/", self._state).items()
            }
            return

    def restore(self, model: keras.Model) -> int:
        """Puts the state on a model that is about to train, and whose optimizer is built.

        Returns:
            how many epochs are done.
        """
        if self.done:
            for index, attached in enumerate(self._attached):
                attached.restore(_under(f"attached/{index}/", self._state))
            # After that: to attach is to hold at once, by what was not restored yet.
            _assign(_own(model), _under("model/", self._state))
            _assign(model.optimizer.variables, _under("optimizer/", self._state))
            self._state = {}
        return self.done

    def on_train_begin(self, logs: Any = None) -> None:
        for epoch in range(min(self.done, len(next(iter(self.history.values()), ())))):
            figures = {name: values[epoch] for name, values in self.history.items()}
            for callback in self._followed:
                callback.on_epoch_end(epoch, figures)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        good = all(math.isfinite(value) for value in (logs or {}).values()) and all(
            np.isfinite(variable.numpy()).all() for variable in self.model.trainable_variables
        )
        if not good:
            return  # the last good state stays
        self._run.claim()
        attached = {
            f"attached/{index}/{name}": values
            for index, each in enumerate(self._attached)
            for name, values in each.state().items()
        }
        save(
            self._folder,
            epoch + 1,
            {
                "seconds": np.array(self._earlier + time.perf_counter() - self._started),
                **{f"history/{name}": np.array(values) for name, values in self.history.items()},
                "stopped": np.array(bool(self.model.stop_training)),
                **attached,
                **_values("model/", _own(self.model)),
                **_values("optimizer/", self.model.optimizer.variables),
            },
        )


def training_folder(folder: Path, index: int, name: str) -> Path:
    """Where the states of a training are."""
    return folder / f"{index}-{name}"


def drop(folder: Path, index: int) -> None:
    """Takes the states of a training and of all later ones away."""
    for each in folder.glob("*-*"):
        number = each.name.partition("-")[0]
        if number.isdecimal() and int(number) >= index:
            shutil.rmtree(each)


def _own(model: keras.Model) -> list[Any]:
    """The variables that training may change: weights, averages, seeds of dropout; no teacher's."""
    if not isinstance(model, keras.distillation.Distiller):
        return model.variables
    frozen = {id(variable) for variable in model.teacher.variables}
    return [variable for variable in model.variables if id(variable) not in frozen]


def _values(prefix: str, variables: list[Any]) -> State:
    return {f"{prefix}{index}": variable.numpy() for index, variable in enumerate(variables)}


def _under(prefix: str, state: State) -> State:
    return {
        name.removeprefix(prefix): values
        for name, values in state.items()
        if name.startswith(prefix)
    }


def _assign(variables: list[Any], state: State) -> None:
    assert len(variables) == len(state)
    for index, variable in enumerate(variables):
        values = state[str(index)]
        # NumPy has no name for bfloat16, and reads two bytes of anything.
        variable.assign(values.view(variable.numpy().dtype) if values.dtype.kind == "V" else values)
