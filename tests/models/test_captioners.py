"""Captioners: what they say step by step is what they say at once, no word sees a later one, and kept features change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.spec import END, PAD, SPECIAL_WORDS, START, UNKNOWN, CaptionSpec, ImageSpec
from zoo.tasks.decoding import beam_search, greedy, until

SPEC = CaptionSpec(ImageSpec(3, 32, 32, classes=()), (*SPECIAL_WORDS, *"abcdefgh"), length=7)
NAMES = ["captioner", "captioner-attention", "captioner-transformer"]
LOOKING = NAMES[1:]


def model(name: str, **options):
    torch.manual_seed(3)
    entry = scan().model(name)
    return zoo.create_model(name, SPEC, **{**entry.tiny, **options}).eval()


def trained(name: str):
    """One that has learned to tell dark pictures from bright ones, in sentences of different lengths."""
    task = model(name).train()
    images = pictures(12)
    captions = torch.full((12, 2, SPEC.length + 1), PAD)
    for row, words in enumerate(("a b", "a b c d", "e f g h a")):
        for caption in (words, words[:-1] + "h"):
            places = [START, *SPEC.encode(caption.split()), END]
            captions[4 * row : 4 * row + 4, int(caption != words), : len(places)] = torch.tensor(places)
    captions[8:, 1] = PAD
    optimizer = torch.optim.Adam(task.parameters(), 0.02)
    for _ in range(80):
        optimizer.zero_grad()
        task.training_step({"images": images, "labels": captions}, 0).backward()
        optimizer.step()
    return task.eval()


def pictures(number: int) -> Tensor:
    """From black to bright noise: of equal noise networks say the same."""
    noise = torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return (noise * torch.linspace(0, 255, number)[:, None, None, None]).to(torch.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_it_says_what_it_says_at_once(name: str) -> None:
    task = model(name)
    batch = task.example_batch(3)
    captions = batch["labels"][:, :1, :-1]
    with torch.no_grad():
        encoded = task.encode(batch["images"])
        whole, state, parts = task.decode(encoded, captions)[:, 0], task.initial_state(encoded), []
        for first, last in ((0, 1), (1, 2), (2, 5), (5, 7)):
            scores, state = task.decode_step(captions[:, 0, first:last], state)
            torch.testing.assert_close(scores, whole[:, last - 1])
            parts.append(scores)
    assert parts[0].std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_no_word_sees_a_later_one_and_no_caption_another(name: str) -> None:
    task = model(name)
    batch = task.example_batch(2)
    captions = batch["labels"][:, :, :-1]
    changed = captions.clone()
    changed[:, 0, 4:] = 5
    with torch.no_grad():
        before, after = (task(batch["images"], text) for text in (captions, changed))
    torch.testing.assert_close(after[:, 0, :4], before[:, 0, :4])
    torch.testing.assert_close(after[:, 1], before[:, 1])
    assert not torch.allclose(after[:, 0, 4:], before[:, 0, 4:])


@pytest.mark.parametrize("name", NAMES)
def test_it_never_writes_a_special_word_and_one_beam_is_greedy(name: str) -> None:
    task = trained(name)
    images = pictures(12)
    with torch.no_grad():
        task.head.bias[[PAD, START, UNKNOWN]] += 100
        encoded = task.encode(images)
        written = [task.spec.decode(row) for row in task.generate(encoded, 1).tolist()]
        chosen = until(END, greedy(task.decoder(encoded), task.start_tokens(encoded), SPEC.length))
        texts, totals = beam_search(task.decoder(encoded), task.select_rows, task.start_tokens(encoded), SPEC.length, 1, END)
    assert written == [task.spec.decode(row) for row in chosen.tolist()] == [task.spec.decode(row[0]) for row in texts.tolist()]
    assert not {word for words in written for word in words} & set(SPECIAL_WORDS)
    assert len({tuple(words) for words in written}) > 1, "all pictures are told alike, and nothing is shown"


@pytest.mark.parametrize("name", NAMES)
def test_a_wider_beam_finds_no_less_and_pictures_do_not_mix(name: str) -> None:
    task = trained(name)
    with torch.no_grad():
        encoded = task.encode(pictures(8))
        found = [
            beam_search(task.decoder(encoded), task.select_rows, task.start_tokens(encoded), SPEC.length, width, END)
            for width in range(1, 5)
        ]
        alone = [
            beam_search(task.decoder(one), task.select_rows, task.start_tokens(one), SPEC.length, 4, END)[1]
            for one in encoded.split(1)
        ]
    for (_, narrow), (_, wide) in zip(found, found[1:], strict=False):
        assert (wide[:, 0] >= narrow[:, 0] - 1e-5).all()
    torch.testing.assert_close(torch.cat(alone)[:, 0], found[-1][1][:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOOKING)
def test_where_it_looks_is_a_share_of_each_place_and_moves_what_it_says(name: str) -> None:
    task = model(name)
    batch = task.example_batch(2)
    captions = batch["labels"][:, :, :-1]
    with torch.no_grad():
        encoded = task.encode(batch["images"])
        scores, looks = task.decode_with_attention(encoded, captions)
    assert looks.shape == (2, 2, SPEC.length, 16)
    torch.testing.assert_close(looks.sum(3), torch.ones(2, 2, SPEC.length))
    torch.testing.assert_close(scores, task.decode(encoded, captions))


def test_what_is_gathered_is_the_weighted_mean_of_the_places() -> None:
    """Xu et al. 2015, equation 13, with the product of Luong et al. as the fit."""
    task = model("captioner-attention")
    attention = task.attention
    queries, features = torch.randn(2, 3, 12), torch.randn(2, 16, 10)
    with torch.no_grad():
        gathered, weights = attention(queries, attention.keys(features), features)
        for picture in range(2):
            for row in range(3):
                query = attention.query.weight @ queries[picture, row] + attention.query.bias
                fit = torch.stack([query @ (attention.key.weight @ place) / 10**0.5 for place in features[picture]])
                expected = (fit.exp() / fit.exp().sum()) @ features[picture]
                torch.testing.assert_close(gathered[picture, row], expected)
    assert weights.shape == (2, 3, 16)


def test_the_penalty_asks_that_every_place_is_looked_at_once() -> None:
    plain, penalized = model("captioner-attention"), model("captioner-attention", coverage_weight=0.7)
    batch = plain.example_batch(2)
    batch["labels"][1, 1] = PAD  # a picture with one caption less
    captions = batch["labels"]
    looks = plain.decode_with_attention(plain.encode(batch["images"]), captions[:, :, :-1])[1]
    per_caption = []
    for picture, row in ((0, 0), (0, 1), (1, 0)):
        words = int((captions[picture, row, 1:] != PAD).sum())
        sums = looks[picture, row, :words].sum(0)
        per_caption.append(((1 - sums) ** 2).mean())
    expected = plain.training_step(dict(batch), 0) + 0.7 * torch.stack(per_caption).mean()
    torch.testing.assert_close(penalized.training_step(dict(batch), 0), expected)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_a_frozen_encoder_stand_for_pictures(name: str) -> None:
    task = model(name, encoder_weights="some-run", freeze_encoder=True)
    batch = task.example_batch(3)
    with torch.no_grad():
        features = task.encoder(batch["images"])
        torch.testing.assert_close(
            task.predict_step({**batch, "images": features}), task.predict_step(batch), msg="kept features change what is said"
        )
    task.train()
    task.training_step(batch, 0).backward()
    assert all(parameter.grad is None for parameter in task.encoder.parameters())


def test_the_weights_of_a_run_are_taken_over() -> None:
    torch.manual_seed(7)
    network = zoo.create_model("convnet", ImageSpec(3, 32, 32, classes=("a", "b"), mean=(0.1, 0.2, 0.3)), channels=[4, 8, 8])
    task = model("captioner", encoder_weights="some-run", encoder_options={"channels": [4, 8, 8]})
    task.load_pretrained(lambda name: {"some-run": network}[name])
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(task.encoder(pixels), network.eval().forward_features(network.normalize(pixels)))


@pytest.mark.parametrize("options", [{"hidden_size": 0}, {"num_beams": 0}, {"encoder": "convnett"}, {"embed_dim": -1}])
def test_a_wrong_option_is_one_line(options: dict) -> None:
    with pytest.raises(UserError, match=f"model.{next(iter(options))}"):
        zoo.create_model("captioner", SPEC, **options)


def reference_attention_cell(task, word: Tensor, hidden: Tensor, cell: Tensor, encoded: Tensor) -> Tensor:
    """One step of Xu et al. 2015, equations 1 to 3, 7 and 13 to 14, for one caption, written out with torch's functions alone."""
    fit = (encoded @ task.attention.key.weight.T / task.attention.key.out_features**0.5) @ (
        task.attention.query.weight @ hidden + task.attention.query.bias
    )
    beta = (task.gate.weight @ hidden + task.gate.bias).sigmoid()
    context = beta * (fit.softmax(0) @ encoded)
    recurrent = task.recurrent
    gates = (
        recurrent.weight_ih @ torch.cat([word, context]) + recurrent.bias_ih + recurrent.weight_hh @ hidden + recurrent.bias_hh
    )
    i, f, g, o = gates.chunk(4)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * cell.tanh()
    deep = F.linear(torch.cat([hidden, context, word]), task.output.weight, task.output.bias).tanh()
    return F.linear(deep, task.head.weight, task.head.bias)


def test_a_step_of_attention_is_as_the_paper_says() -> None:
    task = model("captioner-attention")
    with torch.no_grad():
        encoded = task.encode(task.example_batch(1)["images"])
        hidden, cell = task.initial(encoded[0].mean(0)).chunk(2)
        expected = reference_attention_cell(task, task.embedding.weight[START], hidden.tanh(), cell, encoded[0])
        scores, _ = task.decode_step(torch.tensor([[START]]), task.initial_state(encoded))
    torch.testing.assert_close(scores[0], expected)
