"""Settings that must stand before TensorFlow is imported, and a fixed seed."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# The models are tiny, and as many workers as cores run at once.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

# Where `tests.files` keeps what it made. The processes of pytest-xdist get it from the first.
FIRST = "COMPRESSKIT_TEST_FILES" not in os.environ
if FIRST:
    os.environ["COMPRESSKIT_TEST_FILES"] = tempfile.mkdtemp(prefix="compresskit-")

# The graphs that tests build are many small objects that stay: to look through them again and
# again for garbage, as often as Python does by itself, takes a tenth of the time.
gc.set_threshold(50_000, 20, 20)


def pytest_unconfigure():
    if FIRST:
        shutil.rmtree(os.environ["COMPRESSKIT_TEST_FILES"])


@pytest.fixture(autouse=True)
def keras_seed():
    """Every test starts from one seed; a test that needs no Keras does not load it."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session(free_memory=False)  # collecting takes 0.4 s


@pytest.fixture(autouse=True, scope="session")
def keras_3():
    """After whatever tests a process has run, `tf.keras` in it is still that of Keras 3."""
    yield
    assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    if "tensorflow" in sys.modules:
        assert sys.modules["tensorflow"].keras.__version__.startswith("3")
