"""The change from a trained model to one with fewer units."""

from __future__ import annotations

from compresskit import artifacts
from compresskit.method import Examples, Smaller
from compresskit.report.records import Promise
from compresskit.run import Run, against
from compresskit.stages import Shrink, Stage

# Largest mean difference of outputs that removing units at zero may make.
_TOLERANCE = 1e-5


def examples(run: Run) -> Examples:
    """What a criterion may look at."""
    return Examples(
        x=run.dataset.x_train,
        y=run.dataset.y_train,
        loss=run.loss,
        representative=run.dataset.representative,
        latency=lambda model: against(model, run.dataset.x_test),
    )


def enter(run: Run, stage: Stage, smaller: Smaller) -> list[Promise]:
    """Goes on with the smaller model, and checks it against what was trained and asked for."""
    assert isinstance(stage, Shrink)
    promises = []
    size = run.model.count_params()
    trained = run.answers() if smaller.exact else None
    run.model = smaller.model
    if trained is not None:
        difference = artifacts.compare(run.answers(), trained, run.labels).mean_abs_error
        promises.append(
            Promise(
                what="mean difference of the outputs of the smaller model from the trained one",
                stage=stage.name,
                expected=_TOLERANCE,
                measured=difference,
                kept=difference <= _TOLERANCE,
            )
        )
    removed_units = sum(had - has for had, has in smaller.units.values())
    promises.append(
        Promise(
            what="units that are removed, at least",
            stage=stage.name,
            expected=1,
            measured=removed_units,
            kept=removed_units >= 1,
        )
    )
    before, after = smaller.multiply_adds
    gone = {"flops": 1 - after / before, "parameters": 1 - run.model.count_params() / size}
    if stage.amount.of in gone:
        removed = gone[stage.amount.of]
        promises.append(
            Promise(
                what=f"share of the {stage.amount.of} that is removed",
                stage=stage.name,
                expected=stage.amount.share,
                measured=removed,
                kept=removed >= stage.amount.share,
            )
        )
    return promises
