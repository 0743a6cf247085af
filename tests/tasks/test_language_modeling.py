"""Language models: state is carried and kept, losses are those of the whole text, and a resumed run is the same run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.datamodules.loading.text_chunks import HeldOutTextLoader
from zoo.spec import IGNORE
from zoo.training.checkpoints import read_checkpoint

SPEC = zoo.TextSpec(tuple("abcdefgh"))
RECURRENT = ("char-rnn", "char-gru", "char-lstm")
TINY = ("--set", "model.hidden_size=16", "--set", "recipe.batch_size=8", "--set", "data.seq_len=32")


def create(name: str, **options):
    torch.manual_seed(0)
    return zoo.create_model(name, SPEC, Recipe(), **{"hidden_size": 12, "num_layers": 2, **options}).double().eval()


def random_text(length: int) -> torch.Tensor:
    return torch.randint(0, len(SPEC.vocabulary), (length,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("options", [{}, {"input": "one-hot"}, {"tie_weights": True}, {"num_layers": 1}], ids=str)
def test_a_text_in_chunks_with_the_state_carried_is_the_text_in_one_piece(name: str, options: dict) -> None:
    task, text = create(name, **options), random_text(97)[None]
    whole, last = task(text)
    parts, state = [], None
    for part in text.split(32, 1):
        scores, state = task(part, state)
        parts.append(scores)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("name", RECURRENT)
def test_the_loss_over_a_stream_does_not_depend_on_chunks_or_processes(name: str) -> None:
    task, text = create(name), random_text(5000)

    def loss(chunk: int, world: int = 1) -> float:
        total, count = 0.0, 0
        for rank in range(world):
            task.evaluation_state = None
            for batch in HeldOutTextLoader(text, chunk, rank=rank, world=world):
                state = task._reset_fresh_rows(task.evaluation_state, batch["fresh"])
                scores, task.evaluation_state = task(batch["tokens"], state)
                targets = batch["targets"].flatten()
                total += float(F.cross_entropy(scores.flatten(0, 1), targets, reduction="sum", ignore_index=IGNORE).detach())
                count += int((targets != IGNORE).sum())
        assert count == len(text) - 1
        return total / count

    one_piece = loss(0)
    assert loss(32) == pytest.approx(one_piece, abs=1e-9)
    assert loss(100, world=3) == pytest.approx(one_piece, abs=1e-9)


def test_rows_that_begin_lose_their_state_and_others_keep_it() -> None:
    task = create("char-lstm")
    _, state = task(random_text(20).view(2, 10))
    kept = task._reset_fresh_rows(state, torch.tensor([True, False]))
    for before, after in zip(state, kept, strict=True):
        assert not after[:, 0].any() and torch.equal(after[:, 1], before[:, 1])


def test_gradients_stop_at_the_chunk_and_the_state_goes_on() -> None:
    task = create("char-rnn", num_layers=1)
    task.train()
    text = random_text(21)[None]
    first = {"tokens": text[:, :10], "targets": text[:, 1:11], "fresh": torch.tensor([True])}
    second = {"tokens": text[:, 10:20], "targets": text[:, 11:21], "fresh": torch.tensor([False])}
    task.training_step(first, 0)
    carried = task.stream_state
    assert not carried.requires_grad
    loss = task.training_step(second, 1)
    by_hand = F.cross_entropy(task(second["tokens"], carried)[0][0], second["targets"][0])
    torch.testing.assert_close(loss, by_hand)


def test_metrics_are_the_loss_in_other_units_and_clipped_steps_are_counted(zoo) -> None:
    settings = ("--epochs", "2", "--set", "trainer.limit_train_batches=20", "--set", "recipe.gradient_clip_val=0.05", *TINY)
    answer = zoo("train", "char-lstm", "--name", "small", *settings)
    assert answer.code == 0, answer.err
    records = [json.loads(line) for line in Path("runs/small/metrics.jsonl").read_text().splitlines()]
    for record in records:
        if "val/loss" in record:
            assert record["val/bits_per_character"] == pytest.approx(record["val/loss"] / math.log(2))
            assert record["val/perplexity"] == pytest.approx(math.exp(record["val/loss"]))
    shares = [record["train/clipped"] for record in records if "train/loss" in record]
    assert shares and all(0 < share <= 1 for share in shares)
    assert zoo("test", "small").code == 0
    assert zoo("predict", "small", ".").code == 2
    assert zoo("picture", "confusion", "small").is_one_line_error("confusion", "char-lstm", "language-modeling")


def test_a_run_that_is_stopped_within_a_row_ends_with_the_same_weights(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.models.recurrent_language_models import CharLSTM

    settings = ("--epochs", "2", "--set", "trainer.limit_train_batches=20", *TINY)
    assert zoo("train", "char-lstm", "--name", "whole", *settings).code == 0
    original = CharLSTM.on_train_batch_start

    def failing(self, batch, batch_idx):
        if self.trainer.global_step == 27:
            raise RuntimeError("the power is gone")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(CharLSTM, "on_train_batch_start", failing)
        zoo("train", "char-lstm", "--name", "stopped", *settings)
    kept = torch.load("runs/stopped/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 27 and kept["stream_state"][0].any()
    assert zoo("train", "--resume", "stopped").code == 0
    whole, resumed = (read_checkpoint(Path(f"runs/{name}/checkpoints/last.ckpt"))["state_dict"] for name in ("whole", "stopped"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_what_a_language_model_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match="tie_weights"):
        create("char-gru", tie_weights=True, input="one-hot")
    with pytest.raises(UserError, match="hidden_size=0"):
        create("char-gru", hidden_size=0)
    with pytest.raises(UserError, match="dropout"):
        create("char-gru", dropout=1.5)
