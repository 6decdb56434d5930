"""LiteRT with XNNPACK on the CPU of a phone or single-board computer."""

from __future__ import annotations

from compresskit.target import Grid, Precision, Target

TARGET = Target(
    name="edge-cpu",
    summary="LiteRT on phones and single-board computers",
    precisions={
        "float32": Precision(weights="float32", activations="float32", io="float32"),
        "float16": Precision(weights="float16", activations="float32", io="float32"),
        "dynamic": Precision(weights="int8", activations="float32", io="float32"),
        "int8": Precision(weights="int8", activations="int8", io="int8"),
        # 16 bits round next to nothing: there is nothing to learn but the weights.
        "int16x8": Precision(
            weights="int8", activations="int16", io="int16", grid=Grid(activations=False)
        ),
        "int4": Precision(
            weights="int4",
            activations="float32",
            io="float32",
            grid=Grid(bits=4, activations=False),
        ),
    },
    default="int8",
    worth={
        "shrink": "smaller and faster, by as much as is removed",
        "distill": "as much smaller and faster as the student is",
        "prune": "a smaller download; the same file size, memory and speed",
        "prune:n:m": "a smaller download; LiteRT has no kernel for N:M on CPUs",
        "prune:block": "a smaller download; the same file size, memory and speed",
        "cluster": "a smaller download; the same file size, memory and speed",
        "qat": "a quarter of the size; accuracy that post-training rounding would lose",
    },
)
