"""Resolution of ``zoo finetune``: network, pretrained weights, and a recipe for each way to fine-tune."""

from __future__ import annotations

import difflib
import shlex
from pathlib import Path
from typing import Any

from zoo.config.resolution import resolve
from zoo.config.run import LIBRARIES, Run
from zoo.core.errors import UserError
from zoo.core.files import expanded
from zoo.registry.registry import Registry
from zoo.training.sources import WEIGHT_FILES, exported_file, included_model, refusal
from zoo.training.trained_models import trained_models
from zoo.training.weights.backbones import HUB, PRETRAINED_TAG, find_backbone
from zoo.training.weights.wandb_models import fetch_model, is_wandb_model

# A small learning rate preserves what was learned; cosine after an epoch of warmup
EVERYTHING = {
    "epochs": 10, "batch_size": 32, "optimizer": "adamw", "lr": 1e-3, "layer_decay": 0.75, "weight_decay": 0.05,
    "schedule": "cosine", "warmup_epochs": 1, "gradient_clip_val": 1.0, "label_smoothing": 0.1,
}  # fmt: skip
# A linear classifier on fixed features: strong weight decay in place of augmentation
HEAD = {"epochs": 60, "batch_size": 64, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.3, "schedule": "cosine"}


def resolve_finetuning(
    registry: Registry, backbone: str, weights: str, config: dict[str, Any], settings: list[dict[str, dict[str, Any]]]
) -> Run:
    """Resolve the Run of a fine-tuning. Images get the size and the channels of the pretrained weights, unless
    ``data.size`` or ``data.channels`` is set.

    Args:
        backbone: ``torchvision:NAME``, ``timm:NAME``, a model of the zoo, one that comes trained, a run, a model at W&B, or a
            file that ``zoo export`` wrote.
        weights: a file, a trained model of the zoo or one at W&B; empty takes the backbone's own.
        config, settings: as ``resolve`` takes them.

    Raises:
        UserError: no such backbone, no weights for it, or what ``resolve`` raises.
    """
    model, source = starting_point(registry, backbone, weights)
    entry = registry.model(model["name"])
    if entry.task != "classification":
        raise UserError(f"{backbone} is for {entry.task}: fine-tuning is for image classifiers")
    layers = [config, *settings]
    freeze = next((f for layer in reversed(layers) if (f := (layer.get("recipe") or {}).get("freeze"))), "none")
    head_only = freeze == "backbone"
    given = {"model": {key: value for key, value in model.items() if key != "name"}, "recipe": {"weights": source}}
    if head_only:  # then the features of an image do not change, and are computed once
        given["data"] = {"augment": "none"}
    run = resolve(registry, model["name"], config, [given, *settings], recipe=HEAD if head_only else EVERYTHING)
    chosen = {option for layer in layers for option in layer.get("data") or {}}
    if not {"size", "channels"} & set(run.data) - chosen:
        return run  # without torch
    from zoo.training.weights.loading import match_images

    return match_images(registry, run, chosen)


def starting_point(registry: Registry, backbone: str, weights: str) -> tuple[dict[str, Any], str]:
    """The model section of a Run, and its initial weights."""
    if weights and not (expanded(weights).is_file() or is_wandb_model(weights) or included_model(weights)):
        raise UserError(f"--weights {weights}: {'is not a file' if Path(weights).exists() else 'no such file'}")
    library, _, network = backbone.partition(":")
    if HUB in (library, network.partition(":")[0]):
        from zoo.training.weights.libraries import hub_network

        found = find_backbone(backbone)
        architecture, arguments = hub_network(found.name)
        return {"name": "timm", "network": architecture, "network_args": arguments}, weights or found.name
    if library in LIBRARIES and ":" in backbone:
        if weights:
            return {"name": library, "network": network.partition(".")[0] if library == "torchvision" else network}, weights
        found = find_backbone(backbone)
        return {"name": library, "network": found.network}, found.name
    if backbone in registry.models:
        entry = registry.model(backbone)
        if not weights and PRETRAINED_TAG not in entry.tags:
            raise UserError(
                f"{backbone} comes without weights: name a run that trained it, or a file with --weights "
                "(`zoo list --pretrained` shows what comes with weights)"
            )
        return {"name": backbone}, weights or "pretrained"
    return _of_run(registry, backbone, weights)


def _of_run(registry: Registry, backbone: str, weights: str) -> tuple[dict[str, Any], str]:
    """The same, of a run, a model at W&B, an exported file or a trained model of the zoo."""
    from zoo.training.run_folder import RunFolder, known_runs, runs_folder

    path = expanded(backbone)
    path = exported_file(path) or path
    if path.is_file():
        return _of_file(path).model, weights or str(path)
    if is_wandb_model(backbone):
        return _of_file(fetch_model(backbone)).model, weights or backbone
    if model := included_model(backbone):
        return model.run["model"], weights or backbone
    try:
        folder = RunFolder.find(backbone)
    except UserError as error:
        if path.suffix in WEIGHT_FILES or path.exists() or (runs_folder() / backbone).exists():
            raise
        names = [*registry.models, *known_runs(), *trained_models(), *(f"{library}:" for library in LIBRARIES)]
        of_its_kind = trained_models() if "." in backbone else ()
        near = difflib.get_close_matches(backbone, of_its_kind, n=1) or difflib.get_close_matches(
            backbone, names, n=1, cutoff=0.5
        )
        hint = f"did you mean {near[0]!r}?" if near else "`zoo list` and `zoo list --pretrained` show them"
        raise UserError(f"no model, backbone or run {backbone!r}: {hint}") from error
    return folder.read_run().model, weights or backbone


def _of_file(path: Path) -> Run:
    """The Run of an exported network.

    Raises:
        UserError: the file is damaged, contains no weights, or does not name its network.
    """
    if path.suffix == ".safetensors":
        from zoo.training.exported import run_of_exported, was_exported

        if was_exported(path):
            return run_of_exported(path)
    raise refusal(path, f"--weights {shlex.quote(str(path))}") or UserError(
        f"{path}: is not a weight file ({', '.join(WEIGHT_FILES)}): name the run, or what `--to safetensors` wrote"
    )
