"""A file as C source, to be linked into firmware that runs it with TensorFlow Lite Micro."""

from __future__ import annotations

import re
from pathlib import Path

from compresskit.tflite.audit import Audit

_A_LINE = 12
# Methods of tflite::MicroMutableOpResolver that are not called as their op is; source:
# https://github.com/tensorflow/tflite-micro, micro_mutable_op_resolver.h.
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "TFLM_DECODE": "Decode",
}
_CAPITALS = ("2D", "3D", "LSTM")


def sources(content: bytes, audited: Audit, file: str, arena: int) -> dict[str, str]:
    """C source and header that hold a file, by their names.

    The array is aligned to 16 bytes, as the reader of the format asks. For C++ the header has a
    function that adds the ops of the file, and no others, to a `MicroMutableOpResolver`.

    Args:
        audited: what `audit` found in `content`.
        file: name of the .tflite file; the names of the others, and those in them, come from it.
        arena: bytes of the least tensor arena; see `arena_bytes`.
    """
    stem = Path(file).stem
    name = "g_" + re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_").lower()
    ops = list(dict.fromkeys(op.name for op in audited.ops))
    header = _HEADER.format(
        file=file,
        guard=f"{name.upper()}_MODEL_H_",
        name=name,
        macro=name.upper(),
        size=len(content),
        arena=arena,
        ops=len(ops),
        calls="".join(f"  if (resolver.Add{method(op)}() != 0) return 1;\n" for op in ops),
    )
    rows = [content[start : start + _A_LINE] for start in range(0, len(content), _A_LINE)]
    array = "".join("    " + ", ".join(f"0x{byte:02x}" for byte in row) + ",\n" for row in rows)
    source = _SOURCE.format(
        file=file, header=f"{stem}.h", name=name, size=len(content), array=array
    )
    return {f"{stem}.h": header, f"{stem}.c": source}


def method(op: str) -> str:
    """What follows `Add` in the name of the resolver's method for an op."""
    words = op.split("_")
    return _METHODS.get(op) or "".join(
        word if word in _CAPITALS else word.capitalize() for word in words
    )


_HEADER = """\
/* {file}: made by compresskit. Do not edit. */
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

/* The model, aligned to 16 bytes. */
extern const unsigned char {name}_model[];
extern const unsigned int {name}_model_len; /* {size} bytes of flash */

#ifdef __cplusplus
}}
#endif

/* The least tensor arena in bytes, as measured with 64-bit pointers and portable kernels. The
   kernels of a chip may ask for more. */
#define {macro}_ARENA_SIZE {arena}

/* Number of ops: tflite::MicroMutableOpResolver<{macro}_OPS>. */
#define {macro}_OPS {ops}

#ifdef __cplusplus
/* Adds the ops of the model to a tflite::MicroMutableOpResolver. Returns 0 if all were added. */
template <typename Resolver>
inline int {name}_add_ops(Resolver& resolver) {{
{calls}  return 0;
}}
#endif

#endif /* {guard} */
"""

_SOURCE = """\
/* {file}: made by compresskit. Do not edit. */
#include "{header}"

#if defined(__GNUC__) || defined(__clang__)
#define ALIGNED __attribute__((aligned(16)))
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define ALIGNED _Alignas(16)
#else
#error "Say here how this compiler aligns an array to 16 bytes."
#endif

ALIGNED const unsigned char {name}_model[] = {{
{array}}};
const unsigned int {name}_model_len = {size};
"""
