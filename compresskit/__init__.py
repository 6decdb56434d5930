"""Compression of Keras 3 models by recipe: prune, quantize, export, and proof of the cost.

```python
import compresskit as ck

recipe = ck.Recipe.load("recipe.yaml")
result = ck.compress(model, recipe, data=((x, y), (x_test, y_test)), out="runs/x")
```

Names are imported when they are first used: `import compresskit` loads no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compresskit.benchmarking import bench
    from compresskit.callback import CompressionCallback
    from compresskit.comparison import compare
    from compresskit.distribution import MultiWorkerMirroredStrategy
    from compresskit.engine import Result, compress
    from compresskit.errors import CompressKitError
    from compresskit.exporting import export
    from compresskit.inspection import inspect
    from compresskit.loop import compressing
    from compresskit.migration import migrate
    from compresskit.planning import plan
    from compresskit.recipe import Recipe

_HOMES = {
    "CompressKitError": "compresskit.errors",
    "CompressionCallback": "compresskit.callback",
    "MultiWorkerMirroredStrategy": "compresskit.distribution",
    "Recipe": "compresskit.recipe",
    "Result": "compresskit.engine",
    "bench": "compresskit.benchmarking",
    "compare": "compresskit.comparison",
    "compress": "compresskit.engine",
    "compressing": "compresskit.loop",
    "export": "compresskit.exporting",
    "inspect": "compresskit.inspection",
    "migrate": "compresskit.migration",
    "plan": "compresskit.planning",
}

__all__ = [
    "CompressKitError",
    "CompressionCallback",
    "MultiWorkerMirroredStrategy",
    "Recipe",
    "Result",
    "bench",
    "compare",
    "compress",
    "compressing",
    "export",
    "inspect",
    "migrate",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compresskit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
