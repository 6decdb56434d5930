"""One TFMOT process for all tests of a pytest worker: starting it costs more than most tests."""

from __future__ import annotations

import functools
import importlib.util

import pytest

from compresskit.child import Child
from compresskit.tfmot import session

# Looked for, not imported: importing it makes `tf.keras` of this process Keras 2.
needs_tfmot = pytest.mark.skipif(
    any(
        importlib.util.find_spec(name) is None
        for name in ("tensorflow_model_optimization", "tf_keras")
    ),
    reason="TFMOT and tf_keras are not installed: pip install -e .[tfmot]",
)


@functools.cache
def child():
    """The process that sessions use from now on, too."""
    session._child = Child("tests.tfmot_child", "TFMOT's process", session._child.environment)
    return session._child


def ask(**request):
    answer = child().ask(request)
    assert answer.error is None, answer.error
    return answer.value
