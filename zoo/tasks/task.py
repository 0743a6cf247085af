"""The base class of all models: training step, metrics, optimizer and schedule around a network.

The hot loop stays bare: sums stay on the device and cross to the host only when a record is due.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.layers.checkpointing import checkpoint_blocks
from zoo.metrics.mean_loss import MeanLoss
from zoo.metrics.value_errors import ValueErrors
from zoo.optim.optimizers import build_optimizer, require_fitting
from zoo.optim.parameter_groups import decay_groups, scaled_lr, stage_groups
from zoo.optim.penalties import penalty
from zoo.optim.schedules import lr_factor
from zoo.registry.entry import registered_recipe
from zoo.spec import Spec, spec_from_primitives, spec_to_primitives
from zoo.tasks.prediction import Prediction
from zoo.tasks.records import RecordingModule, RunningMeans
from zoo.tasks.samples import SPLIT_NAMES, SampleImage, Samples, evenly_spread, require_some

SAMPLES = 8  # test images in a report


def compute_and_reset(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Compute metrics over all processes, each from its own sums and counts, and reset them."""
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    for metric in metrics.values():
        metric.reset()
    return values


USED_IN_ONE_PASS = {"batch_size", "precision", "seed", "monitor", "optimizer_args"}  # the last are of the default optimizer


def _refuse_what_one_pass_does_not_use(recipe: Recipe) -> None:
    unused = {"epochs": 1, **{key: field.default for key, field in Recipe.model_fields.items() if key != "epochs"}}
    for key in unused.keys() - USED_IN_ONE_PASS:
        if getattr(recipe, key) != unused[key]:
            raise UserError(f"recipe.{key}={getattr(recipe, key)}: this model trains in one pass without an optimizer: omit it")


class Task(RecordingModule):
    """A network with its loss, metrics, optimizer and schedule, and everything else that depends on the kind of work.

    A task derives from it and implements ``training_step``, ``evaluation_step``, ``compute_metrics``, ``predict_step`` and
    ``example_batch``. A model derives from a task and implements ``__init__``, ``forward`` and ``stages``.

    In any ``Trainer`` a batch may also be a tuple, as of a ``TensorDataset``, where a task implements ``batch_from_tuple``.

    A task whose inputs are single images also writes ``predict_images(images, **options)``, a list of ``Prediction`` of uint8
    images [n, C, H, W]: one for each, or the same number for each, in order. ``zoo predict`` calls it, with its flags as options.

    Args:
        spec: what the data is.
        recipe: how it is trained; by default as the class is registered.

    Attributes:
        task: its name, as in ``register_model(..., task="classification")``.
        monitor: the validation metric that selects the best checkpoint, as in "accuracy", where the recipe names no other.
        directions: metric -> "max" or "min".
        channels_last: whether images are stored so, which convolutions are faster with.
        has_class_metrics: whether ``details`` of a test have metrics of each class, under ``classes``.
        one_pass: whether it reads each training sample once, unchanged, and has no gradients.
        weighs_classes: whether its loss takes ``recipe.class_weights``, and ``has_teachers``, ``recipe.teacher``.
        use_command: the command that a trained model is used with, after ``zoo``; ``{run}`` is its run.
        review_command: the command that shows how well it works.
        explain_command: the command that explains a prediction for an image; empty for none.
    """

    task: ClassVar[str]
    monitor: str
    directions: dict[str, str]
    channels_last: ClassVar[bool] = False
    has_class_metrics: ClassVar[bool] = False
    one_pass: ClassVar[bool] = False
    weighs_classes: ClassVar[bool] = False
    has_teachers: ClassVar[bool] = False
    use_command: str = "predict {run} IMAGE..."
    review_command: str = "report {run}"
    explain_command: ClassVar[str] = ""

    # what tasks of images have, for type checkers
    normalize: Callable[[Tensor], Tensor]
    predict_images: Callable[..., list[Prediction]]
    _options: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Note the options with which a model is built, so that ``load_from_checkpoint`` can build it again."""
        task = super().__new__(cls)
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
        given = dict(zip((each.name for each in parameters), args, strict=False))
        task._options = {**defaults, **given, **options}
        for name in ("spec", "recipe"):
            task._options.pop(name, None)
        return task

    def __init__(self, spec: Spec, recipe: Recipe | None = None) -> None:
        super().__init__()
        recipe = recipe or Recipe(**registered_recipe(type(self), self._options))
        self.save_hyperparameters({**self._options, "recipe": recipe.model_dump(mode="json")})
        if self.one_pass:
            _refuse_what_one_pass_does_not_use(recipe)
            self.automatic_optimization = False  # there is nothing to optimize
        for key, is_taken in (("class_weights", self.weighs_classes), ("teacher", self.has_teachers)):
            if getattr(recipe, key) and not is_taken:
                raise UserError(f"recipe.{key} is for classification, and this is {self.task}: omit it")
        self.spec = spec
        self.recipe = recipe
        self.monitor = recipe.monitor or self.monitor
        self._samples_of_step = 0
        self._evaluations = 0  # of the batch, in the optimizer's step
        self.details: dict[str, Any] = {}  # of the last test, after ``collect_details``
        self._frozen: dict[str, nn.Module] = {}
        self._checked_stages: set[bool] = set()  # whether it was training, where a batch has been checked

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook some fifty times a step, for which nn.Module looks through all parameters and modules
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @classmethod
    def with_loop(cls, task: str) -> type[Self]:
        """The class with the loop for data of ``task``: where models bring their loop along, the class itself."""
        return cls

    def stages(self) -> dict[str, nn.Module]:
        """The modules that hold the parameters, from input to output, the head last.

        Freezing and layer-wise learning rates are defined on them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no stages")

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """A random batch of ``n`` samples made from the spec alone, for checks, profiling and export."""
        raise NotImplementedError(f"{type(self).__name__} has no example batches")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Predictions for the samples of a batch, [n, ...], such as probabilities."""
        raise NotImplementedError(f"{type(self).__name__} does not predict")

    @property
    def prediction_shape(self) -> tuple[int, ...] | None:
        """The shape of ``predict_step`` for one sample, where the spec determines it."""
        return None

    @property
    def chance_classes(self) -> int | None:
        """The number of classes whose logarithm is the loss of a random guess; None where the loss is another."""
        return None

    @property
    def has_pretrained_parts(self) -> bool:
        """Whether parts of the network may be initialized from another run and frozen by an option."""
        return type(self).load_pretrained is not Task.load_pretrained

    def cannot(self, name: str, lacking: str) -> str:
        """The message that a model, by its name, is for another kind of work: what it lacks, and what to use it with."""
        return f"{name} is for {self.task} and {lacking}: use it with zoo {self.use_command.format(run='RUN')}"

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Predictions for a split of ``data`` to show in a report; by default for some of its images."""
        if not hasattr(self, "predict_images"):
            return Samples(missing=f"No samples: {self.task} has none to show in a report.")
        samples, named = data.splits[split], SPLIT_NAMES[split]
        require_some(samples, f"{named} images")
        chosen = evenly_spread(len(samples), SAMPLES)
        images = next(samples.images.batches(iter([chosen]))).cpu()
        predictions = self.predict_images(images.to(self.device))
        rows = zip(images, chosen.tolist(), predictions, strict=True)
        shown = [SampleImage(image, f"{named} image {index}", str(prediction)) for image, index, prediction in rows]
        return Samples(f"Predictions for {len(shown)} images, evenly spaced in the {named} split.", images=shown)

    def validation_samples(self, data: Any) -> Samples:
        """Predictions for the validation split of ``data`` to show in an experiment tracker."""
        try:
            with torch.inference_mode():
                return self.eval().report_samples(data, "val")
        except UserError as error:
            return Samples(missing=f"No samples: {error}.")

    def check_data_options(self, data: Any) -> None:
        """Check the options of the data, which may not have been read yet.

        Raises:
            UserError: this model cannot take such data.
        """

    # ------------------------------------------------------------------ any Trainer, any loader

    def batch_from_tuple(self, *parts: Tensor) -> dict[str, Tensor]:
        """A batch as this task takes it, of the parts of a tuple such as images and labels; in prediction, of the inputs alone.

        Raises:
            UserError: this task takes dicts only, or the parts do not fit.
        """
        raise UserError(f"{type(self).__name__} takes batches as dicts of {', '.join(self.example_batch(1))}, not as tuples")

    def check_batch(self, batch: dict[str, Tensor]) -> None:
        """Check the first batch of training, and that of evaluation, against the spec.

        Raises:
            UserError: the model cannot take it.
        """

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        # not in one of the three hooks that this calls: a data module that has such a hook too would replace it
        batch = super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        if not isinstance(batch, dict):
            batch = self.batch_from_tuple(*(batch if isinstance(batch, (tuple, list)) else (batch,)))
        if self.training not in self._checked_stages:
            self.check_batch(batch)
            self._checked_stages.add(self.training)
        return {name: self._in_own_dtype(value) for name, value in batch.items()}

    def _in_own_dtype(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["spec"] = spec_to_primitives(self.spec)
        checkpoint["class"] = type(self).__name__

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: str | Path, map_location: Any = None, *, strict: bool = True, **options: Any
    ) -> Self:
        """Load a model from a checkpoint, of a run or of any ``Trainer``.

        Args:
            map_location: the device of the weights, as in ``torch.load``; by default where they were.
            strict: whether the names of all weights must match.
            options: in place of those in the checkpoint.

        Raises:
            UserError: the checkpoint is of another class, or not of a model of the zoo.
        """
        checkpoint = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        saved = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if not {"spec", "recipe"} <= saved.keys():
            raise UserError(f"{checkpoint_path} has no spec and recipe: it is not a checkpoint of {cls.__name__}")
        saved = {**saved, "spec": spec_from_primitives(saved["spec"]), "recipe": Recipe(**saved["recipe"]), **options}
        try:
            task = cls(**saved)
            task.load_state_dict(checkpoint["state_dict"], strict=strict)
        except (TypeError, RuntimeError, UserError) as error:
            saved_class = checkpoint.get("class", cls.__name__)
            if saved_class == cls.__name__:
                raise
            remedy = f"{saved_class}.load_from_checkpoint reads it"
            raise UserError(f"{checkpoint_path} is a checkpoint of {saved_class}, not of {cls.__name__}: {remedy}") from error
        return task.to(map_location) if isinstance(map_location, (str, torch.device)) else task

    def part(self, batch: dict[str, Tensor], samples: slice) -> dict[str, Tensor]:
        """Select samples of a batch; what they share is kept as it is."""
        return {name: value[samples] for name, value in batch.items()}

    def load_pretrained(self, open_run: Callable[[str], Task]) -> None:
        """Load weights of other runs; called once, when a new run begins.

        Args:
            open_run: returns the trained model of a run, by name or path.

        Raises:
            UserError: there are none, or they do not fit.
        """

    def prepare(self, data: Any) -> None:
        """Prepare the data, read and split, before the first step, when the weights are loaded: a task may replace images by
        features of a frozen part of the network.

        Raises:
            UserError: this model cannot learn from it.
        """

    # ------------------------------------------------------------------ freezing

    def freeze(self, epoch: int) -> None:
        """Freeze and unfreeze stages as the recipe plans for an epoch, from 0. Frozen stages are in evaluation mode, unless the
        recipe keeps updating their norms.
        """
        if self.recipe.freeze == "none":
            return
        stages = self.stages()
        names = self.recipe.freezing.frozen(tuple(stages), epoch)
        for stage in self._frozen.values():
            stage.requires_grad_(True)
        self._frozen = {name: stages[name].requires_grad_(False) for name in names}
        self.train(self.training)

    def train(self, mode: bool = True) -> Task:
        super().train(mode)
        if mode and self.recipe.frozen_norms == "keep":
            for stage in self._frozen.values():
                stage.train(False)
        return self

    # ------------------------------------------------------------------ optimizer

    def configure_optimizers(self) -> dict[str, Any] | None:
        if self.one_pass:
            return None
        trainer = self.trainer
        global_batch = self.recipe.batch_size * self.recipe.accumulate_grad_batches * trainer.world_size
        lr = scaled_lr(self.recipe, global_batch)
        # all that can ever be trained is in it from the start, so that schedules and a resume find the same groups
        # fused SGD takes no group in which some parameters have moved before and others, which are unfrozen now, have not
        by_stage = self.recipe.layer_decay < 1 or self.recipe.freezing.changes
        groups = stage_groups(self.stages(), self.recipe, lr) if by_stage else decay_groups(self.parameters(), self.recipe)
        optimizer = build_optimizer(groups, self.recipe, lr)
        require_fitting(optimizer, self, self.recipe, trainer.world_size)
        total = trainer.estimated_stepping_batches
        # a training without an end has no schedule
        factor = lr_factor(self.recipe, int(total)) if math.isfinite(total) else lambda step: 1.0
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ------------------------------------------------------------------ training

    def objective(self, loss: Tensor, n: int, **sums: Tensor) -> Tensor:
        """Return what is minimized, the mean loss over ``n`` samples plus the recipe's penalty on the weights, and record both.

        Other ``sums`` over the samples are recorded as means.
        """
        added = penalty(self.parameters(), self.recipe)
        if added is not None:
            sums["penalty"] = added.detach() * n
        if self._evaluations <= 1:  # as with other optimizers, before the step
            self.running.add(n, loss=loss.detach() * n, **sums)
            self._samples_of_step += n
        return loss if added is None else loss + added

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Keep what is trained on in between out of the records."""
        running, samples = self.running, self._samples_of_step
        self.running = RunningMeans()
        try:
            yield
        finally:
            self.running, self._samples_of_step = running, samples

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the norm of the gradient, and record the fraction of clipped steps, as ``train/clipped``.

        Without a limit of the ``Trainer`` that of the recipe holds.
        """
        gradient_clip_val = gradient_clip_val or self.recipe.gradient_clip_val
        if gradient_clip_val and isinstance(self.trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
            self.running.add(0, clipped=(norm > gradient_clip_val) * self._samples_of_step)
        else:  # a strategy that holds parts of the gradient knows its norm
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self._samples_of_step = 0

    def on_train_start(self) -> None:
        super().on_train_start()
        self._follow_freezing_plan()  # an epoch that is resumed in its middle does not start again

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._follow_freezing_plan()

    def _follow_freezing_plan(self) -> None:
        if self.recipe.freezing.changes:
            self.freeze(self.trainer.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._evaluations = 0
        self.seed_step(batch_idx)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Let an optimizer that evaluates a batch several times, as L-BFGS does, draw the same random numbers each time."""

        def evaluate() -> Any:
            if self._evaluations:
                self.seed_step(batch_idx)
            self._evaluations += 1
            return optimizer_closure()

        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure and evaluate)

    def seed_step(self, batch_idx: int) -> None:
        """Give the global generators, from which dropout and its like draw, the seed of this batch of the epoch.

        So history does not matter.
        """
        trainer = self.trainer
        seed = derive_seed(self.recipe.seed, "step", trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    # ------------------------------------------------------------------ evaluation

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        """Update the metrics of a stage, "val" or "test", with a batch."""
        raise NotImplementedError(f"{type(self).__name__} does not evaluate")

    def compute_metrics(self, stage: str) -> dict[str, float]:
        """Compute the metrics of a stage over all processes, and reset them."""
        raise NotImplementedError(f"{type(self).__name__} does not evaluate")

    def standard_error(self, value: float) -> float:
        """Standard error of the monitored metric, whose value in the last validation this is; 0 where it is unknown."""
        return 0.0

    def collect_details(self, metrics: bool = True) -> None:
        """Compute ``details`` in addition to metrics in the following tests, as plain data; they may take longer.

        Args:
            metrics: whether to add metrics, too.
        """

    def setup(self, stage: str) -> None:
        if self.device.type != "mps":  # which has no float64
            for module in self.modules():
                if isinstance(module, (MeanLoss, ValueErrors)):
                    module.set_dtype(torch.float64)
        if stage == "fit":
            if self.recipe.gradient_checkpointing and not checkpoint_blocks(self):
                name = type(self).__name__
                raise UserError(f"recipe.gradient_checkpointing=true: {name} has no sequence of blocks to run again: omit it")
            self.freeze(epoch=0)  # before the network is wrapped for several devices, which registers what requires gradients

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.evaluation_step("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.evaluation_step("test", batch)

    def on_validation_epoch_end(self) -> None:
        self.log_metrics("val", self.compute_metrics("val"))

    def on_test_epoch_end(self) -> None:
        self.log_metrics("test", self.compute_metrics("test"))
