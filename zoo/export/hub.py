"""The files besides the weights in a folder for a model hub: a configuration that timm reads too, and a card's front matter."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.config.run import Run
from zoo.core import __version__
from zoo.registry.entry import REQUIRED
from zoo.registry.registry import Registry
from zoo.spec import Crop, ImageSpec
from zoo.tasks.images import ImageModel
from zoo.training.checkpoints import KEY
from zoo.training.exported import portable

# of https://huggingface.co/docs/hub/repositories-licenses: the hub takes others as a name of their own
LICENSES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0",
    "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-3.0", "cc-by-sa-3.0", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "pddl", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
STRUCTURE = ("classifier", "first_conv", "fixed_input_size")  # what timm replaces a head or a stem by


def preprocessing(spec: ImageSpec) -> dict[str, Any]:
    """How images are prepared, under the names that timm has."""
    crop = Crop("center", 1.0, spec.crop.interpolation) if spec.crop.mode == "fit" else spec.crop  # the same but for rounding
    resized = round(spec.height / crop.pct)
    if math.floor(spec.height / crop.pct) != resized:  # as timm rounds
        crop = replace(crop, pct=spec.height / (resized + 0.5))
    return {
        "input_size": list(spec.shape),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": crop.interpolation,
        "crop_pct": crop.pct,
        "crop_mode": crop.mode,
    }


def write_config(task: ImageModel, checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``config.json`` in timm's layout, so that timm loads its own networks, with the zoo's description next to it.

    Raises:
        OSError: the file cannot be written.
    """
    run, spec, library = portable(checkpoint[KEY]["run"]), task.spec, task.library_model
    prepared = {**preprocessing(spec), "num_classes": spec.outputs}
    if library and library.library == "timm":
        prepared |= {key: task.network.pretrained_cfg.get(key) for key in STRUCTURE}
        if spec.channels == 1:  # which the zoo repeats over the colors
            prepared |= {"input_size": [3, spec.height, spec.width], "mean": [*spec.mean] * 3, "std": [*spec.std] * 3}
    config = {
        "architecture": library.name if library else run["model"]["name"],
        "num_classes": spec.outputs,
        "label_names": list(task.describe_outputs().names),
        "model_args": library.arguments if library else {},
        "pretrained_cfg": prepared,
        KEY: {"version": __version__, "model": run["model"], "data": run["data"], "spec": checkpoint[KEY]["spec"]},
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def front_matter(task: ImageModel, run: Run, registry: Registry, name: str, metrics: dict[str, float], license: str) -> str:
    """The YAML block at the top of a card on a model hub.

    Args:
        name: of the trained network.
        metrics: of the test split, as in ``test/accuracy``; may be empty.
        license: as the user states it; may be empty.
    """
    from huggingface_hub import EvalResult, ModelCardData

    stated = license.strip().lower().replace(" ", "-")
    known = {"license": stated} if stated in LICENSES else {"license": "other", "license_name": stated} if stated else {}
    data = registry.data_set(run.data["name"])
    is_own = any(option.default == REQUIRED for option in data.options)
    pipeline = task.describe_outputs().pipeline
    results = [
        EvalResult(pipeline, data.name, data.name, metric.removeprefix("test/"), value, dataset_split="test")
        for metric, value in (metrics.items() if pipeline else ())  # which the hub asks for
    ]
    library = task.library_model.library if task.library_model else ""
    source = run.recipe.weights.removeprefix("timm:").removeprefix("hf-hub:") if library == "timm" else ""
    card = ModelCardData(
        **known,
        library_name="timm" if library == "timm" else "bestiary",
        pipeline_tag=pipeline or None,
        tags=[*([pipeline] if pipeline else []), "pytorch", "bestiary", *registry.model(run.model["name"]).tags],
        datasets=None if is_own else [data.name],
        base_model=(source if "/" in source else f"timm/{source}") if run.recipe.weights.startswith("timm:") else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n\n"
