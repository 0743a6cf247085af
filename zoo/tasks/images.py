"""What every network of images shares, whatever it learns: normalization, pretrained weights, its loop by name.

A network derives from ``ImageModel`` and says nothing about targets. The loop for them (a class that ``register_task`` names) is
chosen by the task of the spec when the network is built, so that one network learns classes, several labels or numbers.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, one_line
from zoo.optim.losses import build_loss
from zoo.registry.registry import current_registry
from zoo.spec import ImageSpec
from zoo.tasks.features import FeatureModel
from zoo.tasks.library import LibraryModel
from zoo.tasks.loops import joined, reduced
from zoo.tasks.outputs import Outputs
from zoo.tasks.pixels import normalization, to_pixels
from zoo.tasks.prediction import Prediction
from zoo.tasks.samples import Samples, evenly_spread
from zoo.tasks.task import Task
from zoo.tasks.weights import Weights


class ImageModel(FeatureModel):
    """Images in, a vector of outputs for each. A network implements ``__init__``, ``forward`` and ``stages``.

    A batch is a dict: ``images``, [N, C, H, W] with values from 0 to 255; ``labels``, [N, ...]; and, when images were mixed,
    ``targets``, [N, outputs]. Images are normalized here, with the statistics of the spec, so that a trained network
    carries its own preprocessing with it. Where the backbone is frozen and images are the same in every epoch, ``images`` are
    the features in front of the head, [N, features], which were computed once.

    A loop derives from it, too, and implements what depends on the labels: ``build_metrics``, ``labels_from_tuple``,
    ``check_labels``, ``training_sums``, ``predictions``, ``evaluation_step``, ``compute_metrics``, ``example_labels`` and
    ``predict_images``. ``ConvNet(spec)`` is of a class that derives from both ``ConvNet`` and the loop that is registered under
    ``spec.task``. A network may also derive from a loop: then it learns such labels alone.

    In any ``Trainer`` a batch may be a tuple ``(images, labels)``: images are uint8, or floating-point and scaled to [0, 1], as
    torchvision's ``ToTensor`` gives them.

    Attributes:
        default_loss: of the loop, where the recipe names none.
        views: functions of images whose predictions are averaged, in a test; a loop that can has ``merge_views``, which gives
            the outputs, [N, outputs], whose prediction is the mean of those of outputs [views, N, outputs].
        statistics_of_files: mean and std of the images, per channel and scaled to [0, 1], that files with weights of this
            network expect by custom; None is unknown.
        size_of_files: pixels a side of those images; 0 is unknown.
        left_out: the beginnings of names in such files that serve training alone and have no place here.
        repeats_gray: whether gray images become three equal channels in the network itself.
        library_model: how a library builds ``network``, if that is all that has weights; None for networks of the zoo.
    """

    explain_command = "picture saliency {run} IMAGE..."
    default_loss: ClassVar[str]
    statistics_of_files: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    size_of_files: int = 0
    left_out: ClassVar[tuple[str, ...]] = ()
    repeats_gray: ClassVar[bool] = False
    library_model: LibraryModel | None = None
    spec: ImageSpec

    def __new__(cls, *args: Any, **options: Any) -> Self:
        spec = args[0] if args else options.get("spec")
        chosen = cls.with_loop(spec.task) if isinstance(spec, ImageSpec) else cls
        return super().__new__(chosen, *args, **options)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduced(self, protocol)

    @classmethod
    def with_loop(cls, task: str) -> type[Self]:
        return joined(cls, current_registry().find("task", task).load())

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        # not in the state dict: they are part of the spec, and a published state dict fits with strict=True
        for name, value in normalization(spec).items():
            self.register_buffer(name, value, persistent=False)
        self.criterion = build_loss(self.recipe, self.default_loss)
        self._require_loss()
        self.build_metrics()
        self.views: Sequence[Callable[[Tensor], Tensor]] = ()

    def _require_loss(self) -> None:
        """Compute the loss of one sample: only then does a loss refuse an argument that is out of range.

        Raises:
            UserError: it does.
        """
        labels = self.example_labels(1, torch.Generator())
        try:
            self.criterion(torch.zeros(1, self.spec.outputs, device=labels.device), labels, reduction="none")
        except (ValueError, RuntimeError) as error:
            raise UserError(f"recipe.loss={self.recipe.loss or self.default_loss}: {one_line(error)}") from error

    # ------------------------------------------------------------------ for loops to implement

    @abstractmethod
    def build_metrics(self) -> None:
        """Set ``metrics``, a ModuleDict of those of ``val`` and of ``test``."""

    @abstractmethod
    def labels_from_tuple(self, labels: Tensor) -> dict[str, Tensor]:
        """Columns of a batch for labels of somebody else.

        Raises:
            UserError: they do not fit.
        """

    @abstractmethod
    def check_labels(self, batch: dict[str, Tensor]) -> None:
        """Check labels, and targets if images were mixed, against the spec.

        Raises:
            UserError: they do not fit.
        """

    @abstractmethod
    def training_sums(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sums over a training batch whose means are recorded, without gradient."""

    @abstractmethod
    def predictions(self, logits: Tensor) -> Tensor:
        """What ``predict_step`` gives for outputs of the network, float32."""

    @abstractmethod
    def to_predictions(self, predictions: Tensor) -> list[Prediction]:
        """Rows of ``predict_step``, [N, outputs], as named values for each image, with the options of ``predict_images``."""

    @abstractmethod
    def describe_outputs(self) -> Outputs:
        """What the outputs are, for exported files, model cards and servers."""

    def decisions(self, predictions: Tensor) -> Tensor | None:
        """What is decided for each image by rows of ``predict_step``, [N, ...]; None where they are the answer themselves."""
        return None

    @abstractmethod
    def example_labels(self, n: int, generator: torch.Generator) -> Tensor:
        """Random labels for ``example_batch``."""

    # ------------------------------------------------------------------ weights that were learned before

    def set_normalization(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Normalize images by these statistics instead of those of the data; gray images by the mean over the colors."""
        if len(mean) != self.spec.channels:
            mean, std = ((sum(values) / len(values),) * self.spec.channels for values in (mean, std))
        self.spec = replace(self.spec, mean=mean, std=std)
        for name, value in normalization(self.spec).items():
            getattr(self, name).copy_(value)

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

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """The outputs, [N, outputs], for the images of a batch or the features in their place, over all ``views``."""
        if self.views:
            images = batch["images"]
            return self.merge_views(torch.stack([self(self.normalize(view(images))).float() for view in self.views]))
        if not self._after_features:
            return self(self.normalize(batch["images"]))
        values = batch["images"]
        for module in self._after_features:
            values = module(values)
        return values

    def batch_from_tuple(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        if self.training not in self._checked_stages and images.is_floating_point():
            self._warn_of_range(images)
        return {"images": to_pixels(images), **({} if labels is None else self.labels_from_tuple(labels))}

    def check_batch(self, batch: dict[str, Tensor]) -> None:
        images, channels = batch["images"], self.spec.channels
        if not self._after_features and (images.dim() != 4 or images.shape[1] != channels):
            shape = ", ".join(map(str, images.shape))
            raise UserError(f"{type(self).__name__} takes images [N, {channels}, H, W], and these are [{shape}]")
        if "labels" in batch:
            self.check_labels(batch)

    def _warn_of_range(self, images: Tensor) -> None:
        low, high = (float(value) for value in images.aminmax())
        if low < 0 or high > 1:
            remedy = "leave out the normalization" if low < 0 else "divide by 255 or pass uint8"
            warnings.warn(
                f"images have values from {low:.3g} to {high:.3g}, and {type(self).__name__} takes pixels scaled to [0, 1] "
                f"(or uint8), which it normalizes itself: {remedy}",
                stacklevel=1,
            )

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, labels = self.logits(batch), batch["labels"]
        loss = self.batch_loss(logits, batch)
        return self.objective(loss, len(labels), **self.training_sums(logits.detach(), labels))

    def batch_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The mean training loss of a batch: for mixed images of the soft targets, where metrics take the unmixed label."""
        return self.loss(logits, batch.get("targets", batch["labels"]))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean training loss; ``targets`` are labels, or of mixed images [N, outputs]."""
        return self.criterion(logits, targets, reduction="mean", **self.loss_options())

    def loss_options(self) -> dict[str, Any]:
        """What the loss takes in training alone."""
        return {"label_smoothing": self.recipe.label_smoothing} if self.recipe.label_smoothing else {}

    def test_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample in evaluation, [N]; what it is where the label is ``IGNORE`` does not matter."""
        return self.criterion(logits, labels, reduction="none")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        return self.predictions(self.logits(batch).float())

    @property
    def prediction_shape(self) -> tuple[int, ...]:
        return (self.spec.outputs,)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, *self.spec.shape), generator=generator, dtype=torch.uint8)
        return {"images": images, "labels": self.example_labels(n, generator)}

    def validation_samples(self, data: Any) -> Samples:
        return Samples() if self._after_features else super().validation_samples(data)  # batches hold features

    def predict_split(self, data: Any, split: str, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Predict ``most`` images of a split: their indices [n], labels [n, ...] and predictions [n, outputs], on the CPU."""
        samples = data.splits[split]
        chosen = evenly_spread(len(samples), most)
        batches = samples.images.batches(iter(chosen.split(data.batch_size)))
        predictions = [self.predict_step({"images": images.to(self.device)}).cpu() for images in batches]
        return chosen, samples.labels[chosen].cpu(), torch.cat(predictions)


def require_image_model(task: Task, named: str, command: str) -> None:
    """Refuse tasks whose inputs are not single images.

    Raises:
        UserError: it has another task.
    """
    if not isinstance(task, ImageModel):
        raise UserError(f"{named} is for {task.task}: {command} is for image classifiers")
    if task.spec.are_points:
        raise UserError(f"{named} classifies points in the plane: {command} is for image classifiers")
