"""A starter recipe for a model, commented, that runs as it is."""

from __future__ import annotations

import re
from typing import Any

import jinja2

from compresskit import catalog
from compresskit.recipe_source import dump

# Data sets by the shape of a sample: what a model with that input was likely made for.
_BY_SHAPE: dict[tuple[int, ...], str] = {
    (8, 8, 1): "digits",
    (8, 8): "digits",
    (28, 28, 1): "fashion-mnist",
    (40, 13): "spoken-digits",
}
# Of registered models, whose token ids are those of a known vocabulary.
_TOKENS: dict[tuple[int, ...], str] = {(32,): "trec-wordpiece"}

_TEMPLATE = """\
# A starter recipe for {{ model }}. Check it:  compresskit plan {{ file }}
# Run it:                {{ pad }}              compresskit apply {{ file }}
version: 1
name: {{ name | yaml }}

# A registered model (compresskit list models), a .keras file, or {builder: my_pkg.mod:function}.
model: {{ model | yaml }}

{% if data -%}
# Taken by the shape of the model's input, {{ shape }}; change it if that is wrong. Also
# {npz: file.npz} with x_train, y_train, x_test, y_test, {directory: pictures},
# or {builder: my_pkg.mod:function}.
data: {{ data }}
{%- else -%}
# No data set is known for inputs of shape {{ shape }}: write
# {{ "x_train.NAME and x_test.NAME of each," if several else "x_train, x_test," }} y_train and
# y_test to a file with numpy.savez, or use {directory: pictures} or {builder: my_pkg.mod:function}.
data: {npz: data.npz}
{%- endif %}

evaluate: {metric: accuracy, mode: max}
{% if untrained %}
# The model has no weights yet, so it is trained first.
baseline: {epochs: 5, learning_rate: 1.0e-3}
{% endif %}
# How stages train that do not say otherwise.
defaults: {optimizer: adam, learning_rate: 5.0e-4, batch_size: 128}

stages:
  # Four of five weights become zero, slowly, while the others learn to do without them.
  - name: sparsify
    type: prune
{%- if computed %}
    # Looked up by ids that the model computes: the converter may do that beforehand, and then
    # no file holds these tables.
    ignore: [{{ computed }}]
{%- endif %}
    sparsity: {initial: 0.3, final: 0.8, schedule: polynomial}
    granularity: unstructured     # or 2:4, block(1x16)
    scope: layer                  # or global: rank all weights together
    begin: 0ep
    end: 75%
    epochs: 3
  # Without the #, the other weights of a tensor share 15 values: a smaller download, and with
  # {target: micro, compress: lut} half the flash of a microcontroller.
  # - {name: share, type: cluster, clusters: 16, epochs: 2}
  # The model learns behind the rounding of the integer kernels; the zeros stay.
  - name: quantize
    type: qat
    weight_bits: 8
    epochs: 2

# What is written in the end, and what is promised of it (exit status 1 if it is not kept).
export:
  - {target: edge-cpu, precision: int8, parity: {min_agreement: 0.98}, gate: {max_drop: 0.02}}
  - {target: edge-cpu, precision: dynamic}
"""


def starter(model: Any, spec: str, *, file: str) -> str:
    """The text of a recipe.

    Args:
        model: the loaded model.
        spec: what the user called it: a registered name or a path.
        file: what the recipe will be called, for its comments.
    """
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
    shapes = [f"{each.name} {_times(each.shape[1:])}" for each in inputs]
    known = {**_BY_SHAPE, **_TOKENS} if spec in catalog.models else _BY_SHAPE
    stem = spec.rsplit("/", 1)[-1].removesuffix(".keras")
    name = re.sub("[^A-Za-z0-9._-]", "-", stem)[:100]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["yaml"] = lambda text: dump([text]).removeprefix("- ").rstrip()
    return environment.from_string(_TEMPLATE).render(
        model=spec,
        file=file,
        pad=" " * max(0, len(spec) - 16),
        name=name.lstrip("._-") or "model",
        shape=", ".join(shapes) if len(shapes) > 1 else _times(shape) or "unknown",
        several=len(inputs) > 1,
        computed=", ".join(_computed_lookups(model)),
        data=known.get(shape),
        untrained=spec in catalog.models,
    )


def _times(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _computed_lookups(model: Any) -> list[str]:
    """Names of embeddings that are not given an input of the model, as far as its graph tells."""
    found = []
    for layer in model._flatten_layers():
        if type(layer).__name__ != "Embedding":
            continue
        nodes = [node for node in layer._inbound_nodes if node.input_tensors]
        givers = [node.input_tensors[0]._keras_history.operation for node in nodes]
        if givers and all(type(giver).__name__ != "InputLayer" for giver in givers):
            found.append(layer.name)
    return found
