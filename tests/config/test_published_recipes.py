"""Recipes of papers: their values are those of the tables, and they train."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting, published_recipes, read_config
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.registry import scan

# Wightman, Touvron and Jegou 2021 (arXiv 2110.00476), table 2, column A2; None is a cross there
TABLE_A2 = {
    "train res": 224, "test res": 224, "epochs": 300, "batch size": 2048, "optimizer": "LAMB", "LR": 5e-3, "LR decay": "cosine",
    "weight decay": 0.02, "warmup epochs": 5, "label smoothing": None, "dropout": None, "stoch. depth": 0.05,
    "gradient clip": None,
    "H. flip": True, "RRC": True, "rand augment": (7, 0.5), "auto augment": None, "mixup alpha": 0.1, "cutmix alpha": 1.0,
    "erasing prob.": None, "color jitter": None, "EMA": None, "CE loss": None, "BCE loss": True, "mixed precision": True,
    "test crop ratio": 0.95,
}  # fmt: skip


@pytest.fixture
def photos(workplace: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (workplace / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = draw.normal(level, 30, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(workplace / "photos" / name / f"{number}.png")
    return workplace / "photos"


def test_a2_of_resnet_strikes_back_is_its_table(photos: Path) -> None:
    registry = scan()
    run = resolve(registry, "resnet50", read_config("rsb-a2"), [{"data": {"name": str(photos)}}])
    recipe, data = run.recipe, run.data
    items = {entry.name: arguments for entry, arguments in parse_augmentation(registry, data["augment"])}
    assert [*items] == ["resized-crop", "hflip", "rand", "mixup-or-cutmix"]
    rand, mixing = items["rand"], items["mixup-or-cutmix"]
    assert (rand["operations"], rand["probability"]) == (2, 0.5), "as timm draws them"
    assert {
        "train res": data["size"], "test res": data["size"], "epochs": recipe.epochs, "batch size": recipe.lr_base_batch_size,
        "optimizer": recipe.optimizer.upper(), "LR": recipe.lr, "LR decay": recipe.schedule, "weight decay": recipe.weight_decay,
        "warmup epochs": recipe.warmup_epochs, "label smoothing": recipe.label_smoothing or None, 
        "dropout": run.model.get("dropout"),
        "stoch. depth": run.model["drop_path_rate"], "gradient clip": recipe.gradient_clip_val, "H. flip": "hflip" in items,
        "RRC": items["resized-crop"]["min_scale"] == 0.08, "rand augment": (rand["magnitude"] / 3, rand["deviation"] / 3),
        "auto augment": items.get("trivial"), "mixup alpha": mixing["mixup_alpha"], "cutmix alpha": mixing["cutmix_alpha"],
        "erasing prob.": items.get("erasing"), "color jitter": items.get("jitter"), "EMA": recipe.average,
        "CE loss": None if recipe.loss == "bce-one-vs-all" else recipe.loss, "BCE loss": recipe.loss == "bce-one-vs-all",
        "mixed precision": recipe.precision == "bf16", "test crop ratio": data["crop_pct"],
    } == TABLE_A2  # fmt: skip
    assert recipe.lr_base_batch_size == 8 * recipe.batch_size and data["crop"] == "center"


@pytest.mark.slow
def test_it_trains(zoo, photos: Path) -> None:
    small = ("model.depth=14", "data.size=32", "recipe.batch_size=16", "recipe.epochs=6", "trainer.limit_train_batches=1",
             "trainer.accelerator=cpu", "recipe.precision=32")  # fmt: skip
    settings = [word for text in small for word in ("--set", text)]
    answer = zoo("train", "resnet50", "--data", photos, "--config", "rsb-a2", *settings, "--name", "a2", "--json")
    assert answer.code == 0 and math.isfinite(json.loads(answer.out)["test/loss"]), answer.err
    written = yaml.safe_load(Path("runs/a2/run.yaml").read_text())
    assert written["recipe"]["optimizer"] == "lamb" and written["data"]["root"] == str(photos)


def test_a_recipe_is_listed_and_named_and_a_file_of_its_name_is_the_users(zoo, workplace: Path) -> None:
    assert "ResNet strikes back" in zoo("list", "--recipes").out
    (entry,) = json.loads(zoo("list", "--recipes", "a2", "--json").out)
    assert entry["name"] == "rsb-a2" and entry["recipe"]["epochs"] == 300
    assert zoo("list", "--recipes", "rsb-a3").is_one_line_error("no recipe 'rsb-a3'; did you mean 'rsb-a2'?")
    train = ("train", "resnet50", "--config")
    assert zoo(*train, "rsb-a3").is_one_line_error("--config rsb-a3: no such file; did you mean 'rsb-a2'?")
    assert zoo(*train, "mine").is_one_line_error("--config mine: no such file; published recipes: rsb-a2")
    assert zoo(*train, "rsb-a2").is_one_line_error(
        "the configuration sets data.crop, which digits does not have", "--data", "folder"
    )
    (workplace / "rsb-a2").write_text("recipe: {epochs: 7}")
    assert read_config("rsb-a2") == {"recipe": {"epochs": 7}}


def test_each_recipe_resolves_on_its_own() -> None:
    for name in published_recipes():
        resolve(scan(), "resnet50", read_config(name), [parse_setting("data.name=folder"), parse_setting("data.root=photos")])
