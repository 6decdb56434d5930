"""Arm Ethos-U: neural processing units beside a Cortex-M or Cortex-A, compiled for by Vela.

They fetch weights compressed, by a code in which zeros and few distinct values are short.
"""

from __future__ import annotations

from compresskit.installed import VELA
from compresskit.target import Precision, Target
from compresskit.targets.vela import SUFFIX, compile_file

_MEMORY_MODES = (
    *("Shared_Sram", "Sram_Only", "Dedicated_Sram"),
    *("Dedicated_Sram_256KB", "Dedicated_Sram_384KB", "Dedicated_Sram_512KB"),
)
_PRECISIONS = {"int8": Precision(weights="int8", activations="int8", io="int8")}


def _worth(zeros: str, half: str, shared: str) -> dict[str, str]:
    """What each kind of stage brought; figures of tests/benchmarks/vela.py, in docs/results.md."""
    return {
        "shrink": "smaller and faster, by as much as is removed",
        "distill": "as much smaller and faster as the student is",
        "prune": f"weights are stored and fetched encoded: {zeros}",
        "prune:n:m": f"weights are stored and fetched encoded: {half}",
        "prune:block": f"weights are stored and fetched encoded: {zeros}",
        "cluster": f"weights are stored and fetched encoded: {shared}",
        "qat": "accuracy that rounding to the integers of the NPU would lose",
    }


def _options(
    accelerators: tuple[str, ...], system_configs: tuple[str, ...], memory_mode: str
) -> dict[str, tuple[str, ...]]:
    others = tuple(mode for mode in _MEMORY_MODES if mode != memory_mode)
    return {
        "accelerator": accelerators,
        "system_config": system_configs,
        "memory_mode": (memory_mode, *others),
    }


_U55_WORTH = _worth(
    "with 90 % zeros a small CNN and an LSTM took 0.13 and 0.16 of the "
    "weight bytes, 0.29 and 0.32 of the cycles",
    "with 2:4 a small CNN and an LSTM took 0.63 and 0.66 of the weight bytes, "
    "0.67 and 0.74 of the cycles, as with other 50 % zeros",
    "with 16 values a small CNN and an LSTM took 0.51 and 0.53 of the weight bytes, "
    "0.56 and 0.63 of the cycles",
)
_U65_WORTH = _worth(
    "with 90 % zeros a small CNN and an LSTM took 0.13 and 0.16 of the "
    "weight bytes, 0.77 and 0.83 of the cycles",
    "with 2:4 a small CNN and an LSTM took 0.63 and 0.66 of the weight bytes, "
    "0.76 and 0.89 of the cycles, as with other 50 % zeros",
    "with 16 values a small CNN and an LSTM took 0.51 and 0.54 of the weight bytes, "
    "0.75 and 0.83 of the cycles",
)
_U85_WORTH = _worth(
    "with 90 % zeros a small CNN and an LSTM took 0.12 and 0.17 of the "
    "weight bytes, 0.75 and 0.85 of the cycles",
    "with 2:4 a small CNN and an LSTM took 0.58 and 0.67 of the weight bytes, "
    "0.65 and 0.94 of the cycles, fewer than with other "
    "50 % zeros (0.77 and 0.98)",
    "with 16 values a small CNN and an LSTM took 0.53 and 0.54 of the weight bytes, "
    "0.77 and 0.98 of the cycles",
)

# The defaults of systems are the middle or the highest of those that Arm/vela.ini describes:
# weights in flash for the U55, in DRAM for the others.
ETHOS_U55 = Target(
    name="ethos-u55",
    summary="Arm Ethos-U55 beside a Cortex-M: int8, compiled by Vela",
    precisions=_PRECISIONS,
    default="int8",
    compile=compile_file,
    suffix=SUFFIX,
    options=_options(
        ("ethos-u55-128", "ethos-u55-32", "ethos-u55-64", "ethos-u55-256"),
        ("Ethos_U55_High_End_Embedded", "Ethos_U55_Deep_Embedded"),
        "Shared_Sram",
    ),
    requires=VELA,
    worth=_U55_WORTH,
)
ETHOS_U65 = Target(
    name="ethos-u65",
    summary="Arm Ethos-U65 beside a Cortex-M or Cortex-A: int8, compiled by Vela",
    precisions=_PRECISIONS,
    default="int8",
    compile=compile_file,
    suffix=SUFFIX,
    options=_options(
        ("ethos-u65-256", "ethos-u65-512"),
        (
            *("Ethos_U65_High_End", "Ethos_U65_Embedded"),
            *("Ethos_U65_Mid_End", "Ethos_U65_Client_Server"),
        ),
        "Dedicated_Sram_384KB",
    ),
    requires=VELA,
    worth=_U65_WORTH,
)
ETHOS_U85 = Target(
    name="ethos-u85",
    summary="Arm Ethos-U85, with more ops: int8, compiled by Vela",
    precisions=_PRECISIONS,
    default="int8",
    compile=compile_file,
    suffix=SUFFIX,
    options=_options(
        (
            *("ethos-u85-256", "ethos-u85-128", "ethos-u85-512"),
            *("ethos-u85-1024", "ethos-u85-2048"),
        ),
        (
            *("Ethos_U85_SYS_DRAM_Mid", "Ethos_U85_SYS_DRAM_Low", "Ethos_U85_SYS_DRAM_High"),
            *("Ethos_U85_SYS_Flash_Low", "Ethos_U85_SYS_Flash_High"),
        ),
        "Dedicated_Sram_384KB",
    ),
    requires=VELA,
    worth=_U85_WORTH,
)
