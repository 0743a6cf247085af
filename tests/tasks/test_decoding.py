"""Writing with a language model: what is drawn follows the distribution, beams find the likeliest, and state is carried."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import zoo
from zoo.core.errors import UserError
from zoo.tasks.decoding import Sampling, beam_search, greedy, sample

SPEC = zoo.TextSpec(tuple("abcd"))


def model(name: str = "char-lstm"):
    torch.manual_seed(2)
    task = zoo.create_model(name, SPEC, hidden_size=8, num_layers=2).eval()
    with torch.no_grad():
        task.head.weight.mul_(8)  # so that it has preferences
    return task


def prompt(text: str = "abca", rows: int = 1) -> torch.Tensor:
    return torch.tensor([SPEC.encode(text)]).expand(rows, -1)


def test_each_character_is_drawn_from_what_the_model_says_of_the_whole_text() -> None:
    task = model()
    text = torch.stack(list(sample(task.decode, prompt(), 30, Sampling(0.8), seed=3)), 1)
    whole = torch.cat([prompt(), text], 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for place in range(4, 34):  # nothing carried: the whole text is read again for each character
            probabilities = (task(whole[:, :place])[0][:, -1] / 0.8).softmax(1)
            assert torch.multinomial(probabilities, 1, generator=generator)[0, 0] == whole[0, place]


def test_the_share_of_each_character_is_its_probability() -> None:
    task = model()
    drawn = torch.cat(list(sample(task.decode, prompt(rows=20_000), 1, Sampling(), seed=0)))
    with torch.no_grad():
        expected = task(prompt())[0][0, -1].softmax(0)
    torch.testing.assert_close(drawn.bincount(minlength=4) / len(drawn), expected, atol=0.015, rtol=0)


def test_the_seed_decides() -> None:
    task = model()
    first, second, third = (torch.cat(list(sample(task.decode, prompt(), 40, Sampling(), seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    torch.testing.assert_close(Sampling(top_k=2).probabilities(scores), torch.tensor([[0.625, 0.375, 0, 0]]))
    torch.testing.assert_close(Sampling(top_p=0.79).probabilities(scores), torch.tensor([[0.625, 0.375, 0, 0]]))
    torch.testing.assert_close(Sampling(top_p=0.81).probabilities(scores), torch.tensor([[0.5, 0.3, 0.15, 0]]) / 0.95)
    torch.testing.assert_close(Sampling(top_p=0.01).probabilities(scores), torch.tensor([[1.0, 0, 0, 0]]))
    squared = torch.tensor([[0.25, 0.09, 0.0225, 0.0025]])
    torch.testing.assert_close(Sampling(0.5).probabilities(scores), squared / squared.sum())


@pytest.mark.parametrize("name", ["char-rnn", "char-gru", "char-lstm"])
def test_enough_beams_find_the_likeliest_of_all_texts(name: str) -> None:
    task = model(name)

    def log_probability(text: tuple[int, ...]) -> float:
        whole = torch.cat([prompt(), torch.tensor([text])], 1)
        with torch.no_grad():
            scores = task(whole[:, :-1])[0][0, -len(text) :].log_softmax(1)
        return float(scores.gather(1, torch.tensor(text)[:, None]).sum())

    exhaustive = {text: log_probability(text) for text in itertools.product(range(4), repeat=4)}
    texts, totals = beam_search(task.decode, task.select_rows, prompt(), 4, beams=64)
    best = max(exhaustive, key=exhaustive.get)
    assert tuple(texts[0, 0].tolist()) == best
    for text, total in zip(texts[0].tolist(), totals[0].tolist(), strict=True):
        assert total == pytest.approx(exhaustive[tuple(text)], abs=1e-4)
    one, _ = beam_search(task.decode, task.select_rows, prompt(), 4, beams=1)
    assert one[0, 0].tolist() == torch.cat(list(greedy(task.decode, prompt(), 4))).tolist()


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_what_cannot_be_drawn_from_is_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings)).replace("_", "-")):
        Sampling(**settings)


def test_the_command_writes_streams_several_beams_and_json(zoo) -> None:
    quick = (
        "--epochs",
        "1",
        "--set",
        "trainer.limit_train_batches=3",
        "--set",
        "model.hidden_size=16",
        "--set",
        "data.seq_len=32",
    )
    assert zoo("train", "char-gru", "--name", "poet", *quick).out.count("zoo sample poet") == 1
    text = zoo("sample", "poet", "--prompt", "The ", "--length", "20", "--seed", "5").out
    assert text.startswith("The ") and len(text) == 4 + 20 + 1
    assert zoo("sample", "poet", "--prompt", "The ", "--length", "20", "--seed", "5").out == text
    several = json.loads(zoo("sample", "poet", "--samples", "3", "--length", "9", "--json").out)
    assert len({item["text"] for item in several}) == 3 and all(len(item["text"]) == 9 for item in several)
    assert len(json.loads(zoo("sample", "poet", "--beams", "4", "--length", "5", "--json").out)) == 4
    assert len(json.loads(zoo("sample", "poet", "--greedy", "--length", "5", "--json").out)) == 1
    assert zoo("sample", "poet", "--prompt", "snow ☃").is_one_line_error("unknown characters", "'☃'")
    assert zoo("sample", "poet", "--temperature", "0").is_one_line_error("--temperature 0", "above 0")
    assert zoo("sample", "poet", "--temperature", "-2").is_one_line_error("--temperature -2")
    assert zoo("sample", "poet", "--temperature", "1e-40").is_one_line_error("--temperature 1e-40", "decode greedily")
    assert zoo("sample", "poet", "--seed", "9" * 30, "--length", "3").code == 0
    assert zoo("sample", "poet", "--length", "many").is_one_line_error("--length many")
    assert zoo("sample", "poet", "--beams", "3", "--greedy").is_one_line_error("mutually exclusive")
    assert zoo("sample", "poet", "--greedy", "--temperature", "0.5").is_one_line_error("--greedy", "omit --temperature")
    both = zoo("sample", "poet", "--beams", "3", "--top-k", "5", "--top-p", "0.9")
    assert both.is_one_line_error("--beams", "omit --top-k and --top-p")
    assert zoo("sample", "poe").is_one_line_error("no run 'poe'", "'poet'")
    assert zoo("train", "softmax", "--epochs", "1", "--name", "linear").code == 0
    assert zoo("sample", "linear").is_one_line_error("softmax", "generates no text")
