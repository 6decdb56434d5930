"""TensorFlow Lite Micro: microcontrollers. Files are run by it for real, on this machine."""

from __future__ import annotations

from compresskit.installed import TFLITE_MICRO
from compresskit.target import Grid, Precision, Target

TARGET = Target(
    name="micro",
    summary="TensorFlow Lite Micro on microcontrollers: int8, weights in look-up tables",
    precisions={
        # One scale for a dense kernel: one look-up table, not one for each output.
        "int8": Precision(
            weights="int8", activations="int8", io="int8", grid=Grid(per_channel_dense=False)
        ),
    },
    default="int8",
    claim="runs in TensorFlow Lite Micro (its portable kernels, on this machine)",
    runtime="tflite-micro",
    requires=TFLITE_MICRO,
    worth={
        "shrink": "smaller and faster, by as much as is removed",
        "distill": "as much smaller and faster as the student is",
        "prune": "a smaller download; the same flash, memory and speed",
        "prune:n:m": "a smaller download; TensorFlow Lite Micro has no kernel for N:M",
        "prune:block": "a smaller download; the same flash, memory and speed",
        "cluster": "with `compress: lut` less flash, 4 bits a weight for 16 values; decoded "
        "weights take memory and time",
        "qat": "what lets the model run in integers; accuracy that rounding would lose",
    },
)
