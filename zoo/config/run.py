"""The configuration of a training run (``Run``): model, data, recipe, trainer and tracker, validated before torch is imported."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from zoo.config.recipe import Recipe, Section
from zoo.core.errors import unknown

LIBRARIES = ("torchvision", "timm")  # whose networks are models of the zoo under one name each
SECTIONS = ("model", "data", "recipe", "trainer", "wandb")
# of Lightning's: processes that are spawned or forked do not give the trained network back, and Lightning has no sharded strategy
# for CPUs, where it could be tried
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


def data_title(section: dict[str, Any]) -> str:
    """The name of the data of a section ``data``, with the path of your own: of a folder, a file or a data set of a hub."""
    path = section.get("path") or section.get("root")
    return f"{section.get('name', '')}{f' ({path})' if path else ''}"


class TrainerSettings(Section):
    """Settings of Lightning's Trainer."""

    devices: Annotated[int | list[int] | str, Field(union_mode="left_to_right")] = Field(
        1, description="number of devices, a list of indices, or auto"
    )
    num_nodes: int = Field(1, ge=1, description="number of machines")
    strategy: str = Field("auto", description="Lightning strategy: auto or ddp")
    accelerator: str = Field("auto", description="Lightning accelerator: auto, cpu, gpu, mps, ...")
    timeout_minutes: float = Field(10.0, gt=0, description="minutes that a process waits for the others before it gives up")
    sync_batchnorm: bool = Field(False, description="synchronize batch norm across devices")
    deterministic: bool = Field(False, description="deterministic kernels only; needed for exact resume on a GPU")
    limit_train_batches: int | float = Field(
        1.0, gt=0, description="training batches per epoch: number (int) or fraction (float)"
    )
    limit_val_batches: int | float = Field(1.0, gt=0, description="validation batches: number or fraction")
    limit_test_batches: int | float = Field(1.0, gt=0, description="test batches: number or fraction")
    test: bool = Field(True, description="test the best checkpoint at the end of training")
    logger: tuple[str, ...] = Field((), description="experiment trackers beside W&B; zoo list --loggers shows all")
    log_every_n_steps: int = Field(50, ge=1, description="steps between two records of the training loss")
    monitor_every_n_steps: int = Field(
        200, ge=0, description="steps between two records of activations and gradients; 0 turns monitors off"
    )

    @field_validator("strategy")
    @classmethod
    def _must_be_known(cls, strategy: str) -> str:
        if strategy not in STRATEGIES:
            raise unknown("strategy (trainer.strategy)", strategy, STRATEGIES)
        return strategy


class WandbSettings(Section):
    """Settings of Weights & Biases. Environment variables (WANDB_PROJECT, ...) are the defaults."""

    mode: Literal["off", "online", "offline"] = Field("off", description="off, online or offline; off does not import wandb")
    project: str | None = Field(None, description="default: WANDB_PROJECT or bestiary")
    entity: str | None = Field(None, description="user or team")
    group: str | None = Field(None, description="group of runs")
    job_type: str | None = Field(None, description="type of run, as in train or sweep")
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), max_length=100, description="labels to filter by, of at most 64 characters each"
    )
    artifacts: Literal["off", "weights", "checkpoint"] = Field(
        "off", description="of the best and the last checkpoint upload the weights, as zoo.load reads them, or all of it; or off"
    )
    link: str | None = Field(None, description="link the best uploaded model to a collection, as in wandb-registry-model/flowers")
    log_data: bool = Field(False, description="upload the files of the data, too, not just what identifies them")
    inside: Literal["summary", "full", "off"] = Field(
        "summary", description="activations and gradients: totals and the worst layers, full (also wandb.layers), or off"
    )
    layers: tuple[str, ...] = Field(
        (), description="globs of layers and parameters whose statistics and histograms inside=full logs; default: all"
    )

    @field_validator("mode", "artifacts", "inside", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, value: Any) -> Any:
        return "off" if value is False else value

    @field_validator("project")
    @classmethod
    def _as_wandb_allows(cls, project: str | None) -> str | None:
        if project and (wrong := re.search(r"[/\\#?%:]", project)):
            raise ValueError(f"no {wrong[0]!r} is allowed in the name of a project")
        return project

    @field_validator("link")
    @classmethod
    def _need_artifacts(cls, link: str | None, info: ValidationInfo) -> str | None:
        if link and not re.fullmatch(r"([^/:]+/){1,2}[^/:]+", link):
            raise ValueError("must name a registry and a collection, as in wandb-registry-model/flowers")
        if link and info.data.get("artifacts", "off") == "off":
            raise ValueError("needs wandb.artifacts=weights")
        return link

    @field_validator("layers")
    @classmethod
    def _need_full(cls, layers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if layers and info.data.get("inside", "full") != "full":
            raise ValueError("need wandb.inside=full")
        return layers


class Run(Section):
    """The configuration of a training run: model, data, recipe, trainer and tracker.

    ``model`` and ``data`` hold ``name`` and the options; ``plugins`` are the plugin files of the command.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    recipe: Recipe
    trainer: TrainerSettings
    wandb: WandbSettings
    plugins: tuple[str, ...] = ()

    @field_validator("model", "data")
    @classmethod
    def _require_name(cls, section: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(section.get("name"), str) or not section["name"]:
            raise ValueError("must have a name")
        return section

    def options(self, section: Literal["model", "data"]) -> dict[str, Any]:
        """Options of the model or the data, without the name."""
        return {key: value for key, value in getattr(self, section).items() if key != "name"}

    @property
    def network(self) -> str:
        """The name of the network: the model's, or that of a library's network, as in torchvision's resnet50."""
        return str(self.model["network" if self.model["name"] in LIBRARIES else "name"])

    @property
    def data_title(self) -> str:
        """The name of the data, with the path of your own, as in ``folder (photos)``."""
        return data_title(self.data)

    def to_yaml(self) -> str:
        """Dump to YAML, as ``run.yaml`` holds it and ``--config`` reads it."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def differences(old: Run, new: Run) -> list[str]:
    """List the settings in which two Runs differ, each as ``section.key=new value (was old value)``."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        f"{section}.{key}={after[section].get(key)} (was {before[section].get(key)})"
        for section in SECTIONS
        for key in {**before[section], **after[section]}
        if before[section].get(key) != after[section].get(key)
    ]
