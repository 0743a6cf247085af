"""A talk about a picture: through a pipe, with a memory, and with words that the model does not know."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from zoo.api.trained import load
from zoo.core.errors import UserError
from zoo.datamodules.worlds import shapes
from zoo.spec import END
from zoo.training.conversation import Unanswered

SMALL = [
    "data.num_images=16",
    "data.num_rounds=3",
    "model.encoder_options={channels: [4, 8]}",
    "model.hidden_size=12",
    "model.embed_dim=8",
]
MODELS = ["dialogue-discriminative", "dialogue-generative"]


@pytest.fixture
def picture() -> Path:
    pixels = shapes.render(shapes.draw_scenes(5, "test", [0], fewest=3))[0]
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save("picture.png")
    return Path("picture.png")


@pytest.fixture
def train(zoo):
    def call(model: str) -> None:
        settings = [part for text in [*SMALL, "recipe.batch_size=8"] for part in ("--set", text)]
        answer = zoo("train", model, "--epochs", "1", "--name", "talk", *settings)
        assert answer.code == 0 and "zoo chat talk IMAGE" in answer.out, answer.err

    return call


@pytest.fixture
def chat(zoo, monkeypatch):
    def call(text: str | bytes, *arguments: Any):
        """``zoo chat talk picture.png`` with this coming through a pipe."""
        reading, writing = os.pipe()
        os.write(writing, text if isinstance(text, bytes) else text.encode())
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            monkeypatch.setattr(sys, "stdin", pipe)
            return zoo("chat", "talk", "picture.png", *arguments)

    return call


@pytest.mark.parametrize("model", MODELS)
def test_a_talk_through_a_pipe_answers_line_by_line(train, chat, picture: Path, model: str) -> None:
    train(model)
    asked = "what color is it\nand its size?\nHow many things are there?\n"
    answer = chat(asked)
    assert answer.code == 0 and len(answer.out.splitlines()) == 3, answer.err
    assert chat(asked + "QUIT\nwhat shape is it\n").out == answer.out, "nothing is answered after quit"
    told = [json.loads(line) for line in chat(asked, "--json").out.splitlines()]
    assert [line["answer"] for line in told] == answer.out.splitlines()
    assert told[1]["question"] == "and its size?"


def test_what_cannot_be_answered_is_said_and_forgotten(train, chat, picture: Path) -> None:
    train("dialogue-discriminative")
    without = chat("what color is it\nwhat size is it\n").out.splitlines()
    lines = chat(b"what color is it\nis the elephant a cirle\n\n\xff\xfe\nwhat size is it\n").out.splitlines()
    assert [lines[0], lines[-1]] == without and len(lines) == 5
    assert "'elephant', 'cirle'" in lines[1] and "ask" in lines[2]
    assert "did you mean 'circle'" in chat("is it a cirle\n").out


@pytest.mark.parametrize("model", MODELS)
def test_each_answer_is_the_models_in_the_light_of_all_before(train, picture: Path, model: str) -> None:
    train(model)
    talk = load("talk").chat(picture, "there is a small circle")
    spec, captions = talk.spec, torch.tensor([[*talk.spec.encode(["there", "is", "a", "small", "circle"]), END]])
    questions, answers = torch.zeros(1, 3, 4, dtype=torch.int64), torch.zeros(1, 3, 12, dtype=torch.int64)
    for number, question in enumerate(["what color is it", "and its size", "what shape is it"]):
        questions[0, number, : len(question.split())] = torch.tensor(spec.encode(question.split()))
        so_far = {"questions": questions[:, : number + 1], "answers": answers[:, : number + 1]}
        with torch.inference_mode():
            expected = talk.task.generate_answer({"images": talk.pixels[None], "captions": captions, **so_far})
        assert talk.ask(question) == " ".join(expected)
        answers[0, number, : len(expected) + 1] = torch.tensor([*spec.encode(expected), END])
    with pytest.raises(Unanswered, match="'purpl'"):
        talk.ask("is it purpl")
    assert len(talk.rounds) == 3


def test_what_a_talk_cannot_begin_with_is_one_line(train, zoo, picture: Path) -> None:
    train("dialogue-generative")
    assert zoo("chat", "talk", "nothing.png").is_one_line_error("nothing.png", "no such file")
    assert zoo("chat", "talk", "picture.png", "--caption", "a green elephant").is_one_line_error("--caption", "'elephant'")
    assert zoo("chat", "nobody", "picture.png").is_one_line_error("nobody")
    assert zoo("train", "softmax", "--epochs", "1", "--name", "digits").code == 0
    assert zoo("chat", "digits", "picture.png").is_one_line_error("softmax is for classification", "zoo predict RUN IMAGE...")
    with pytest.raises(UserError):
        load("talk").chat(Path("."))
