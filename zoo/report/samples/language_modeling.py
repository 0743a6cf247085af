"""What a language model writes."""

from __future__ import annotations

from zoo.report.samples.samples import Samples, Text, Trained
from zoo.tasks.decoding import Sampling
from zoo.training.writing import Writer

LETTERS = 400
TEMPERATURES = (0.7, 1.0)


def ask_language_model(trained: Trained) -> Samples:
    """A text at each of the temperatures."""
    writer = Writer(trained.registry, trained.folder.checkpoint("best"))
    texts = []
    for temperature in TEMPERATURES:
        drawn = writer.sample("", LETTERS, 1, Sampling(temperature), seed=0)
        texts.append(Text(f"temperature {temperature:g}", "".join(characters[0] for characters in drawn)))
    return Samples(f"{LETTERS} characters, drawn with seed 0.", texts=texts)
