"""A network that answers questions, from its training to what it says of a picture: the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from zoo.datamodules.worlds import shapes

SETTINGS = (
    "--set", "data.num_images=64", "--set", "recipe.batch_size=16", "--set", "trainer.limit_val_batches=2",
    "--set", "trainer.limit_test_batches=2", "--set", 'model.encoder_options={"channels":[4,4,8,8],"downsampling":"stride"}',
    "--epochs", "1", "--name", "asked",
)  # fmt: skip


@pytest.fixture
def trained(zoo, workplace: Path) -> Path:
    """A run of vqa-attention, and beside it a picture."""
    answer = zoo("train", "vqa-attention", *SETTINGS)
    assert answer.code == 0 and "zoo predict asked IMAGE... --question TEXT" in answer.out, answer.err
    write_png(shapes.render(shapes.draw_scenes(0, "test", [3]))[0], "scene.png")
    return workplace / "runs" / "asked"


def test_questions_are_answered_and_what_cannot_be_is_said(zoo, trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    kinds = {name.removeprefix("val/accuracy_") for record in records for name in record if name.startswith("val/accuracy_")}
    assert {"attribute", "related attribute", "count"} < kinds
    answer = zoo("predict", "asked", "scene.png", "--question", "What color is the circle?", "--top", "24", "--json")
    (said,) = json.loads(answer.out)
    assert said["answer"] == said["top"][0]["answer"] and len(said["top"]) == 24
    assert sum(each["probability"] for each in said["top"]) == pytest.approx(1, abs=1e-5)
    assert "answer" in zoo("predict", "asked", "scene.png", "--question", "how many things are there").out
    for arguments, words in (
        ((), ("--question",)),
        (("--question", " ? "), ("--question ' ? '", "no word")),
        (("--question", "what color is the zebra and the circl"), ("'zebra'", "'and'", "'circl'")),
        (("--question", "is " * 40), ("40 words", "at most 13")),
        (("--question", "is there a circle", "--beams", "3"), ("--beams does not apply to question-answering",)),
    ):
        assert zoo("predict", "asked", "scene.png", *arguments).is_one_line_error(*words)
    network = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert network["bestiary"]["spec"]["kind"] == "question"


def test_data_of_questions_is_shown(zoo) -> None:
    shown = json.loads(zoo("data", "show", "shapes-questions", "--measure", "--json", "--set", "data.num_images=9").out)
    assert shown["train_images"] == 9 and shown["train_questions"] == 54
    answer = zoo("data", "preview", "shapes-questions", "--set", "data.num_images=9")
    assert Path("shapes-questions.png").exists()
    told = [line for line in answer.out.splitlines()[1:] if not line.startswith(" ")]
    assert len(told) == 8 and told[0].startswith("1  ") and answer.out.count("?") == 8 * 6
    assert max(map(len, answer.out.splitlines())) <= 80, "wrapped between words"
