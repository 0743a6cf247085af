"""The classification task: cross-entropy on images of one class each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from zoo.config.recipe import Recipe
from zoo.core.counts import out_of
from zoo.core.errors import UserError
from zoo.core.fingerprint import fingerprint
from zoo.core.ranks import rank_zero_print
from zoo.metrics.class_metrics import ClassMetrics
from zoo.metrics.label_noise import label_suspects
from zoo.metrics.mean_loss import MeanLoss, proportion_error
from zoo.optim.losses import build_loss
from zoo.registry.registry import current_registry
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.library import LibraryModel
from zoo.tasks.prediction import Prediction, rank
from zoo.tasks.samples import SPLIT_NAMES, SampleImage, Samples, evenly_spread, part_of, require_some
from zoo.tasks.task import Task, compute_and_reset, to_pixels

CLASSES_FOR_TOP5 = 20  # below, the right class among five says little
# in a report: test or training images that are classified, and those of them that are shown
MOST_TESTED = 2000
SHOWN, SHOWN_MISTAKES, SHOWN_SUSPECTS = 12, 6, 12
SHOWN_IN_TRACKERS = 16
MOST_SUSPECTS = 0.3  # of the images: where more look mislabeled, it is the network that is wrong


@dataclass(frozen=True)
class Weights:
    """A pretrained state dict.

    Attributes:
        origin: where it comes from, for messages.
        state: weights by name.
        spec: of the images it was trained on, with their classes; None is unknown.
        objects: names under which the file holds something other than a tensor, with the type of that.
        note: which of several state dicts in a file this is, for the report.
    """

    origin: str
    state: dict[str, Tensor]
    spec: ImageSpec | None = None
    objects: dict[str, str] = field(default_factory=dict)
    note: str = ""


class Classifier(Task):
    """Images in, one score for each class out. A model implements ``__init__``, ``forward`` and ``stages``.

    A batch is a dict: ``images``, [N, C, H, W] with values from 0 to 255; ``labels``, int64 [N]; and, when images were mixed,
    ``targets``, [N, classes]. Images are normalized here, with the statistics of the spec, so that a trained network
    carries its own preprocessing with it. Where the backbone is frozen and images are the same in every epoch, ``images`` are
    the features in front of the head, [N, features], which were computed once.

    In any ``Trainer`` a batch may be a tuple ``(images, labels)``: images are uint8, or floating-point and scaled to [0, 1], as
    torchvision's ``ToTensor`` gives them; labels are int64 [N], or one-hot or probabilities [N, classes].

    Attributes:
        statistics_of_files: mean and std of the images, per channel and scaled to [0, 1], that files with weights of this
            network expect by custom; None is unknown.
        size_of_files: pixels a side of those images; 0 is unknown.
        left_out: the beginnings of names in such files that serve training alone and have no place here.
        repeats_gray: whether gray images become three equal channels in the network itself.
        library_model: how a library builds ``network``, if that is all that has weights; None for networks of the zoo.
    """

    task = "classification"
    monitor = "accuracy"
    directions = {"accuracy": "max", "accuracy_top5": "max", "loss": "min"}
    explain_command = "picture saliency {run} IMAGE..."
    statistics_of_files: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    size_of_files: int = 0
    left_out: ClassVar[tuple[str, ...]] = ()
    repeats_gray: ClassVar[bool] = False
    library_model: LibraryModel | None = None

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        # not in the state dict: they are part of the spec, and a published state dict fits with strict=True
        for name, value in _normalization(spec).items():
            self.register_buffer(name, value, persistent=False)
        self.criterion = build_loss(self.recipe, "cross-entropy")
        self.metrics = nn.ModuleDict({stage: _metrics(len(spec.classes)) for stage in ("val", "test")})
        self.class_metrics: ClassMetrics | None = None
        self.adds_metrics = False
        self._after_features: tuple[nn.Module, ...] = ()  # a tuple, since its modules have their place already

    # ------------------------------------------------------------------ weights that were learned before

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Normalize images by these statistics instead of those of the data; gray images by the mean over the colors."""
        if len(mean) != self.spec.channels:
            mean, std = ((sum(values) / len(values),) * self.spec.channels for values in (mean, std))
        self.spec = replace(self.spec, mean=mean, std=std)
        for name, value in _normalization(self.spec).items():
            getattr(self, name).copy_(value)

    def head_names(self) -> set[str]:
        """The names of the head's weights in the state dict."""
        *_, head = self.stages().values()
        own = {id(parameter) for parameter in head.parameters()}
        return {name for name, parameter in self.named_parameters(remove_duplicate=False) if id(parameter) in own}

    def pretrained_weights(self) -> Weights:
        """The pretrained weights that come with this network, under its own names.

        Raises:
            UserError: there are none.
        """
        raise UserError(f"{type(self).__name__} has no pretrained weights: name a run that trained it")

    def converted_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """A state dict as the network's library itself would load it: old names renamed, positions resampled to the image size.

        None if the library does not convert such weights.
        """
        return None

    def load_pretrained_weights(self) -> None:
        """Load the pretrained weights and their normalization statistics; the head stays as it is.

        Raises:
            UserError: as ``pretrained_weights`` does.
        """
        published, head = self.pretrained_weights(), self.head_names()
        body = {name: value for name, value in published.state.items() if name not in head}
        self.load_state_dict({**body, **{name: value for name, value in self.state_dict().items() if name in head}})
        self.set_normalization(published.spec.mean, published.spec.std)

    # ------------------------------------------------------------------ features of a frozen backbone

    def prepare(self, data: Any) -> None:
        """Replace images by features if the backbone is frozen and they are the same in every epoch.

        Raises:
            UserError: the data mixes labels, and the loss takes one label per image.
        """
        recipe = self.recipe
        mixing = getattr(getattr(data, "augmentation", None), "mixing", ())
        if mixing and recipe.loss and "soft-targets" not in current_registry().find("loss", recipe.loss).tags:
            raise UserError(f"data.augment={data.augment}: recipe.loss={recipe.loss} takes one label per image: omit {mixing[0]}")
        if recipe.freeze != "backbone" or recipe.frozen_norms != "keep" or getattr(data, "augment", "") != "none":
            return
        was_training = self.training
        self.eval()
        after = self._what_follows_the_features()
        if after:
            body = {name: value for name, value in self.state_dict().items() if name not in self.head_names()}
            body |= {"input_scale": self.input_scale, "input_shift": self.input_shift}
            data.cache_features(self._features, fingerprint(self, body))
        else:
            rank_zero_print(
                "features of the frozen backbone are not cached, and each epoch computes them again: this network does more with "
                "them than its last layers"
            )
        self._after_features = after
        self.train(was_training)

    def _features(self, images: Tensor) -> Tensor:
        """Input of the head for images [N, C, H, W], in evaluation."""
        *_, head = self.stages().values()
        given: list[Tensor] = []
        with head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0])):
            self(self.normalize(images.to(self.device)))
        return given[0]

    @torch.no_grad()
    def _what_follows_the_features(self) -> tuple[nn.Module, ...]:
        """The dropout in front of the head, the head, and the layers behind it, such as the pool of a convolutional head.

        Nothing if they do not give the same as the network, which then does more than that with the features.
        """
        *_, head = self.stages().values()
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            if module is head or head in seen or isinstance(module, nn.Dropout):
                seen[module] = inputs[0], out

        with ExitStack() as hooks:
            for module in self.modules():
                if module is head or next(module.children(), None) is None:
                    hooks.enter_context(module.register_forward_hook(note))
            logits = self(self.normalize(self.example_batch(2)["images"].to(self.device)))
        if head not in seen:
            return ()
        features, order = seen[head][0], [*seen]
        place = order.index(head)
        # in evaluation dropout hands on what it is given
        silencing = [module for module in order[:place] if seen[module][1].data_ptr() == features.data_ptr()]
        flatten = [nn.Flatten()] if seen[order[-1]][1].ndim > 2 else []
        values, after = features, (*silencing, *order[place:], *flatten)
        for module in after:
            values = module(values)
        return after if torch.equal(values, logits) else ()

    # ------------------------------------------------------------------ the network

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except (RuntimeError, AssertionError) as error:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
            if any(each.dtype == torch.uint8 for each in given):
                raise UserError(
                    f"{type(self).__name__} takes normalized images, and these are uint8: "
                    "model(model.normalize(images)) gives their logits, model.predict_images(images) their classes"
                ) from error
            if given and given[0].shape[1:] != self.spec.shape and not isinstance(error, torch.OutOfMemoryError):
                takes, these = ("x".join(map(str, shape)) for shape in (self.spec.shape, given[0].shape[1:]))
                raise UserError(f"{type(self).__name__} takes images of {takes}, and these are {these}") from error
            raise

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels from 0 to 255 to zero mean and unit deviation, [N, C, H, W], in the memory format of the network."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        if images.is_floating_point():
            normalized = (images * self.input_scale + self.input_shift).to(self.input_scale.dtype)
            return normalized.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
        return images.to(self.input_scale.dtype).mul_(self.input_scale).add_(self.input_shift).to(memory_format=layout)

    def feature_extractor(self) -> nn.Module:
        """The layers of ``forward_features`` as one module, which shares its parameters with this one.

        Raises:
            UserError: the network has no feature map.
        """
        raise UserError(f"{type(self).__name__} has no feature map: use a convolutional network or a transformer")

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map [N, features, rows, columns] of normalized images [N, C, H, W], without the head; as in timm.

        Raises:
            UserError: the network has no feature map.
        """
        return self.feature_extractor()(images)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The score of each class, [N, classes], of the images of a batch or of the features in their place."""
        if not self._after_features:
            return self(self.normalize(batch["images"]))
        values = batch["images"]
        for module in self._after_features:
            values = module(values)
        return values

    def calibrated_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The logits divided by the temperature of the spec, float32 [N, classes]; their softmax is the probability."""
        logits = self.logits(batch).float()
        return logits if self.spec.temperature == 1 else logits / self.spec.temperature

    def batch_from_tuple(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if self.training not in self._checked_stages and images.is_floating_point():
            self._warn_of_range(images)
        batch = {"images": to_pixels(images)}
        if labels is None:
            return batch
        if labels.is_floating_point() or labels.shape[1:] not in ((), (1,)):
            classes = len(self.spec.classes)
            if labels.shape[1:] != (classes,):
                these = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
                raise UserError(f"labels are classes, int64 [N], or probabilities [N, {classes}], and these are {these}")
            return {**batch, "labels": labels.argmax(1), "targets": labels.to(self.dtype)}
        return {**batch, "labels": labels.long().view(len(labels))}

    def check_batch(self, batch: dict[str, Tensor]) -> None:
        images, labels, targets = batch["images"], batch.get("labels"), batch.get("targets")
        name, channels, classes = type(self).__name__, self.spec.channels, len(self.spec.classes)
        if not self._after_features and (images.dim() != 4 or images.shape[1] != channels):
            shape = ", ".join(map(str, images.shape))
            raise UserError(f"{name} takes images [N, {channels}, H, W], and these are [{shape}]")
        if targets is not None and self.recipe.loss in (None, "cross-entropy"):
            sums = targets.float().sum(1)
            if (sums - 1).abs().max() > 0.01:
                raise UserError(
                    f"labels [N, {classes}] are probabilities of the classes, and these have a sum of {float(sums[0]):g}"
                )
        if labels is not None:
            strange = labels[(labels != IGNORE) & ((labels < 0) | (labels >= classes))]
            if len(strange):
                raise UserError(f"{name} has the classes 0 to {classes - 1}, and a label is {int(strange[0])}")

    def _warn_of_range(self, images: Tensor) -> None:
        low, high = (float(value) for value in images.aminmax())
        if low < 0 or high > 1:
            remedy = "leave out the normalization" if low < 0 else "divide by 255 or pass uint8"
            warnings.warn(
                f"images have values from {low:.3g} to {high:.3g}, and {type(self).__name__} takes pixels scaled to [0, 1] "
                f"(or uint8), which it normalizes itself: {remedy}",
                stacklevel=1,
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, labels = self.logits(batch), batch["labels"]
        # for mixed images the loss takes the soft targets, and accuracy the unmixed label
        loss = self.loss(logits, batch.get("targets", labels))
        return self.objective(loss, len(labels), accuracy=(logits.detach().argmax(1) == labels).sum())

    @property
    def chance_classes(self) -> int | None:
        is_cross_entropy = self.recipe.loss in (None, "cross-entropy") and type(self).loss is Classifier.loss
        return len(self.spec.classes) if is_cross_entropy else None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss; ``targets`` are labels, [N], or of mixed images probabilities, [N, classes]."""
        smoothing = {"label_smoothing": self.recipe.label_smoothing} if self.recipe.label_smoothing else {}
        return self.criterion(logits, targets, reduction="mean", **smoothing)

    def test_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample in evaluation, [N]; what it is where the label is ``IGNORE`` does not matter."""
        return self.criterion(logits, labels, reduction="none")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """The probability of each class, [N, classes]."""
        return self.calibrated_logits(batch).softmax(1)

    @property
    def prediction_shape(self) -> tuple[int, ...]:
        return (len(self.spec.classes),)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, *self.spec.shape), generator=generator, dtype=torch.uint8)
        return {"images": images, "labels": torch.randint(0, len(self.spec.classes), (n,), generator=generator)}

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, labels = self.calibrated_logits(batch), batch["labels"]
        for name, metric in self.metrics[stage].items():
            if name == "loss":
                metric.update(self.test_losses(logits, labels), labels != IGNORE)
            else:
                metric.update(logits, labels)
        if stage == "test" and self.class_metrics is not None:
            self.class_metrics.update(logits, labels)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        values = compute_and_reset(self.metrics[stage])
        if stage == "test" and self.class_metrics is not None:
            calibration_error, self.details = self.class_metrics.compute_and_reset(self.spec.classes)
            if self.adds_metrics:
                values["calibration_error"] = calibration_error
        return values

    def standard_error(self, value: float) -> float:
        return proportion_error(value, self.metrics["val"]["loss"].samples)

    def collect_details(self, metrics: bool = True) -> None:
        self.adds_metrics = metrics
        self.class_metrics = ClassMetrics(len(self.spec.classes), IGNORE).to(self.device)

    # ------------------------------------------------------------------ predictions

    @property
    def use_command(self) -> str:
        return "picture regions {run}" if self.spec.are_points else "predict {run} IMAGE..."

    @property
    def review_command(self) -> str:
        return "report {run}" if self.recipe.epochs > 1 else "picture confusion {run}"

    def predict_images(self, images: Tensor, top: int = 3) -> list[Prediction]:
        """The ``top`` most probable classes of each image."""
        return rank(self.predict_step({"images": images}), self.spec.classes, "class", top)

    def predict_split(self, data: Any, split: str, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Classify ``most`` images of a split: their indices [n], labels [n] and probabilities [n, classes], on the CPU."""
        samples = data.splits[split]
        chosen = evenly_spread(len(samples), most)
        batches = samples.images.batches(iter(chosen.split(data.batch_size)))
        probabilities = [self.predict_step({"images": images.to(self.device)}).cpu() for images in batches]
        return chosen, samples.labels[chosen].cpu(), torch.cat(probabilities)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Images, the most confident mistakes first, and training images whose labels look wrong."""
        samples, classes = data.splits[split], self.spec.classes
        kind = f"{SPLIT_NAMES[split]} {'points' if self.spec.are_points else 'images'}"
        require_some(samples, kind)
        chosen, labels, probabilities = self.predict_split(data, split, MOST_TESTED)
        confidence, predicted = probabilities.max(1)
        wrong = predicted != labels
        about = f"The best checkpoint is correct on {out_of(int((~wrong).sum()), len(chosen), kind)}"
        about += "." if len(chosen) == len(samples) else f", evenly spaced among all {len(samples):,}."
        pairs = labels * len(classes) + predicted
        confusion = torch.bincount(pairs, minlength=len(classes) ** 2).view(len(classes), -1)
        report = Samples(about, classes=classes, confusion=confusion)
        if not self.spec.are_points:
            mistakes = wrong.nonzero()[:, 0]
            mistakes = mistakes[confidence[mistakes].argsort(descending=True, stable=True)][:SHOWN_MISTAKES].tolist()
            others = evenly_spread(len(chosen), SHOWN - len(mistakes)).tolist()
            shown = torch.tensor(list(dict.fromkeys([*mistakes, *others])))
            report.images = [
                SampleImage(image, classes[label], classes[guess], label == guess, probability)
                for image, label, guess, probability in _rows(
                    samples, chosen[shown], labels[shown], predicted[shown], confidence[shown]
                )
            ]
            report.about_labels, report.suspects = self.suspect_labels(data)
        return report

    def suspect_labels(self, data: Any) -> tuple[str, list[SampleImage]]:
        """Summarize the training labels that look wrong, with the most suspicious images."""
        split, classes = data.splits["train"], self.spec.classes
        chosen, labels, probabilities = self.predict_split(data, "train", MOST_TESTED)
        suspects, predicted = label_suspects(labels, probabilities)
        examined = part_of(len(chosen), len(split), "training images")
        if not len(suspects):
            return f"Of {examined} none looks mislabeled.", []
        if len(suspects) > MOST_SUSPECTS * len(chosen):
            return f"Of {examined}, {len(suspects):,} look mislabeled: the network is not accurate enough to judge labels.", []
        about = (
            f"Of {examined}, {len(suspects):,} look{'s' if len(suspects) == 1 else ''} mislabeled: another class is more "
            "probable than the label, and at least as probable as it is on average for images of that class. "
            f"{'Below are the most suspicious. ' if len(suspects) > SHOWN_SUSPECTS else ''}"
            "Check before you change a label: the network may be wrong, the more so the less accurate it is."
        )
        shown, predicted = suspects[:SHOWN_SUSPECTS], predicted[:SHOWN_SUSPECTS]
        places = chosen[shown]
        rows = _rows(split, places, labels[shown], predicted, probabilities[shown, predicted])
        names = (_name(data, place) for place in places.tolist())
        return about, [
            SampleImage(image, classes[label], classes[guess], None, probability, name)
            for (image, label, guess, probability), name in zip(rows, names, strict=True)
        ]

    def validation_samples(self, data: Any) -> Samples:
        if self._after_features or self.spec.are_points:  # batches hold features, or points
            return Samples()
        samples, classes = data.splits["val"], self.spec.classes
        if not len(samples):
            return Samples(missing="No samples: there are no validation images.")
        self.eval()
        with torch.inference_mode():
            chosen, labels, probabilities = self.predict_split(data, "val", SHOWN_IN_TRACKERS)
        confidence, predicted = probabilities.max(1)
        rows = _rows(samples, chosen, labels, predicted, confidence)
        images = [SampleImage(image, classes[label], classes[guess], label == guess, sure) for image, label, guess, sure in rows]
        return Samples(f"{len(images)} images, evenly spaced in the validation split.", images=images)


def _rows(split: Any, indices: Tensor, *columns: Tensor) -> Iterator[tuple[Any, ...]]:
    """The images of a split at these indices, each with its values."""
    images = next(split.images.batches(iter([indices]))).cpu()
    return zip(images, *(column.tolist() for column in columns), strict=True)


def _name(data: Any, index: int) -> str:
    """The file of a training image, or its index in the split."""
    files = data.splits["train"].files
    if not files:
        return f"training image {index}"
    file = Path(files[index])
    return str(file.relative_to(data.root)) if data.root and file.is_relative_to(data.root) else str(file)


def in_color(images: Tensor) -> Tensor:
    """Gray images, [N, 1, H, W], as three equal channels, for networks with RGB inputs; other images unchanged."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _normalization(spec: ImageSpec) -> dict[str, Tensor]:
    """Scale and offset, [1, C, 1, 1] each, that normalize pixels from 0 to 255."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return {"input_scale": 1 / (255 * std), "input_shift": -mean / std}


def _metrics(classes: int) -> nn.ModuleDict:
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE, validate_args=False),
        "loss": MeanLoss(),
    }
    if classes >= CLASSES_FOR_TOP5:
        metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", ignore_index=IGNORE, validate_args=False)
    return nn.ModuleDict(metrics)


def require_classifier(task: Task, named: str, command: str) -> None:
    """Refuse tasks other than image classification.

    Raises:
        UserError: it has another task.
    """
    if not isinstance(task, Classifier):
        raise UserError(f"{named} is for {task.task}: {command} is for image classifiers")
    if task.spec.are_points:
        raise UserError(f"{named} classifies points in the plane: {command} is for image classifiers")
