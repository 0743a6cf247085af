"""Lightning's Trainer as the zoo uses it: silent, and with everything off that would touch the hot loop."""

from __future__ import annotations

import atexit
import logging
import math
import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import prepare_for_backward
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from zoo.config.run import Run, TrainerSettings
from zoo.core.errors import UserError, one_line
from zoo.metrics.mean_loss import MeanLoss
from zoo.tasks.task import Task
from zoo.training.checkpoints import PlainCheckpointIO
from zoo.training.processes import manage_processes

FEW_PROCESSES = 8  # allowed on any machine
HOOKS_OF_A_STEP = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_train_batch_end",
)  # fmt: skip
PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}


def build_trainer(settings: TrainerSettings, run: Run, logger: Any, callbacks: list[L.Callback]) -> L.Trainer:
    """Build a Trainer for a Run.

    Raises:
        UserError: Lightning refuses the devices, the strategy or the precision.
    """
    recipe = run.recipe
    _require_processes(settings)
    _skip_empty_hooks(callbacks)
    try:
        trainer = L.Trainer(
            **settings.model_dump(exclude={"monitor_every_n_steps", "timeout_minutes", "logger", "test"}),
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate_grad_batches,
            gradient_clip_val=recipe.gradient_clip_val,
            precision=PRECISION[recipe.precision],
            logger=logger,
            callbacks=callbacks,
            plugins=[PlainCheckpointIO()],
            profiler=_NoProfiler(),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=os.devnull,  # under SLURM Lightning would load an hpc_ckpt_1.ckpt of any earlier job from here
        )
    except Exception as error:  # of many types: a package of an accelerator that is missing, a name, a combination
        asked = " ".join(f"{key}={getattr(settings, key)}" for key in ("accelerator", "devices", "num_nodes", "strategy"))
        raise UserError(f"Lightning cannot run with {asked} precision={recipe.precision}: {one_line(error)}") from error
    if settings.sync_batchnorm and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: torch synchronizes batch norm on GPUs alone: omit it on CPUs")
    _disown_signals(trainer)
    manage_processes(trainer, settings.timeout_minutes)
    return trainer


def _disown_signals(trainer: L.Trainer) -> None:
    """Leave the signals to the zoo: Lightning's handlers save and exchange data wherever they find the training.

    With several processes Lightning also broadcasts at every step whether SIGTERM was received, and waits for the device.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


class _NoProfiler(Profiler):
    """Replaces Lightning's default profiler, which makes a context for each of a step's sixty hooks."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        return self.nothing

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...

    def summary(self) -> str:
        return ""


def _skip_empty_hooks(callbacks: Iterable[L.Callback]) -> None:
    """Hide the hooks of a step that a callback does not implement: Lightning passes over what it cannot call."""
    for callback in callbacks:
        for hook in HOOKS_OF_A_STEP:
            if getattr(type(callback), hook) is getattr(L.Callback, hook):
                setattr(callback, hook, None)


def require_batches(trainer: L.Trainer, data: Any, split: str) -> None:
    """Refuse a fraction of the batches of a split that is less than one of them.

    Raises:
        UserError: it is.
    """
    key = f"limit_{split}_batches"
    fraction = getattr(trainer, key)
    if isinstance(fraction, float) and fraction < 1:
        batches = -(-len(getattr(data, f"{split}_dataloader")()) // trainer.world_size)
        if int(batches * fraction) < 1:
            least = math.ceil(1000 / batches) / 1000
            raise UserError(f"trainer.{key}={fraction}: less than one of {batches} batches: at least {least}, or a number (int)")


def require_counted(trainer: L.Trainer, task: Task, split: str) -> None:
    """Refuse an evaluation, which has ended, in which no sample counted: its metrics are no numbers.

    Raises:
        UserError: so it was.
    """
    losses = [each for name, each in task.named_modules() if isinstance(each, MeanLoss) and split in name.split(".")]
    if losses and not any(loss.samples for loss in losses):
        key = f"limit_{split}_batches"
        limit = getattr(trainer, key)
        more = f"; raise trainer.{key}={limit}" if isinstance(limit, int) or limit < 1 else ""
        raise UserError(f"no {split} sample counts: each image is a training image, by its content, or cannot be read{more}")


def _require_processes(settings: TrainerSettings) -> None:
    """Refuse too many processes on a CPU, as each holds the network and its data."""
    most = max(FEW_PROCESSES, os.cpu_count() or 1)
    on_processor = settings.accelerator == "cpu" or (settings.accelerator == "auto" and not torch.cuda.is_available())
    if on_processor and isinstance(settings.devices, int) and settings.devices > most:
        raise UserError(f"trainer.devices={settings.devices}: on a CPU each is a process, at most {most} here")


def configure_ddp(strategy: Any, task: Task) -> None:
    """Adapt DDP to models without gradients, to stages that are unfrozen during training, and to exact resumption."""
    if not isinstance(strategy, DDPStrategy):
        return
    if any(getattr(module, "sparse", False) for module in task.modules()):  # gradients that cannot be arranged in advance
        strategy._ddp_kwargs["find_unused_parameters"] = True
    wrap, freeze = strategy.configure_ddp, task.freeze

    def configure() -> None:
        if task.one_pass:
            return  # torch refuses to wrap a module without gradients
        wrap()
        arrange_buckets(strategy.model)

    def freeze_and_wrap(epoch: int) -> None:
        """Wrap the network anew where others of its parameters are trained: DDP waits for those that it was wrapped with."""
        former = _trained(task)
        freeze(epoch)
        if isinstance(strategy.model, DistributedDataParallel) and _trained(task) != former:
            strategy.model = task
            configure()

    strategy.configure_ddp, task.freeze = configure, freeze_and_wrap  # type: ignore[method-assign]


def _trained(task: Task) -> list[bool]:
    return [parameter.requires_grad for parameter in task.parameters()]


def arrange_buckets(model: DistributedDataParallel) -> None:
    """Let DDP choose its gradient buckets before the first step.

    It reduces gradients in buckets, which it rearranges after the first backward pass of a process. The position of a gradient
    decides in which order three or more processes are summed, so the first step after a resume would differ in its last bits.
    This pass of zeros has neither a forward pass nor randomness, and leaves no gradient behind.
    """
    if model.find_unused_parameters:  # never rearranged
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    outputs = [parameter.view_as(parameter) for parameter in parameters]
    prepare_for_backward(model, outputs)
    torch.autograd.backward(outputs, [torch.zeros_like(parameter) for parameter in parameters])
    model.zero_grad()


@atexit.register
def _leave_process_group() -> None:
    """Join the group's threads at the end of a process, which would otherwise be aborted if one of them still runs."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def silence_lightning() -> None:
    """Turn off Lightning's tips and warnings, none of which a user of the zoo could act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of DDP, and channels_last
