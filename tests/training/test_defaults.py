"""Default recipes, trained on the data that comes with the zoo, give no reason for a finding."""

from __future__ import annotations

import pytest

import zoo as bestiary

# settings that shorten the training; those without any have the whole of their recipe
RECIPES: dict[str, list[str]] = {
    "softmax": [],
    "svm": [],
    "mlp": [],
    "convnet": [],
    "knn": [],
    "resnet20": ["recipe.epochs=12"],
    "plain20": ["recipe.epochs=12"],
    "vgg11": ["model.width=8", "recipe.epochs=12"],
    "lstm": ["recipe.epochs=1", "trainer.limit_train_batches=200"],
    "rnn": ["recipe.epochs=1", "trainer.limit_train_batches=200"],
    "char-rnn": ["recipe.epochs=1", "trainer.limit_train_batches=20"],
    "vqa-lstm": ["recipe.epochs=1", "trainer.limit_train_batches=40"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_default_recipe_has_no_finding(name: str) -> None:
    few = ["trainer.accelerator=cpu", "trainer.limit_val_batches=8", "trainer.limit_test_batches=2", *RECIPES[name]]
    run = bestiary.train(name, settings=few, progress=False)
    assert not [str(finding) for finding in run.findings]
