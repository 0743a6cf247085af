"""Sequences that must be remembered: what they ask for, what who remembers nothing gets, and that no two batches are alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.datamodules.bases.sequence_memory import EVALUATION_BATCH, EVALUATION_BATCHES, FixedSequenceLoader
from zoo.datamodules.memory import AddingProblem, CopyMemory

ALL = EVALUATION_BATCHES * EVALUATION_BATCH


def drawn(data: AddingProblem | CopyMemory, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = data.draw(count, torch.Generator().manual_seed(3))
    return batch["inputs"], batch["targets"]


def test_one_number_in_either_half_is_marked_and_their_sum_is_asked_for() -> None:
    inputs, targets = drawn(AddingProblem(1, 0, length=15), 20_000)
    numbers, markers = inputs.unbind(2)
    assert inputs.shape == (20_000, 15, 2) and numbers.min() >= 0 and numbers.max() <= 1
    assert set(markers.unique().tolist()) == {0, 1}
    assert markers[:, :7].sum(1).eq(1).all() and markers[:, 7:].sum(1).eq(1).all() and markers.sum(0).min() > 0
    torch.testing.assert_close((numbers * markers).sum(1), targets)
    assert targets.var().item() == pytest.approx(AddingProblem(1, 0).baseline, rel=0.03)


def test_ten_symbols_are_asked_for_in_their_order_after_the_mark() -> None:
    data = CopyMemory(1, 0, length=7)
    inputs, targets = drawn(data, 1000)
    assert inputs.shape == (1000, 27, 10) and targets.shape == (1000, 27) and inputs.sum(2).eq(1).all()
    read = inputs.argmax(2)
    assert torch.equal(read[:, :10], targets[:, 17:]) and set(read[:, :10].unique().tolist()) == set(range(1, 9))
    assert not read[:, 10:16].any() and read[:, 16].eq(9).all() and not read[:, 17:].any() and not targets[:, :17].any()


def test_the_baseline_is_the_loss_of_who_knows_nothing_but_the_time() -> None:
    data = CopyMemory(1, 0, length=80)
    assert data.baseline == pytest.approx(10 * math.log(8) / 100)
    _, targets = drawn(data, 50)
    scores = torch.full((50, 100, 9), -math.inf)
    scores[:, :90, 0] = 0
    scores[:, 90:, 1:] = 0
    assert float(F.cross_entropy(scores.transpose(1, 2), targets)) == pytest.approx(data.baseline)


def test_no_sequence_comes_twice_in_training_and_any_batch_can_be_made_alone() -> None:
    data = CopyMemory(8, 0, length=1, num_sequences=44)
    loader = data.train_dataloader()
    assert len(loader) == 6, "44 sequences in whole batches of 8"
    epochs = []
    for epoch in range(2):
        loader.position = lambda epoch=epoch: (epoch, 0)
        epochs += [batch["inputs"] for batch in loader]
    other_rank = CopyMemory(8, 0, length=1).train_dataloader()
    other_rank.rank = 1
    epochs.append(next(iter(other_rank))["inputs"])
    assert len(torch.cat(epochs).unique(dim=0)) == 13 * 8
    loader.position = lambda: (1, 4)
    assert [torch.equal(batch["inputs"], epochs[step]) for step, batch in enumerate(loader, 6 + 4)] == [True, True]


def test_evaluation_sees_each_sequence_once_on_any_number_of_processes_whatever_the_batch_and_seed() -> None:
    expected = torch.cat([batch["targets"] for batch in AddingProblem(7, 5, length=4).test_dataloader()])
    assert len(expected.unique()) == ALL
    draw = AddingProblem(1, 0, length=4).draw
    for world in (1, 2, 3):
        loaders = [list(FixedSequenceLoader(draw, "test", rank=rank, world=world)) for rank in range(world)]
        assert len({len(batches) for batches in loaders}) == 1, "all processes in step"
        seen = torch.cat([batch["targets"][batch["counted"]] for batches in loaders for batch in batches])
        assert torch.equal(seen.sort().values, expected.sort().values)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"length": 1}, "data.length=1: must be at least 2"), ({"num_sequences": 0}, "data.num_sequences=0: must be at least 1")],
)
def test_options_that_make_no_sequence_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AddingProblem(1, 0, **options)


def test_a_sequence_is_printed_with_what_it_asks_for(zoo) -> None:
    lines = zoo("data", "preview", "copy-memory", "--set", "data.length=3").out.split("\n")
    read, asked = lines[:2]
    assert read[:10] == asked[-10:] and read[10:] == "--?" + "-" * 10 and asked[:-10] == "-" * 13
    numbers, total = zoo("data", "preview", "adding-problem", "--set", "data.length=5").out.split("\n")[:2]
    marked = [float(number[1:-1]) for number in numbers.split() if number.startswith("[")]
    assert len(marked) == 2 and sum(marked) == pytest.approx(float(total.removeprefix("= ")), abs=0.011)
    assert zoo("data", "preview", "copy-memory", "-o", "x.png").is_one_line_error("x.png", "printed")
    facts = zoo("data", "show", "copy-memory", "--measure", "--set", "data.length=80").out
    assert "baseline     0.2079" in facts and f"test         {ALL}" in facts
