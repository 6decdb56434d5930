"""compresskit.tflite.metadata: what a file carries beside its graph."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskit.packing import pack, unpack
from compresskit.tflite.audit import audit
from compresskit.tflite.metadata import FACTS, Metadata, attach, metadata_of
from compresskit.tflite.runtime import Runner
from tests.files import int8_file
from tests.training import inputs_of

MADE = Metadata(
    facts={"metrics": {"accuracy": 0.75}, "versions": {"keras": "3.15.1"}},
    recipe="version: 1\nname: größe\n",
    labels=("shirt", "ankle boot", "tête"),
)


@pytest.fixture(scope="module")
def file():
    return int8_file("cnn")


class TestAttach:
    def test_comes_back(self, file):
        assert metadata_of(attach(file, MADE)) == MADE

    def test_the_graph_stays_byte_for_byte(self, file):
        made = attach(file, MADE)
        assert made[: len(file)] == file
        assert audit(made).counts == audit(file).counts

    def test_a_runtime_does_not_mind(self, file):
        x = inputs_of("cnn", 4)
        np.testing.assert_array_equal(
            Runner(attach(file, MADE)).predict(x), Runner(file).predict(x)
        )

    def test_a_micro_runtime_does_not_mind(self, file):
        pytest.importorskip("tflite_micro")
        x = inputs_of("cnn", 4)
        micro = [
            Runner(content, runtime="tflite-micro").predict(x)
            for content in (file, attach(file, MADE))
        ]
        np.testing.assert_array_equal(*micro)

    def test_equal_metadata_makes_equal_bytes(self, file):
        assert attach(file, MADE) == attach(file, MADE)

    def test_any_unzip_reads_it(self, file):
        with zipfile.ZipFile(io.BytesIO(attach(file, MADE))) as archive:
            assert archive.namelist() == ["compresskit.json", "recipe.yaml", "labels.txt"]
            assert archive.read("labels.txt").decode() == "shirt\nankle boot\ntête\n"

    def test_a_label_of_several_lines_stays_one(self, file):
        made = attach(file, Metadata(labels=("a\nb", "c")))
        found = metadata_of(made)
        assert found is not None
        assert found.labels == ("a b", "c")
        assert found.recipe is None

    def test_a_container_gives_it_back(self, file):
        made = attach(file, MADE)
        assert unpack(pack(made)) == made


class TestMetadataOf:
    def test_a_file_without(self, file):
        assert metadata_of(file) is None

    def test_files_of_others(self, file):
        whole = io.BytesIO(file)
        with zipfile.ZipFile(whole, "a") as archive:
            archive.writestr("labelmap.txt", "a\n")
        assert metadata_of(whole.getvalue()) is None

    def test_facts_that_are_none(self, file):
        whole = io.BytesIO(file)
        with zipfile.ZipFile(whole, "a") as archive:
            archive.writestr(FACTS, "[1]")
        assert metadata_of(whole.getvalue()) is None

    @given(st.data())
    def test_damage_is_none_or_what_was_there(self, data):
        made = bytearray(attach(b"front", MADE))
        position = data.draw(st.integers(0, len(made) - 1))
        made[position] ^= data.draw(st.integers(1, 255))
        found = metadata_of(bytes(made))
        assert found is None or isinstance(found.facts, dict)
