"""The character transformer: causal, the same with and without its cache, and of the published size."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.core.errors import UserError
from zoo.tasks.decoding import Sampling, beam_search, sample

SPEC = zoo.TextSpec(tuple("abcdefgh"))


def model(**options):
    torch.manual_seed(0)
    task = zoo.create_model(
        "char-transformer", SPEC, **{"num_layers": 2, "num_heads": 2, "embed_dim": 16, "context_length": 24, **options}
    ).eval()
    with torch.no_grad():
        task.head.weight.mul_(20)  # so that it has preferences
    return task


def text(length: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 8, (rows, length), generator=torch.Generator().manual_seed(1))


def test_no_character_sees_those_behind_it() -> None:
    task, tokens = model(), text(20)
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 8
    with torch.no_grad():
        before, after = task(tokens)[0], task(changed)[0]
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_the_cache_gives_what_reading_everything_gives() -> None:
    task, tokens = model(), text(24)
    with torch.no_grad():
        whole, state = task(tokens)[0], None
        for place in range(24):
            scores, state = task.decode(tokens[:, place : place + 1], state)
            torch.testing.assert_close(scores, whole[:, place], rtol=1e-5, atol=1e-5)


def test_the_same_text_is_written_with_the_cache_and_without_beyond_the_context() -> None:
    task = model()

    def without(tokens, state):
        return task.decode(tokens, state, cached=False)

    cached, again = (torch.stack(list(sample(way, text(5), 100, Sampling(), 3)), 1) for way in (task.decode, without))
    assert torch.equal(cached, again) and len(torch.unique(cached)) > 3


def test_beams_keep_their_own_past() -> None:
    task = model()
    texts, totals = beam_search(task.decode, task.select_rows, text(5, rows=1), 8, beams=5)
    for written, total in zip(texts[0], totals[0], strict=True):
        whole = torch.cat([text(5, rows=1)[0], written])
        with torch.no_grad():
            scores = task(whole[None, :-1])[0][0, -8:].log_softmax(1)
        torch.testing.assert_close(scores.gather(1, written[:, None]).sum(), total, rtol=1e-4, atol=1e-4)


def test_the_size_is_that_of_the_reference() -> None:
    """nanoGPT's smallest for this text: 4 layers of 128, context 64, 65 characters; it ties the head and leaves out biases."""
    shakespeare = zoo.TextSpec(tuple(map(chr, range(65))))
    task = zoo.create_model("char-transformer", shakespeare, num_layers=4, num_heads=4, embed_dim=128, context_length=64)
    weights = sum(p.numel() for p in task.parameters() if p.ndim > 1)
    assert weights == 4 * 12 * 128**2 + (65 + 64 + 65) * 128


def test_it_starts_at_the_loss_of_guessing() -> None:
    task = zoo.create_model("char-transformer", SPEC, dropout=0.0)
    loss = task.training_step(task.example_batch(16), 0)
    assert float(loss.detach()) == pytest.approx(torch.tensor(8.0).log().item(), abs=0.1)


def test_what_it_cannot_take_is_one_line(zoo) -> None:
    for command in (["train", "char-transformer"], ["show", "char-transformer", "--layers"]):
        refused = zoo(*command, "--set", "data.seq_len=256")
        assert refused.is_one_line_error("data.seq_len=256", "data.seq_len=128 or model.context_length=256 fits"), command
    assert zoo("train", "char-transformer", "--set", "model.num_heads=3").is_one_line_error(
        "model.num_heads=3", "model.embed_dim=128"
    )
    with pytest.raises(UserError, match="context_length=0"):
        model(context_length=0)
