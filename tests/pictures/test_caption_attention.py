"""Pictures of captioners: the light falls where the network looked, and the good captions stand before the bad."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.pictures.caption_attention import DARKEST, caption_attention, shade, write_captions
from zoo.registry.registry import scan
from zoo.spec import START
from zoo.training.building import build_data, load_task
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder

TINY = ["--epochs", "1", "--set", "data.num_images=64", "--set", "recipe.batch_size=32", "--set", "trainer.accelerator=cpu"]
TINY += ["--set", 'model.encoder_options={"channels": [4, 8, 8]}', "--set", "trainer.limit_test_batches=1"]
TINY += ["--set", "trainer.limit_val_batches=1"]


def test_a_picture_is_lit_by_the_map() -> None:
    image = np.full((6, 4, 3), 0.5)
    values = np.array([[0.0, 0.2], [0.4, 0.1], [0.0, 0.3]])
    found = shade(image, values)[:, :, 0]
    for row in range(6):
        for column in range(4):
            light = values[row // 2, column // 2] / 0.4
            assert found[row, column] == pytest.approx(0.5 * (DARKEST + (1 - DARKEST) * light))


@pytest.fixture
def run(zoo) -> RunFolder:
    assert zoo("train", "captioner-attention", "--name", "looker", *TINY).code == 0
    return RunFolder.find("looker")


@pytest.mark.slow
def test_pictures_and_captions_of_a_run(zoo, run: RunFolder) -> None:
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")

    answer = zoo("picture", "attention", "looker", "0.png", "1.png")
    assert answer.code == 0, answer.err
    assert "looker-attention.png" in answer.out
    assert Image.open("looker-attention.png").width > 500
    assert zoo("picture", "attention", "looker").code == 0
    assert zoo("picture", "attention", "looker", "--layer", "1").is_one_line_error("--layer")
    assert zoo("picture", "confusion", "looker").is_one_line_error("confusion is for classification")

    answer = zoo("picture", "captions", "looker", "--json")
    assert answer.code == 0, answer.err
    assert Path(json.loads(answer.out)["file"]).exists()

    caption = json.loads(zoo("predict", "looker", "0.png", "--json").out)[0]
    assert caption["log_probability"] < 0
    wide = json.loads(zoo("predict", "looker", "0.png", "1.png", "--beams", "3", "--json").out)
    assert [answer["file"] for answer in wide] == ["0.png", "1.png"]
    assert wide[0]["log_probability"] >= caption["log_probability"] - 1e-5
    drawn = [zoo("predict", "looker", "0.png", "--samples", "3", "--seed", seed, "--json").out for seed in (1, 1, 2)]
    assert len(json.loads(drawn[0])) == 3
    assert drawn[0] == drawn[1] != drawn[2]
    assert zoo("predict", "looker", "0.png", "--top", "3").is_one_line_error("--top does not apply to captioning", "--beams")
    assert zoo("predict", "looker", "0.png", "--seed", "3").is_one_line_error("--seed requires --samples")
    assert zoo("predict", "looker", "0.png", "--samples", "2", "--temperature", "0").is_one_line_error(
        "--temperature 0", "above 0"
    )
    assert zoo("predict", "looker", "0.png", "--samples", "2", "--seed", str(2**70)).code == 0
    assert zoo("predict", "looker", "0.png", "--samples", "2", "--beams", "2").is_one_line_error("mutually exclusive")
    assert zoo("predict", "looker", "2.png").is_one_line_error("no such file")

    checkpoint = run.checkpoint("best")
    task, of_run = load_task(scan(), read_checkpoint(checkpoint), checkpoint)
    data = build_data(scan(), of_run)
    words, pictures = write_captions(task, data)
    assert pictures.tolist() == data.splits["test"].columns["image_id"].tolist()
    images = next(data.splits["test"].images.batches(iter([torch.arange(3)])))
    said, maps = caption_attention(task, images)
    assert said == words[:3]
    for of_picture, of_words, picture in zip(said, maps, images, strict=True):
        assert of_words.shape == (len(of_picture), 8, 8)
        captions = torch.tensor([[[START, *task.spec.encode(of_picture)]]])
        with torch.no_grad():
            looks = task.decode_with_attention(task.encode(picture[None]), captions)[1][0, 0]
        np.testing.assert_allclose(of_words.reshape(len(of_picture), 64), looks[: len(of_picture)], atol=1e-5)


def test_a_captioner_without_attention_is_refused(zoo) -> None:
    assert zoo("train", "captioner", "--name", "plain", *TINY).code == 0
    assert zoo("picture", "attention", "plain").is_one_line_error("plain has no attention", "captioner-transformer")
