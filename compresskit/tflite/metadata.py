"""What a .tflite file carries beside its graph: where it comes from, and the names of its labels.

Files are appended as a ZIP archive, as TensorFlow Lite's own metadata tools do with associated
files: runtimes read the graph from the front and never look at the end, and `unzip` lists what is
there. The graph stays as it is, byte for byte.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FACTS, RECIPE, LABELS = "compresskit.json", "recipe.yaml", "labels.txt"
# An archive of a stranger may grow without end.
_MOST_BYTES = 1 << 24
# What the reader of archives raises on bytes that lead it astray.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    *(ValueError, LookupError, OSError, EOFError, struct.error),
)
# The oldest date that the format knows: equal files stay equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file carries.

    Attributes:
        facts: versions, metrics and whatever else was known when it was made; JSON.
        recipe: the resolved recipe that made it, YAML, or None.
        labels: the name of each output's class, or none.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    labels: Sequence[str] = ()


def attach(content: bytes, metadata: Metadata) -> bytes:
    """The file with metadata at its end."""
    written = {FACTS: json.dumps(metadata.facts, indent=1, sort_keys=True)}
    if metadata.recipe is not None:
        written[RECIPE] = metadata.recipe
    if metadata.labels:
        # One a line is what the readers of labels expect.
        written[LABELS] = "".join(f"{' '.join(label.split())}\n" for label in metadata.labels)
    whole = io.BytesIO(content)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in written.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text.encode())
    return whole.getvalue()


def metadata_of(content: bytes) -> Metadata | None:
    """What a file carries, or None: no archive, a damaged one, or one of other files."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = {
                name: archive.read(name).decode()
                for name in (FACTS, RECIPE, LABELS)
                if name in archive.namelist() and archive.getinfo(name).file_size <= _MOST_BYTES
            }
            facts = json.loads(texts[FACTS])
    except _DAMAGE:
        return None
    if not isinstance(facts, dict):
        return None
    labels = tuple(texts.get(LABELS, "").splitlines())
    return Metadata(facts=facts, recipe=texts.get(RECIPE), labels=labels)
