"""What TFMOT does to a tf_keras model: wrap, train, read back. Runs in the child alone.

Layers are wrapped one by one, so that a stage takes the layers that its `targets` say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras import cluster_wrapper
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
    ClusteringRegistry,
)
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
    QuantizeWrapper,
)
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_wrapper
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

from compresskit.tfmot.layers import named_layers, read_weights, write_weights

_SPARSITY, _QUANTIZATION = tfmot.sparsity.keras, tfmot.quantization.keras
_INITS = {
    "linear": "LINEAR",
    "density": "DENSITY_BASED",
    "kmeans++": "KMEANS_PLUS_PLUS",
    # The exact one is not there.
    "kmeans": "KMEANS_PLUS_PLUS",
}


def copy(model: Any) -> Any:
    """A model of the same layers and weights; wrapping changes the layers that it is given."""
    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    return made


@contextlib.contextmanager
def scopes() -> Iterator[None]:
    """Inside, files of wrapped models can be loaded."""
    with (
        _SPARSITY.prune_scope(),
        tfmot.clustering.keras.cluster_scope(),
        _QUANTIZATION.quantize_scope(),
    ):
        yield


def stripped(model: Any) -> Any:
    """The model without wrappers of pruning and clustering."""
    kinds = {type(layer) for _, layer in named_layers(model)}
    if any(issubclass(kind, pruning_wrapper.PruneLowMagnitude) for kind in kinds):
        model = _SPARSITY.strip_pruning(model)
    if any(issubclass(kind, cluster_wrapper.ClusterWeights) for kind in kinds):
        model = tfmot.clustering.keras.strip_clustering(model)
    return model


def wrapped(model: Any) -> list[str]:
    """Names of the layers that `quantize_apply` has put into a model."""
    kinds = (QuantizeWrapper, _QUANTIZATION.quantizers.Quantizer)
    return [
        path
        for path, layer in named_layers(model)
        if isinstance(layer, kinds) or type(layer).__name__ == "QuantizeLayer"
    ]


def _wrap(model: Any, wrap: Callable[[Any], Any]) -> Any:
    return keras.models.clone_model(model, clone_function=wrap)


def _held(layer: Any, stage: dict[str, Any]) -> Any:
    """A layer that the stage does not take; if it was pruned before, its zeros are kept."""
    if layer.name not in stage["pruned"]:
        return layer
    weights = PruneRegistry.make_prunable(layer).get_prunable_weights()
    share = min(float(np.mean(np.asarray(weight) == 0)) for weight in weights)
    # One update in the first step: the zeros are the smallest weights.
    return _SPARSITY.prune_low_magnitude(layer, _SPARSITY.ConstantSparsity(share, 1, 1, 1))


def _prune(model: Any, stage: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Wraps for pruning.

    `layers` has for each layer `initial` and `final` shares of zeros; `begin`, `end` and
    `frequency` are steps, `end` the last at which TFMOT makes masks.
    """

    def wrap(layer: Any) -> Any:
        if layer.name not in stage["layers"]:
            return _held(layer, stage)
        shares = stage["layers"][layer.name]
        times = {
            "begin_step": stage["begin"],
            "end_step": stage["end"],
            "frequency": stage["frequency"],
        }
        if stage["constant"]:
            schedule = _SPARSITY.ConstantSparsity(shares["final"], **times)
        else:
            schedule = _SPARSITY.PolynomialDecay(
                shares["initial"], shares["final"], power=stage["power"], **times
            )
        settings = {"sparsity_m_by_n": stage["zeros_of"]} if stage["zeros_of"] else {}
        return _SPARSITY.prune_low_magnitude(
            layer, schedule, block_size=tuple(stage["block"]), **settings
        )

    return _wrap(model, wrap), [_SPARSITY.UpdatePruningStep()]


def _pruned(model: Any, plain: Any) -> None:
    write_weights(plain, read_weights(_SPARSITY.strip_pruning(model)))


def _cluster(model: Any, stage: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Wraps for clustering: `clusters`, `init`, and whether zeros stay zero (`sparse`)."""
    init = tfmot.clustering.keras.CentroidInitialization[_INITS[stage["init"]]]

    def wrap(layer: Any) -> Any:
        if layer.name not in stage["layers"]:
            return _held(layer, stage)
        return cluster.cluster_weights(
            layer,
            number_of_clusters=stage["clusters"],
            cluster_centroids_init=init,
            preserve_sparsity=stage["sparse"],
        )

    return _wrap(model, wrap), [_SPARSITY.UpdatePruningStep()] if stage["pruned"] else []


def _clustered(model: Any, plain: Any) -> None:
    write_weights(plain, read_weights(stripped(model)))


def _quantize(model: Any, stage: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Wraps for QAT by the scheme that keeps what is `sparse` and `clustered`."""
    schemes = tfmot.experimental.combine
    if stage["clustered"]:
        scheme = schemes.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=stage["sparse"])
    elif stage["sparse"]:
        scheme = schemes.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = None

    def wrap(layer: Any) -> Any:
        if layer.name in stage["ignored"] or isinstance(layer, keras.layers.InputLayer):
            return layer
        return _QUANTIZATION.quantize_annotate_layer(layer)

    annotated = _wrap(model, wrap)
    if scheme is None:
        return _QUANTIZATION.quantize_apply(annotated), []
    return _QUANTIZATION.quantize_apply(annotated, scheme), []


def _quantized(model: Any, plain: Any) -> Any:
    """Writes to the plain model the weights that the layers read: rounded."""
    layers = dict(named_layers(plain))
    for wrapper in model.layers:
        inner = getattr(wrapper, "layer", None)
        if inner is None or inner.name not in layers:
            continue
        values = {_short(variable.name): np.asarray(variable) for variable in wrapper.weights}
        values.update({_short(variable.name): np.asarray(variable) for variable in inner.weights})
        for variable, quantizer, kept in getattr(wrapper, "_weight_vars", ()):
            rounded = quantizer(variable, False, weights=kept)
            values[_short(variable.name)] = np.asarray(rounded)
        layer = layers[inner.name]
        layer.set_weights([values[_short(variable.name)] for variable in layer.weights])
    return model


def _short(name: str) -> str:
    return name.split(":")[0].rsplit("/", 1)[-1]


TECHNIQUES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "prune": (_prune, _pruned),
    "cluster": (_cluster, _clustered),
    "qat": (_quantize, _quantized),
}


def supported() -> dict[str, list[str]]:
    """By technique the names of the layers that TFMOT's registries list."""
    quantized = default_8bit_quantize_registry.Default8BitQuantizeRegistry()._layer_quantize_map
    prune = [kind for kind, names in PruneRegistry._LAYERS_WEIGHTS_MAP.items() if names]
    share = [kind for kind, names in ClusteringRegistry._LAYERS_WEIGHTS_MAP.items() if names]
    return {
        "prune": sorted({kind.__name__ for kind in (*prune, *PruneRegistry._RNN_LAYERS)}),
        "cluster": sorted(
            {
                kind.__name__
                for kind in (
                    *share,
                    *ClusteringRegistry._SUPPORTED_RNN_LAYERS,
                    *ClusteringRegistry._SUPPORTED_MHA_LAYERS,
                )
            }
        ),
        "qat": sorted(kind.__name__ for kind in quantized),
    }
