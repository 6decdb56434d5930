"""The engine `tfmot`: trains a stage in the child, on the weights of the Keras 3 counterpart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import keras
import numpy as np

from compresskit import catalog
from compresskit.errors import Problem, TrainingError
from compresskit.granularity import NM, Block
from compresskit.labels import are_classes
from compresskit.method import Attached
from compresskit.methods.masks import kept, unstructured
from compresskit.methods.prune import Pruning
from compresskit.native import length_of, settings_of
from compresskit.recipe_export import Export
from compresskit.run import Run
from compresskit.samples import Samples, count
from compresskit.selection import Selection
from compresskit.stages import Cluster, Prune
from compresskit.target import Precision
from compresskit.tfmot.loading import owners, owners_of
from compresskit.tfmot.session import Session
from compresskit.trained import Source, Trained
from compresskit.weights import weights_of


@final
@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """The tf_keras model as what files are made of (`trained.Source`)."""

    session: Session
    model: keras.Model

    def calibrated(self, precision: Precision, export: Export, samples: Samples) -> Source:
        """See `Source`. The converter measures what training did not learn."""
        return self

    def convert(
        self, precision: Precision, export: Export, *, sample: Any, calibration: Any
    ) -> bytes:
        """See `Source`."""
        return self.session.convert(self.model, precision, sample=sample, calibration=calibration)

    def answers(self, x: Any, precision: Precision, *, output: int) -> np.ndarray:
        """See `Source`. An integer file is compared with the quantized model, if there is one."""
        quantized = self.session.quantized and precision.integer
        return self.session.answers(self.model, [x], quantized=quantized)[output]


def train(run: Run, index: int) -> Trained:
    """Trains a stage in the child, and takes the weights over.

    Raises:
        TrainingError: TFMOT refused, its process died, or what it trained is no number.
    """
    assert run.session is not None
    stage = run.recipe.stages[index]
    selection = catalog.methods.get(stage.type)(stage).select(run.model, stage.name)
    earlier = run.recipe.stages[:index]
    request: dict[str, Any] = {
        "type": stage.type,
        "sparse": any(isinstance(each, Prune) for each in earlier),
        "clustered": any(isinstance(each, Cluster) for each in earlier),
        "pruned": _pruned(run, index),
    }
    taken = owners_of(run.model, selection.taken)
    if isinstance(stage, Prune):
        request.update(_pruning(run, stage, selection))
    elif isinstance(stage, Cluster):
        request.update(layers=list(taken), clusters=stage.clusters, init=stage.init)
    else:
        weighty = owners_of(run.model, weights_of(run.model))
        request["ignored"] = [name for name in weighty if name not in taken]
    loss = run.loss
    if isinstance(loss, keras.losses.Loss):
        config = {
            key: value
            for key, value in loss.get_config().items()
            if key in ("from_logits", "label_smoothing")
        }
        loss = {"class_name": type(loss).__name__, "config": config}
    training = {
        **settings_of(run, index),
        "loss": loss,
        "classes": are_classes(run.dataset.y_train),
    }
    with run.bars.task(f"{stage.name} (TFMOT)", None):
        history = run.session.train(run.model, run.dataset, request, training, where=stage.name)
        answers = run.session.answers(
            run.model, [run.dataset.x_test], quantized=run.session.quantized
        )[0]
    if not all(np.isfinite(array).all() for array in run.model.get_weights()):
        raise TrainingError(
            Problem(
                where=stage.name,
                found="weights that are infinite or not a number",
                expected="a finite loss, and finite weights",
                fix=f"try a learning_rate below {training['learning_rate']:g}",
            )
        )
    attached = Attached(
        touched=tuple(weight.path for weight in selection.taken),
        skipped=selection.skipped,
        callbacks=(),
        detach=dict,
    )
    run.attached.append((stage, attached))
    return Trained(attached=attached, history=history, answers=answers)


def _pruned(run: Run, index: int) -> list[str]:
    """Names of the layers that earlier stages have pruned."""
    names: dict[str, Any] = {}
    for stage in run.recipe.stages[:index]:
        if isinstance(stage, Prune):
            selection = Pruning(stage).select(run.model, stage.name)
            names.update(owners_of(run.model, selection.taken))
    return list(names)


def _pruning(run: Run, stage: Prune, selection: Selection) -> dict[str, Any]:
    """What `techniques._prune` takes.

    TFMOT counts steps from 1, and makes no last masks at the end: its end is the last step at
    which an update falls due.
    """
    length = length_of(run, stage, count(run.dataset.x_train))
    schedule = Pruning(stage).schedule(length)
    last = min(schedule.end, length.epochs * length.steps_per_epoch - 1)
    frequency = min(schedule.frequency, max(1, last - schedule.begin))
    updates = (last - schedule.begin) // frequency
    pattern = stage.mask_shape
    return {
        "layers": _shares(run, stage, selection),
        "constant": schedule.constant or updates == 0,
        "power": schedule.power,
        "begin": schedule.begin + 1,
        "end": schedule.begin + updates * frequency + 1,
        "frequency": frequency,
        "zeros_of": [pattern.m - pattern.n, pattern.m] if isinstance(pattern, NM) else None,
        # Its matrices are inputs by outputs, ours are those of the kernel.
        "block": [pattern.columns, pattern.rows] if isinstance(pattern, Block) else [1, 1],
    }


def _shares(run: Run, stage: Prune, selection: Selection) -> dict[str, dict[str, float]]:
    """For each layer its first and last share of zeros.

    TFMOT ranks within a layer. With `scope: global` each layer gets the share that a ranking
    over all of them gives it as the stage begins.
    """
    first = stage.sparsity.initial if stage.sparsity else 0.0
    final = stage.sparsity.final if stage.sparsity else 0.0
    names = owners_of(run.model, selection.taken)
    if stage.scope == "layer":
        return {name: {"initial": first, "final": final} for name in names}
    by_part = owners(run.model)
    of = [by_part[id(weight.layer)].name for weight in selection.taken]
    scores = [np.abs(weight.variable.numpy()) for weight in selection.taken]
    shares: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, share in (("initial", first), ("final", final)):
        for name in names:
            masks = unstructured(scores, share)
            chosen = [mask for mask, owner in zip(masks, of, strict=True) if owner == name]
            size = sum(mask.size for mask in chosen)
            left = max(sum(int(mask.sum()) for mask in chosen), kept(size, 1.0))
            shares[name][key] = 1.0 - left / size
    return shares
