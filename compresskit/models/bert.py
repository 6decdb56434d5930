"""BERT-style encoders that classify sequences of tokens.

Source: J. Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", 2018, https://arxiv.org/abs/1810.04805, in the small sizes of I.
Turc et al., "Well-Read Students Learn Better", 2019, https://arxiv.org/abs/1908.08962,
and of W. Wang et al., "MiniLM", 2020, https://arxiv.org/abs/2002.10957.

Only layers of Keras itself are used, so a saved model loads wherever Keras is.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from compresskit.errors import ModelError, Problem

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"blocks": 2, "width": 128, "heads": 2, "feed_forward": 512},
    "mini": {"blocks": 4, "width": 256, "heads": 4, "feed_forward": 1024},
    "minilm": {"blocks": 6, "width": 384, "heads": 12, "feed_forward": 1536},
}
# The uncased WordPiece vocabulary that Google published with BERT.
VOCABULARY = 30_522
_EPSILON = 1e-12


def bert_tiny(
    input_shape: tuple[int] = (32,), classes: int = 6, *, vocabulary: int = VOCABULARY, **args: Any
) -> keras.Model:
    """`bert_classifier` with 2 blocks of 128, 2 heads; 4,386,694 parameters by default."""
    args = {**SIZES["tiny"], "name": "bert-tiny", **args}
    return bert_classifier(input_shape, classes, vocabulary=vocabulary, **args)


def bert_mini(
    input_shape: tuple[int] = (32,), classes: int = 6, *, vocabulary: int = VOCABULARY, **args: Any
) -> keras.Model:
    """`bert_classifier` with 4 blocks of 256, 4 heads; 11,172,102 parameters by default."""
    args = {**SIZES["mini"], "name": "bert-mini", **args}
    return bert_classifier(input_shape, classes, vocabulary=vocabulary, **args)


def bert_classifier(
    input_shape: tuple[int],
    classes: int,
    *,
    vocabulary: int,
    blocks: int,
    width: int,
    heads: int,
    feed_forward: int,
    positions: int = 512,
    segments: int = 2,
    gelu: str = "exact",
    pooling: str = "first",
    dropout: float = 0.1,
    name: str = "bert",
) -> keras.Model:
    """An encoder and a classifier on what it makes of the first token, or of all.

    Layers: `token_embedding`, `position_embedding`, `segment_embedding`,
    `embedding_norm`; in each block from `block1` on `block1_attention`,
    `block1_attention_norm`, `block1_fc1`, `block1_fc2`, `block1_norm`; `pooler`, `logits`.

    Args:
        input_shape: (steps,), at most `positions`. Id 0 is padding, which is not
            attended to.
        classes: how many probabilities come out.
        vocabulary: how many token ids there are.
        blocks: how many attention and feed-forward blocks.
        width: of the embeddings and of every block's output.
        heads: of the attention; a divisor of `width`.
        feed_forward: width inside each block's feed-forward part.
        positions: rows of the position embedding.
        segments: rows of the segment embedding; every token is of segment 0. 0 leaves
            the layer out.
        gelu: `exact`, or `tanh` for the approximation by it.
        pooling: `first` for the first token, through the Dense layer `pooler` with a
            tanh; `mean` for the mean over all tokens but padding.
        dropout: share that training drops of embeddings, attention and outputs.
        name: of the model.

    Returns:
        int32 of shape (batch, steps) to probabilities (batch, classes). Weights are
        random by Keras's seed.

    Raises:
        ModelError: sizes that do not fit each other, or unknown words; all of them.
    """
    _check(name, tuple(input_shape), width, heads, positions, gelu, pooling)
    tokens = keras.Input(input_shape, dtype="int32", name="tokens")
    is_token = ops.not_equal(tokens, 0)
    x = _embed(tokens, vocabulary, positions, segments, width)
    x = layers.LayerNormalization(epsilon=_EPSILON, name="embedding_norm")(x)
    x = layers.Dropout(dropout, name="embedding_dropout")(x)
    # One row for all queries: (batch, 1, steps).
    mask = ops.expand_dims(is_token, 1)
    for number in range(1, blocks + 1):
        x = _attend(x, mask, heads, dropout, name=f"block{number}")
        x = _feed_forward(x, feed_forward, gelu, dropout, name=f"block{number}")
    if pooling == "mean":
        x = _mean(x, is_token)
    else:
        x = _dense(width, activation="tanh", name="pooler")(x[:, 0])
    x = layers.Dropout(dropout, name="pooled_dropout")(x)
    outputs = _dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(tokens, outputs, name=name)


def _embed(
    tokens: KerasTensor, vocabulary: int, positions: int, segments: int, width: int
) -> KerasTensor:
    # Zeros that depend on the input give each batch its positions and segments. With a
    # fixed batch they are constants, and the converter computes both lookups beforehand.
    zeros = ops.zeros_like(tokens)
    position = ops.add(zeros, np.arange(tokens.shape[1], dtype=np.int32))
    x = _embedding(vocabulary, width, "token_embedding")(tokens)
    # Two at a time, as every runtime adds, so that training can see each sum.
    x = layers.Add(name="position_add")(
        [x, _embedding(positions, width, "position_embedding")(position)]
    )
    if segments:
        x = layers.Add(name="segment_add")(
            [x, _embedding(segments, width, "segment_embedding")(zeros)]
        )
    return x


def _attend(
    x: KerasTensor, mask: KerasTensor, heads: int, dropout: float, *, name: str
) -> KerasTensor:
    attention = layers.MultiHeadAttention(
        heads,
        key_dim=x.shape[-1] // heads,
        dropout=dropout,
        kernel_initializer=_initializer(),
        name=f"{name}_attention",
    )
    attended = attention(x, x, attention_mask=mask)
    attended = layers.Dropout(dropout, name=f"{name}_attention_dropout")(attended)
    x = layers.Add(name=f"{name}_attention_add")([x, attended])
    return layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_attention_norm")(x)


def _feed_forward(
    x: KerasTensor, width: int, gelu: str, dropout: float, *, name: str
) -> KerasTensor:
    inner = _dense(width, name=f"{name}_fc1")(x)
    inner = ops.gelu(inner, approximate=gelu == "tanh")
    inner = _dense(x.shape[-1], name=f"{name}_fc2")(inner)
    inner = layers.Dropout(dropout, name=f"{name}_dropout")(inner)
    x = layers.Add(name=f"{name}_add")([x, inner])
    return layers.LayerNormalization(epsilon=_EPSILON, name=f"{name}_norm")(x)


def _mean(x: KerasTensor, is_token: KerasTensor) -> KerasTensor:
    # A choice of constants, not a cast, which would stay float in an integer file.
    weight = ops.expand_dims(ops.where(is_token, 1.0, 0.0), -1)
    # A row of nothing but padding has the mean 0.
    count = ops.maximum(ops.sum(weight, axis=1), 1.0)
    return ops.divide(ops.sum(ops.multiply(x, weight), axis=1), count)


def _initializer() -> keras.Initializer:
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _embedding(rows: int, width: int, name: str) -> keras.Layer:
    return layers.Embedding(rows, width, embeddings_initializer=_initializer(), name=name)


def _dense(units: int, *, name: str, activation: str | None = None) -> keras.Layer:
    return layers.Dense(units, activation, kernel_initializer=_initializer(), name=name)


def _check(
    name: str,
    input_shape: tuple[int, ...],
    width: int,
    heads: int,
    positions: int,
    gelu: str,
    pooling: str,
) -> None:
    problems = []

    def problem(found: str, expected: str, fix: str) -> None:
        problems.append(Problem(where=f"model {name!r}", found=found, expected=expected, fix=fix))

    if len(input_shape) != 1:
        problem(f"input_shape {input_shape}", "(steps,) of token ids", "choose a data set of texts")
    elif input_shape[0] > positions:
        fix = "shorten the sequences, or give more positions"
        problem(f"{input_shape[0]} steps", f"at most {positions}, the number of positions", fix)
    if width % heads:
        problem(f"width {width}, heads {heads}", "a width that heads divide", "change one of them")
    for key, word, known in (
        ("gelu", gelu, ("exact", "tanh")),
        ("pooling", pooling, ("first", "mean")),
    ):
        if word not in known:
            problem(f"{key} {word!r}", f"one of: {', '.join(known)}", f"correct {key}")
    if problems:
        raise ModelError(problems)
