"""What frozen features are worth for other data: weighted k-nearest neighbors, and a linear classifier (a linear probe)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.core.fingerprint import fingerprint
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel
from zoo.training.building import open_data
from zoo.training.data_record import DataRecord, exclude_trained

TEMPERATURE = 0.07  # of the votes (Wu et al. 2018, section 3.4)
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-2, -13, -1))  # the strongest first
STEPS = 1000  # of L-BFGS, at most
QUERIES = 1024  # at a time


@dataclass(frozen=True)
class Probes:
    """Test accuracy of classifiers on frozen features.

    Attributes:
        data: name of the data set.
        features: their number.
        images: of each split.
        neighbors: k of the nearest neighbors, at most all images known.
        knn: accuracy of the nearest neighbors among training and validation images.
        linear: accuracy of the linear classifier.
        penalty: its L2 penalty, which the validation images chose; fitted again, it learns from them, too.
    """

    data: str
    features: int
    images: dict[str, int]
    neighbors: int
    knn: float
    linear: float
    penalty: float


def probe(registry: Registry, task: ImageModel, run: Run, section: dict[str, Any], record: DataRecord, neighbors: int) -> Probes:
    """Compute the features of all images of a data set, or find them in the cache, and fit both classifiers.

    Args:
        task: whose features and preprocessing are used; what it predicts does not matter.
        run: of its training.
        section: name and options of the data.
        record: of what the network was trained on, which is left out of the test images.

    Raises:
        UserError: the data cannot be read, has other images than the network takes, or none of a split.
    """
    data = open_data(registry, run.model_copy(update={"data": section}))
    data.use_preprocessing(task.spec)
    data.prepare_data()
    data.setup()
    data.require_compatible(_images_of(task.spec, data.spec), section["name"])
    exclude_trained(data, record.trained_on)
    for split, hint in (("val", ": set data.validation=0.1"), ("test", "")):
        if not len(data.splits[split]):
            raise UserError(f"{section['name']} has no {split} images, which a probe needs{hint}")
    state = {**task.state_dict(), "input_scale": task.input_scale, "input_shift": task.input_shift}
    data.cache_features(task.embed, f"embed {fingerprint(task, state)}")
    found = {split: _features(data.splits[split]) for split in ("train", "val", "test")}
    classes = len(data.spec.classes)
    known, labels = (torch.cat(parts) for parts in zip(found["train"], found["val"], strict=True))
    queries, true = found["test"]
    neighbors = min(neighbors, len(known))
    votes = knn_votes(known, labels, queries, neighbors, classes)
    scaled = _scaling(known)
    (train, train_labels), (held_out, held_out_labels) = found["train"], found["val"]
    penalty = choose_penalty(scaled(train), train_labels, scaled(held_out), held_out_labels, classes)
    weight, bias = fit_logistic(scaled(known), labels, classes, penalty)
    scores = scaled(queries) @ weight.T + bias
    knn, linear = (float((each.argmax(1) == true).double().mean()) for each in (votes, scores))
    counts = {split: len(labels) for split, (_, labels) in found.items()}
    return Probes(section["name"], queries.shape[1], counts, neighbors, knn, linear, penalty)


def _images_of(network: ImageSpec, data: ImageSpec) -> ImageSpec:
    """Images as a network takes them, with the classes of the data."""
    geometry = {name: getattr(network, name) for name in ("channels", "height", "width", "mean", "std")}
    return replace(data, **geometry)


def _features(split: Any) -> tuple[Tensor, Tensor]:
    """The cached features of a split, float32 [n, d], and its labels, int64 [n], without images that could not be read."""
    everything = torch.arange(len(split))
    counted = (split.images.used(everything) == everything) & ~split.is_excluded(everything)
    chosen = everything[counted]
    return next(split.images.batches(iter([chosen]))), split.labels[chosen]


def _scaling(features: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that shifts and scales features, all by one factor, so that these have zero mean and a mean squared norm of 1.

    The penalties then mean the same for every network.
    """
    mean = features.double().mean(0)
    scale = (features - mean).square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    return lambda values: (values - mean) / scale


def knn_votes(features: Tensor, labels: Tensor, queries: Tensor, k: int, classes: int) -> Tensor:
    """Votes of the ``k`` most similar vectors, [n, classes]: each by exp(cosine similarity / 0.07) (Wu et al. 2018, section 3.4).

    Args:
        features: [N, d]; labels: int64 [N].
        queries: [n, d].
    """
    features = F.normalize(features)
    votes = queries.new_zeros(len(queries), classes)
    for part, of_part in zip(F.normalize(queries).split(QUERIES), votes.split(QUERIES), strict=True):
        similarity, nearest = (part @ features.T).topk(k)
        of_part.scatter_add_(1, labels[nearest], ((similarity - 1) / TEMPERATURE).exp())
    return votes


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: the minimum of mean cross-entropy + penalty / 2 * squared norm of the weights.

    Args:
        features: float64 [n, d]; labels: int64 [n].
        start: weights and biases to begin with; by default zeros.
        tolerance: largest component of the gradient at the end.

    Returns:
        Weights, float64 [classes, d], and biases, [classes].
    """
    weight, bias = start or (features.new_zeros(classes, features.shape[1]), features.new_zeros(classes))
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=tolerance, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return weight.detach(), bias.detach()


def choose_penalty(features: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor, classes: int) -> float:
    """The strongest of ``PENALTIES`` with the best accuracy on held-out images."""
    start, accuracies = None, []
    for penalty in PENALTIES:  # each begins where the one before ended
        weight, bias = start = fit_logistic(features, labels, classes, penalty, start)
        accuracies.append(float(((held_out @ weight.T + bias).argmax(1) == held_out_labels).double().mean()))
    return PENALTIES[accuracies.index(max(accuracies))]
