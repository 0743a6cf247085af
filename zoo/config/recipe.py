"""Hyper-parameters of training (``Recipe``), validated before torch is imported."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from zoo.config.freezing import Freezing

CLASS_WEIGHTS = {"balanced": 1.0, "inverse-sqrt": 0.5}  # name -> power of a class's size that its weight is divided by

EMA_DECAY = 0.999  # of an average that is asked for without its decay

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A group of settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(Section):
    """Hyper-parameters of training, apart from those of the model and the data."""

    epochs: int = Field(20, ge=1, description="passes over the training data")
    batch_size: int = Field(128, ge=1, description="samples per batch and device: images, or streams of text")
    accumulate_grad_batches: int = Field(1, ge=1, description="batches whose gradients are averaged for one optimizer step")
    optimizer: str = Field("adamw", description="optimizer; zoo list --optimizers shows all")
    optimizer_args: dict[str, Any] = Field({}, description="its arguments, as in optimizer_args.betas=[0.9,0.95]")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of this optimizer; norms and biases are exempt")
    l1: float = Field(0.0, ge=0, description="L1 penalty in the loss: l1 times the sum of absolute weights")
    l2: float = Field(
        0.0, ge=0, description="L2 penalty in the loss: l2 / 2 times the sum of squared weights; elastic net with l1"
    )
    decay_norms_and_biases: bool = Field(False, description="apply weight decay and penalties to norms and biases too")
    schedule: Literal["constant", "multistep", "cosine", "one-cycle"] = Field("cosine", description="learning-rate schedule")
    milestones: tuple[Fraction, ...] = Field(
        (0.5, 0.75), description="multistep: when the learning rate drops, as fractions of training"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="multistep: factor by which the learning rate drops")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warmup; one-cycle has its own (30%)")
    lr_base_batch_size: int | None = Field(
        None, ge=1, description="global batch size for which lr is given; lr is scaled linearly"
    )
    gradient_clip_val: float | None = Field(None, gt=0, description="maximum gradient norm")
    loss: str | None = Field(None, description="training loss; None is the default of the task; zoo list --losses shows all")
    loss_args: dict[str, Any] = Field({}, description="its arguments, as in loss_args.margin=0.5")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread evenly over all classes")
    class_weights: Literal["balanced", "inverse-sqrt"] | tuple[float, ...] | None = Field(
        None, description="class weights in the training loss: balanced, inverse-sqrt, or a list; None for equal ones"
    )
    teacher: str = Field(
        "", description="teacher for knowledge distillation: a run, an exported file or a published network; empty is none"
    )
    teacher_temperature: float = Field(4.0, gt=0, description="temperature of both networks in the distillation loss")
    teacher_share: float = Field(
        0.9, gt=0, le=1, description="share of the distillation loss; the rest is that of the loss on the labels"
    )
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="decay of the exponential moving average of the weights, which it turns on; None is 0.999"
    )
    average: Literal["ema", "swa"] | None = Field(
        None, validate_default=True, description="average of the weights to keep and evaluate: ema, swa, or None"
    )
    swa_start: float = Field(0.75, ge=0, lt=1, description="swa: start of the average over epochs, as a fraction of training")
    swa_lr: float | None = Field(None, gt=0, description="swa: constant learning rate from then on; None follows the schedule")
    monitor: str = Field(
        "", description="validation metric that selects the best checkpoint; empty is the default of the task, such as accuracy"
    )
    early_stopping_patience: int | None = Field(None, ge=1, description="epochs without improvement after which training stops")
    precision: Literal["32", "bf16", "16", "64"] = Field("32", description="32, 64, or mixed precision with bf16 or 16")
    compile: bool = Field(False, description="compile the model with torch.compile")
    gradient_checkpointing: bool = Field(
        False, description="keep only the inputs of blocks for the backward pass, which runs them again: less memory, more time"
    )
    seed: int = Field(0, ge=0, description="random seed of initialization, splits, shuffling and augmentation")
    checkpoint_minutes: float = Field(10.0, gt=0, description="minutes between checkpoints within an epoch")
    weights: str = Field("", description="initial weights: pretrained, a run, a trained model or a file; empty for random ones")
    weights_key: str = Field(
        "", description="key of the weights in a file that holds several, as in model_ema; empty prefers averages"
    )
    weights_by_order: bool = Field(False, description="match the tensors of a file by order and shape instead of by name")
    weights_mean: tuple[float, ...] = Field(
        (), description="per-channel mean of the images that the weights expect, for pixels in [0, 1]"
    )
    weights_std: tuple[float, ...] = Field((), description="per-channel standard deviation, likewise")
    keep_head: bool = Field(False, description="keep the pretrained head; the data must have as many classes")
    freeze: str = Field("none", description="frozen stages: none, backbone, until:STAGE, epochs:N or epochs:N+M")
    frozen_norms: Literal["keep", "update"] = Field(
        "keep", description="running statistics of batch norms in frozen stages: keep or update"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="layer-wise learning-rate decay: factor from each stage to the one before it; the head has lr",
    )

    @field_validator("freeze")
    @classmethod
    def _is_a_plan(cls, freeze: str) -> str:
        return Freezing.parse(freeze).text

    @field_validator("class_weights", mode="before")
    @classmethod
    def _are_class_weights(cls, value: Any) -> Any:
        is_list = isinstance(value, (list, tuple)) and value and all(map(_is_positive, value))
        if not (value is None or is_list or (isinstance(value, str) and value in CLASS_WEIGHTS)):
            raise ValueError(f"must be {', '.join(CLASS_WEIGHTS)}, or a list with a positive number for each class")
        return value

    @field_validator("teacher_temperature", "teacher_share")
    @classmethod
    def _need_a_teacher(cls, value: float, info: ValidationInfo) -> float:
        if value != cls.model_fields[str(info.field_name)].default and not info.data.get("teacher"):
            raise ValueError("needs recipe.teacher")
        return value

    @field_validator("gradient_checkpointing")
    @classmethod
    def _is_not_compiled(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("compile"):
            raise ValueError("torch.compile chooses itself what to compute again: omit recipe.compile")
        return value

    @field_validator("average", mode="before")
    @classmethod
    def _fits_its_decay(cls, average: Any, info: ValidationInfo) -> Any:
        decay = info.data.get("ema_decay")
        if average in ("swa", "none") and decay is not None:
            raise ValueError(f"recipe.ema_decay={decay} is for average=ema: set recipe.ema_decay=null, too")
        return "ema" if average is None and decay is not None else None if average == "none" else average

    @field_validator("swa_start", "swa_lr")
    @classmethod
    def _need_an_average_of_epochs(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value != cls.model_fields[str(info.field_name)].default and info.data.get("average") != "swa":
            raise ValueError("needs recipe.average=swa")
        return value

    @field_validator("monitor")
    @classmethod
    def _without_its_split(cls, monitor: str) -> str:
        return monitor.removeprefix("val/")

    @property
    def decay_of_average(self) -> float:
        """The decay of the exponential moving average, given or not."""
        return EMA_DECAY if self.ema_decay is None else self.ema_decay

    @property
    def first_averaged_epoch(self) -> int:
        """The first epoch, from 0, whose weights SWA averages."""
        return math.floor(round(self.swa_start * self.epochs, 6))  # 0.29 * 100 is a little less than 29

    @property
    def decays_past_zero(self) -> bool:
        """Whether the weight decay of a single step is larger than the weights themselves, and they alternate and grow."""
        return self.weight_decay > max(1.0, 1 / self.lr)

    @property
    def freezing(self) -> Freezing:
        """The parsed freezing plan."""
        return Freezing.parse(self.freeze)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
