"""What networks of each kind of work say in a report, held against the worlds that they were asked about and other commands."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.api.trained import TrainedRun
from zoo.datamodules.worlds import dialogues, questions, shapes
from zoo.metrics.label_noise import label_suspects
from zoo.pictures.predictions import load_trained
from zoo.registry.registry import scan
from zoo.report.page import render
from zoo.report.samples import scene as scene_address
from zoo.report.samples import take_samples, thumbnail
from zoo.report.subject import read_subject
from zoo.spec import END, IGNORE, SPECIAL_WORDS, UNKNOWN_ANSWER, ImageSpec, QuestionSpec
from zoo.tasks.question_answering import expected_answers
from zoo.tasks.samples import SampleImage, Samples, Scene, Text, Turn, evenly_spread, part_of
from zoo.training.building import build_data
from zoo.training.run_folder import RunFolder

LIMITS = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
SCENES = ("data.num_images=16", "model.encoder_options={channels: [4, 8]}")


@pytest.fixture
def train(zoo):
    """``train("mlp", "data.size=8")``: a run after an epoch, which is hardly trained."""

    def call(model: str, *settings: str, epochs: int = 1) -> RunFolder:
        given = [part for text in settings for part in ("--set", text)]
        answer = zoo("train", model, "--epochs", epochs, "--name", "asked", *given)
        assert answer.code == 0, answer.err
        return RunFolder.find("asked")

    return call


def pixels(source: str) -> np.ndarray:
    """A ``data:`` address as colors, [rows, columns, 3]."""
    kind, _, content = source.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def open_run(folder: RunFolder) -> tuple[Any, Any]:
    """Its network and its data."""
    registry = scan()
    task, run = load_trained(registry, folder, "best")
    return task, build_data(registry, run)


# ------------------------------------------------------------------ each kind of work


def test_questions_are_answered_as_by_zoo_predict(train) -> None:
    folder = train("vqa-lstm", *SCENES, *LIMITS, "data.num_images=120", "model.hidden_size=8", "trainer.limit_test_batches=1")
    samples = take_samples(scan(), folder)
    assert samples.missing == "" and len(samples.scenes) == 8
    scenes = shapes.draw_scenes(0, "test", range(120))
    things, pictures = scenes.things(), shapes.render(scenes, 64)
    task, _ = open_run(folder)
    for scene in samples.scenes:
        index = int(scene.alt.removeprefix("test image "))
        np.testing.assert_array_equal(pixels(scene_address(scene.image))[::3, ::3], pictures[index].permute(1, 2, 0))
        known = {f"{words}?": answer for words, answer, _ in questions.ask_questions(things[index], int(scenes.key[index]), 6)}
        assert len(scene.turns) == 4
        for turn in scene.turns:
            assert known[turn.question] == turn.expected and turn.is_correct == (turn.answer == turn.expected)
            with torch.inference_mode():
                (answer,) = task.predict_images(pictures[index][None], turn.question)
            assert answer.name == turn.answer and answer.probability == pytest.approx(turn.probability, abs=1e-5)
        wrong_first = [turn.is_correct for turn in scene.turns]
        assert wrong_first == sorted(wrong_first)
    share, count = re.search(r"correct on ([\d.]+)% of the (\d+) questions about 100 of the 120", samples.about).groups()
    # every question counts, not only those that are shown
    chosen = np.linspace(0, 119, 100).round().astype(int)
    asked = [questions.ask_questions(things[index], int(scenes.key[index]), 6) for index in chosen]
    right = 0
    for index, of_picture in zip(chosen, asked, strict=True):
        words = torch.zeros(1, 6, task.spec.length, dtype=torch.int64)
        for place, (text, _, _) in enumerate(of_picture):
            row = task.spec.encode(text.split())
            words[0, place, : len(row)] = torch.tensor(row)
        with torch.inference_mode():
            said = task.predict_step({"images": pictures[index][None], "questions": words})[0].argmax(-1).tolist()
        right += sum(task.spec.answers[s] == answer for s, (_, answer, _) in zip(said, of_picture, strict=False))
    assert int(count) == sum(map(len, asked)) and float(share) == pytest.approx(100 * right / int(count), abs=0.06)


def test_what_several_people_answered_is_told() -> None:
    spec = QuestionSpec(ImageSpec(3, 8, 8, ()), SPECIAL_WORDS, ("yes", "no"), 4)
    assert expected_answers(spec, torch.tensor([1])) == "no"
    assert expected_answers(spec, torch.tensor([UNKNOWN_ANSWER])) == "an answer outside the list"
    assert (
        expected_answers(spec, torch.tensor([1, 0, UNKNOWN_ANSWER, 0, IGNORE]))
        == "yes (2), no (1), an answer outside the list (1)"
    )


def test_a_dialogue_goes_on_from_the_right_answers(train) -> None:
    folder = train("dialogue-discriminative", *SCENES, *LIMITS, "data.num_rounds=3", "model.hidden_size=12", "model.embed_dim=8")
    samples = take_samples(scan(), folder)
    assert samples.missing == "" and len(samples.scenes) == 6
    assert "the most probable of 24 candidates" in samples.about
    drawn = shapes.draw_scenes(0, "test", range(16), fewest=3)
    things, pictures = drawn.things(), shapes.render(drawn, 64)
    for scene in samples.scenes:
        index = int(scene.alt.removeprefix("test image "))
        held = dialogues.hold_dialogue(things[index], int(drawn.key[index]), 3)
        assert scene.title == held.caption
        assert [(turn.question, turn.expected) for turn in scene.turns] == [(f"{r.question}?", r.answer) for r in held.rounds]
        Image.fromarray(pictures[index].permute(1, 2, 0).numpy()).save("picture.png")
        talk = TrainedRun(folder).chat(Path("picture.png"), held.caption)
        for place, turn in enumerate(scene.turns):
            assert talk.ask(turn.question) == turn.answer and turn.is_correct == (turn.answer == turn.expected)
            # what was said is replaced by what is right
            (asked, _), right = talk.rounds[place], held.rounds[place].answer
            talk.rounds[place] = (asked, [*talk.spec.encode(right.split()), END])


@pytest.mark.slow
def test_an_agent_is_seen_from_above(train, zoo, monkeypatch) -> None:
    monkeypatch.setattr("zoo.tasks.navigation.MOST_WALKED", 72)  # episodes, in place of 256
    tiny = ("data.num_houses=2", "data.num_starts=2", "model.hidden_size=8", "model.channels=[4, 4]", "recipe.batch_size=72")
    folder = train("navigator", *tiny, *LIMITS, "trainer.limit_test_batches=1")
    samples = take_samples(scan(), folder)
    assert samples.missing == "" and len(samples.scenes) == 6
    succeeded, total = map(int, re.match(r"(\d+) of (\d+) test episodes", samples.about).groups())
    tested = json.loads(zoo("test", "asked", "--json", "--set", "trainer.limit_test_batches=1").out)
    assert total == 72 and succeeded / total == pytest.approx(tested["test/success"], abs=1e-6)
    right = [turn.is_correct for scene in samples.scenes for turn in scene.turns]
    assert right == [True] * min(succeeded, 3) + [False] * (6 - min(succeeded, 3))
    for scene in samples.scenes:
        (turn,) = scene.turns
        assert turn.answer in scene.alt and turn.question.split()[0] in ("go", "turn", "walk", "take", "halt", "stop", "move")
        picture = pixels(scene_address(scene.image))
        assert picture.shape == (288, 288, 3)
        assert (np.abs(picture.astype(int) - (255, 169, 14)).max(-1) < 20).sum() > 30  # the agent's own way, in its orange


@pytest.mark.parametrize(("data", "metric"), [("copy-memory", "accuracy"), ("adding-problem", "solved")])
def test_sequences_are_told_beside_what_is_said(train, zoo, data: str, metric: str) -> None:
    folder = train(
        "gru",
        f"data.name={data}",
        "data.length=6",
        "data.num_sequences=512",
        "model.hidden_size=8",
        "trainer.limit_test_batches=1",
    )
    samples = take_samples(scan(), folder)
    assert samples.missing == "" and len(samples.texts) == 6
    tested = json.loads(zoo("test", "asked", "--json", "--set", "trainer.limit_test_batches=1").out)
    count = int(re.search(r"Of the first (\d+) test sequences", samples.about)[1])
    decimals = 0 if count <= 100 else 1
    assert f"is correct on {tested[f'test/{metric}']:.{decimals}%} " in samples.about
    task, module = open_run(folder)
    batch = next(iter(module.test_dataloader()))
    with torch.inference_mode():
        said = task.predict_step(batch)
    for row, text in enumerate(samples.texts):
        lines = [line[11:] for line in text.text.splitlines()]
        assert "\n".join(lines[:2]) == module.to_text(batch["inputs"][row], batch["targets"][row])
        if metric == "accuracy":
            assert text.is_aligned and len(set(map(len, lines))) == 1
            assert lines[2] == "".join(task.spec.symbols[place] for place in said[row].argmax(1).tolist())
            assert text.title.endswith(f"expected {lines[1][-10:]}, predicted {lines[2][-10:]}")
        else:
            assert not text.is_aligned and lines[2] == f"= {float(said[row]):.2f}"
        right = lines[2] == lines[1] if metric == "accuracy" else abs(float(said[row] - batch["targets"][row])) < 0.04
        assert text.title.startswith("✓" if right else "✗")


def test_points_are_drawn_in_their_plane(train) -> None:
    folder = train("softmax", "data.name=blobs", epochs=3)
    samples = take_samples(scan(), folder)
    (scene,) = samples.scenes
    assert samples.confusion is not None and not samples.images and not samples.about_labels
    assert "Decision regions: test accuracy" in scene.alt and min(pixels(scene_address(scene.image)).shape[:2]) > 300


# ------------------------------------------------------------------ labels


def test_labels_to_look_at_are_training_images_as_they_lie_in_their_folder(train) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 4)):
        for place, name in enumerate(("dark", "light")):
            folder = Path("photos") / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                of_other = split == "train" and number < 3
                gray = 40 + 170 * (place != of_other) + generator.integers(0, 40, (8, 8, 3))
                Image.fromarray(gray.astype(np.uint8)).save(folder / f"{'wrong' if of_other else 'right'}{number}.png")
    folder = train("softmax", "data.name=folder", "data.root=photos", "data.size=8", "data.augment=light", epochs=8)
    samples = take_samples(scan(), folder)
    assert samples.about_labels.startswith("Of all ") and f" {len(samples.suspects)} look" in samples.about_labels
    assert 2 <= len(samples.suspects) <= 6  # the others are held out for validation
    for each in samples.suspects:
        assert re.fullmatch(rf"train/{each.label}/wrong\d.png", each.name) and each.predicted != each.label
        assert (pixels(thumbnail(each.image)).mean() > 128) == (each.predicted == "light")


def test_the_most_suspicious_labels_come_first(train) -> None:
    folder = train("mlp")
    task, data = open_run(folder)
    with torch.inference_mode():
        told, images = task.suspect_labels(data)
        train_split = data.splits["train"]
        probabilities = task.predict_step({"images": train_split.images.pixels})
    suspects, said = label_suspects(train_split.labels, probabilities)
    assert f"Of all {len(train_split):,} training images, {len(suspects)} look" in told and len(images) == min(12, len(suspects))
    assert [image.name for image in images] == [f"training image {place}" for place in suspects[:12].tolist()]
    assert [image.predicted for image in images] == [str(place) for place in said[:12].tolist()]
    first = suspects[0]
    assert images[0].probability == pytest.approx(float(probabilities[first, said[0]]), abs=1e-6)


def test_a_network_that_agrees_with_all_labels_has_none_to_look_at(train, zoo) -> None:
    folder = train("knn", "model.k=1")
    task, data = open_run(folder)
    with torch.inference_mode():
        told, images = task.suspect_labels(data)
    assert images == [] and re.fullmatch(r"Of all 1,29\d training images none looks mislabeled\.", told)


# ------------------------------------------------------------------ the page


def test_all_that_is_said_is_text(write_run) -> None:
    hostile = "<script>alert(1)</script>"
    picture = torch.zeros(3, 4, 4, dtype=torch.uint8)
    subject = read_subject(scan(), write_run("hostile"), "hostile")
    turns = tuple(Turn(hostile, hostile, is_correct, hostile, 0.5) for is_correct in (True, False, None))
    subject.samples = Samples(
        about=hostile,
        missing=hostile,
        scenes=[Scene(picture, hostile, hostile, turns)],
        texts=[Text(hostile, hostile, is_aligned=True)],
        about_labels=hostile,
        suspects=[SampleImage(picture, hostile, hostile, None, 0.5, hostile)],
    )
    page = render([subject], 100)
    section = page[page.index('<section aria-labelledby="samples-1">') :].partition("</section>")[0]
    assert "<script" not in section and section.count("&lt;script&gt;") == 19
    assert section.count("✓") == section.count("✗") == 1 and "Labels to check" in section
    assert section.count("<img ") == section.count(' alt="') == 2


def test_a_part_is_told_apart_from_all() -> None:
    assert part_of(3, 3, "test images") == "all 3 test images"
    assert part_of(2000, 10000, "test images") == "2,000 of the 10,000 test images"
    assert evenly_spread(3, 12).tolist() == [0, 1, 2] and evenly_spread(101, 3).tolist() == [0, 50, 100]
    assert evenly_spread(0, 3).tolist() == [] and evenly_spread(5, 0).tolist() == []
