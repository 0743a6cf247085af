"""The captioning task: its loss worked out word by word, and figures that count each picture once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoo.config.recipe import Recipe
from zoo.datamodules.loading.splits import ImagesInMemory
from zoo.metrics.captions import caption_scores
from zoo.spec import END, IGNORE, PAD, SPECIAL_WORDS, START, CaptionSpec, ImageSpec
from zoo.tasks.captioning import Captioner

SPEC = CaptionSpec(ImageSpec(1, 2, 2, classes=()), (*SPECIAL_WORDS, "a", "b", "c"), length=4)


class Table(Captioner):
    """Scores of the next word by the last one, and the brightest pixel as that word's bonus: all is known by hand."""

    def __init__(self, beams: int = 1) -> None:
        super().__init__(SPEC, Recipe(), beams)
        self.table = nn.Parameter(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))

    def encode(self, images):
        return images.flatten(1).float()

    def decode(self, encoded, captions):
        return self.table[captions] + encoded.mean(1)[:, None, None, None] * torch.arange(7)

    def initial_state(self, encoded):
        return (encoded,)

    def decode_step(self, tokens, state):
        return self.table[tokens[:, -1]] + state[0].mean(1)[:, None] * torch.arange(7), state


def batch(*captions: list[str], first: int = 0) -> dict:
    labels = torch.full((len(captions), max(map(len, captions)), SPEC.length + 1), PAD)
    for picture, sentences in enumerate(captions):
        for row, sentence in enumerate(sentences):
            places = [START, *SPEC.encode(sentence.split()), END]
            labels[picture, row, : len(places)] = torch.tensor(places)
    images = torch.zeros(len(captions), 1, 2, 2, dtype=torch.uint8)
    return {"images": images, "labels": labels, "image_id": torch.arange(first, first + len(captions))}


def nats(task: Table, sentence: str) -> list[float]:
    places = [START, *SPEC.encode(sentence.split()), END]
    table = task.table.detach().double().log_softmax(1)
    return [-float(table[before, after]) for before, after in zip(places, places[1:], strict=False)]


def test_the_loss_is_the_mean_over_all_words_of_all_captions_ends_included() -> None:
    task = Table()
    losses = nats(task, "a b c") + nats(task, "c") + nats(task, "b b")
    assert len(losses) == 4 + 2 + 3
    loss = task.training_step(batch(["a b c", "c"], ["b b"]), 0)
    assert float(loss.detach()) == pytest.approx(sum(losses) / 9, rel=1e-5)


@dataclass
class Split:
    images: ImagesInMemory
    columns: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.images.pixels)


def data(references: list[list[str]], truths: list[bool] | None = None) -> SimpleNamespace:
    told = SimpleNamespace(references=lambda pictures: [[s.split() for s in references[i]] for i in pictures.tolist()])
    if truths is not None:
        told.true_captions = lambda pictures, captions: [truths[i] for i in pictures.tolist()]
    return told


def evaluated(task: Table, batches: list[dict], of: SimpleNamespace) -> dict[str, float]:
    task.trainer = SimpleNamespace(datamodule=of)
    for part in batches:
        task.evaluation_step("test", part)
    return task.compute_metrics("test")


class Attached(Table):
    trainer = None  # in place of Lightning's property


def test_figures_are_those_of_all_captions_together_in_whatever_batches() -> None:
    given = [["a b c", "c"], ["b b"], ["c a"]]
    task = Attached()
    apart = evaluated(task, [batch(given[2], first=2), batch(*given[:2])], data(given))
    together = evaluated(task, [batch(*given)], data(given))
    assert apart == pytest.approx(together)
    losses = [value for sentences in given for sentence in sentences for value in nats(task, sentence)]
    assert together["loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)
    with torch.no_grad():
        encoded = task.encode(batch(*given)["images"])
        written = [SPEC.decode(row) for row in task.generate(encoded, 1).tolist()]
    expected = caption_scores(written, [[s.split() for s in sentences] for sentences in given])
    assert {name: together[name] for name in expected} == pytest.approx(expected)
    assert "truth" not in together


def test_a_batch_that_only_keeps_processes_in_step_does_not_count() -> None:
    given = [["a b c", "c"], ["b b"]]
    task = Attached()
    spare = {**batch(*given), "labels": torch.full((2, 2, SPEC.length + 1), IGNORE)}
    assert evaluated(task, [batch(*given), spare], data(given)) == evaluated(task, [batch(*given)], data(given))


def test_truth_is_the_share_of_true_captions() -> None:
    given = [["a"], ["b"], ["c"], ["a b"]]
    task = Attached()
    assert evaluated(task, [batch(*given)], data(given, [True, False, True, True]))["truth"] == 0.75


def test_every_figure_has_a_direction() -> None:
    given = [["a"], ["b"]]
    values = evaluated(Attached(), [batch(*given)], data(given, [True, True]))
    assert values.keys() == Captioner.directions.keys()


def test_a_caption_never_has_more_words_than_the_spec_says() -> None:
    task = Table()
    with torch.no_grad():
        task.table[:, END] = -100
    assert task.generate(task.encode(batch(["a"], ["b"])["images"]), 1).shape == (2, SPEC.length)
    assert task.generate(task.encode(batch(["a"], ["b"])["images"]), 3).shape == (2, SPEC.length)


def test_trackers_get_captions_beside_the_references_of_the_same_images() -> None:
    given = [["a b"], ["b", "c"], ["a"]]
    split = ImagesInMemory(torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous())
    columns = {"image_id": torch.tensor([2, 0, 1])}
    of = data(given)
    of.splits = {"val": Split(split, columns)}
    task = Table()
    samples = task.validation_samples(of)
    shown = [(int(each.image[0, 0, 0]), each.turns[0].expected) for each in samples.scenes]
    assert shown == [(0, "a"), (1, "a b"), (2, "b / c")]
    for each in samples.scenes:
        with torch.no_grad():
            (written,) = task.generate(task.encode(each.image[None]), 1).tolist()
        assert each.turns[0].answer.split()[: len(SPEC.decode(written))] == SPEC.decode(written)
