"""What ``zoo diagnose`` says of networks that are fine, and of those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.callbacks.findings import Finding
from zoo.training.examination import Check


def test_a_network_that_is_fine(zoo) -> None:
    answer = zoo("diagnose", "softmax")
    assert answer.code == 0 and answer.out.count(" fine ") == 4 and answer.out.splitlines()[-1] == "next: zoo train softmax"
    assert not list(Path().iterdir()), "nothing stays behind"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (["recipe.lr=300"], {"exploding-gradients", "cannot-overfit", "learning-rate-too-high"}),
        (["recipe.lr=1e-8"], {"cannot-overfit", "learning-rate-too-low"}),
    ],
)
def test_a_network_that_is_not(zoo, settings: list[str], names: set[str]) -> None:
    arguments = [word for text in settings for word in ("--set", text)]
    answer = zoo("diagnose", "mlp", *arguments, "--json")
    found = {finding["name"] for check in json.loads(answer.out)["checks"] for finding in check["findings"]}
    assert answer.code == 1 and names <= found
    told = zoo("diagnose", "mlp", *arguments)
    assert told.code == 1 and "Likely cause: " in told.out and "next, with these fixes: zoo train mlp --set" in told.out


def test_the_command_at_the_end_is_the_mended_one(zoo) -> None:
    told = zoo("diagnose", "mlp", "--set", "recipe.lr=1e-8", "--set", "model.hidden_sizes=[16]").out.splitlines()[-1]
    assert (
        told.startswith("next, with these fixes: zoo train mlp --set 'model.hidden_sizes=[16]' --set recipe.lr=")
        and "1e-8" not in told
    )


def test_what_cannot_be_judged_is_not_called_fine() -> None:
    assert Check("learning rate", "the loss fell at no rate", is_clear=False).state == "unclear"
    finding = Finding("learning-rate-too-low", "warning", "here", "", "", "")
    assert Check("learning rate", "", [finding], is_clear=False).state == "warning"


def test_a_loss_that_is_no_cross_entropy_is_not_held_against_guessing(zoo) -> None:
    answer = zoo("diagnose", "svm", "--json")
    assert answer.code == 0 and "chance level" not in answer.out


def test_text_has_no_batch_to_overfit(zoo) -> None:
    small = ["model.hidden_size=16", "data.seq_len=16", "recipe.batch_size=8"]
    answer = zoo("diagnose", "char-rnn", *(word for text in small for word in ("--set", text)), "--json")
    assert "overfit one batch" not in {check["check"] for check in json.loads(answer.out)["checks"]}


def test_bad_input_is_one_line(zoo) -> None:
    assert zoo("diagnose", "mpl").is_one_line_error("mpl", "did you mean 'mlp'?")
    assert zoo("diagnose", "knn").is_one_line_error("one pass")


NOT_FINITE = """
from zoo import register_model
from zoo.models.softmax import Linear


@register_model("cut", task="classification", recipe={"epochs": 1})
class Cut(Linear):
    \"\"\"Takes the logarithm of what may be below zero.\"\"\"

    def __init__(self, spec, recipe):
        super().__init__(spec, recipe)

    def forward(self, images):
        return (super().forward(images) - 1).log()
"""


def test_a_loss_that_is_not_finite_is_a_finding(zoo) -> None:
    Path("cut.py").write_text(NOT_FINITE)
    answer = zoo("--plugin", "cut.py", "diagnose", "cut", "--data", "digits", "--json")
    (check, *_) = json.loads(answer.out)["checks"]
    assert answer.code == 1 and check["findings"][0]["name"] == "not-finite"
