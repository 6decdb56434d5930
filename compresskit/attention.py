"""Attention written out: its scores are seen, and its mask survives integers.

Keras hides padding by giving it a score of -1e9 or lower. An integer tensor has one scale:
beside such a number all other scores round to zero, and the file attends to every token
alike, without an error. Here the score of what is hidden lies just far enough below the
others to get no attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Of the scores (batch, heads, queries, keys) and a boolean mask that broadcasts to them,
# the scores with those of hidden keys replaced.
Hide = Callable[[Any, Any], Any]

# All hidden keys together get at most exp(-7), 0.09 % of a query's attention: a quarter of a step
# of the softmax's output.
_MARGIN = 7.0


def attentions(model: keras.Model) -> list[Any]:
    """The attention layers of a model that are computed as Keras writes it.

    A layer that a subclassed model has and never calls is not built, and left out.
    """
    ours = keras.layers.MultiHeadAttention
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, ours)
        and layer.built
        and type(layer)._compute_attention is ours._compute_attention
    ]


def hide_far(scores: Any, mask: Any) -> Any:
    """Hides as Keras does, for floats: by the lowest score there is, halved."""
    return tf.where(mask, scores, tf.constant(scores.dtype.min / 2, scores.dtype))


def hide_below(scores: Any, mask: Any) -> Any:
    """Hides below the lowest among the best scores of the batch's queries."""
    best = tf.reduce_max(hide_far(scores, mask), axis=-1)
    # A query that may attend to nothing has no best score. If none may, any score will do.
    some = tf.reduce_any(tf.broadcast_to(mask, tf.shape(scores)), axis=-1)
    other = tf.where(tf.reduce_any(some), tf.reduce_max(best), tf.zeros((), best.dtype))
    lowest = tf.reduce_min(tf.where(some, best, other))
    margin = _MARGIN + tf.math.log(tf.cast(tf.shape(scores)[-1], scores.dtype))
    return tf.where(mask, scores, tf.stop_gradient(lowest) - margin)


def hide_at(score: float) -> Hide:
    """Hides by a fixed score."""
    return lambda scores, mask: tf.where(mask, scores, tf.constant(score, scores.dtype))


def hidden_scores(model: keras.Model, samples: Any) -> dict[int, float]:
    """The score to hide by, for each attention layer that has a mask, by its identity.

    Args:
        samples: inputs as the model takes them; the scores that occur are measured on them.
    """
    lowest: dict[int, float] = {}

    def measure(layer: Any) -> Hide:
        def hide(scores: Any, mask: Any) -> Any:
            hidden = hide_below(scores, mask)
            seen = float(tf.reduce_min(tf.where(mask, np.inf, hidden)))
            lowest[id(layer)] = min(lowest.get(id(layer), np.inf), seen)
            return hide_far(scores, mask)

        return hide

    layers = attentions(model)
    if layers:
        with written_out({layer: measure(layer) for layer in layers}):
            count = len(keras.tree.flatten(samples)[0])
            for start in range(0, count, 32):
                part = slice(start, start + 32)
                batch = keras.tree.map_structure(lambda values, part=part: values[part], samples)
                model(batch, training=False)
    return {layer: score for layer, score in lowest.items() if np.isfinite(score)}


@contextmanager
def written_out(
    hide: Mapping[Any, Hide], scaled: Mapping[Any, Callable[[Any], Any]] | None = None
) -> Iterator[None]:
    """Inside, attention layers are computed step by step and hide tokens as given.

    Args:
        hide: the layers, each with how it hides.
        scaled: for some of them, a function of the query once it is scaled.
    """
    with ExitStack() as stack:
        for layer, how in hide.items():
            computed = _attention(layer, how, (scaled or {}).get(layer))
            computed.before = vars(layer).get("_compute_attention")
            layer._compute_attention = computed
            stack.callback(_take_away, layer, computed)
        yield


def _take_away(layer: Any, computed: Any) -> None:
    """Takes one way to compute off a layer, also from under others that came later."""
    above, current = None, vars(layer)["_compute_attention"]
    while current is not computed:
        above, current = current, current.before
    if above is not None:
        above.before = computed.before
    elif computed.before is not None:
        layer._compute_attention = computed.before
    else:
        del layer._compute_attention


def _attention(layer: Any, hide: Hide, scaled: Callable[[Any], Any] | None) -> Any:
    def compute(
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Any]:
        if use_causal_mask:
            causal = layer._compute_causal_mask(query, value)
            both = causal if attention_mask is None else tf.cast(attention_mask, tf.bool) & causal
            attention_mask = both
        query = query * tf.constant(layer._inverse_sqrt_key_dim, query.dtype)
        query = query if scaled is None else scaled(query)
        scores = tf.einsum(layer._dot_product_equation, key, query)
        if attention_mask is not None:
            mask = tf.cast(attention_mask, tf.bool)
            # Heads come before queries and keys, and a mask does not know them.
            while len(mask.shape) < len(scores.shape):
                mask = tf.expand_dims(mask, -2 * len(layer._attention_axes) - 1)
            scores = hide(scores, mask)
        weights = layer._softmax(scores)
        dropped = weights
        if layer._dropout > 0.0:
            dropped = layer._dropout_layer(weights, training=training)
        return tf.einsum(layer._combine_equation, dropped, value), weights

    return compute
