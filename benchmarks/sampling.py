"""Time to write with the transformer's cache of keys and values over reading everything again at each character.

    python benchmarks/sampling.py

The weights are random, as they do not matter to the time; both ways must write the same text. They take turns.
"""

from __future__ import annotations

import time
from functools import partial
from statistics import median

import torch
import typer

import zoo
from zoo.tasks.decoding import Sampling, sample


def main(length: int = 500, context: int = 512, rounds: int = 3) -> None:
    """Write in turns, compare the texts, and print the ratio."""
    torch.manual_seed(0)
    task = zoo.create_model("char-transformer", zoo.TextSpec(tuple(map(chr, range(32, 97)))), context_length=context).eval()
    ways = {"with cache": task.decode, "without": partial(task.decode, cached=False)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    texts = {}
    for _ in range(rounds):
        for name, decode in ways.items():
            start = time.perf_counter()
            texts[name] = torch.cat(list(sample(decode, torch.zeros(1, 1, dtype=torch.long), length, Sampling(), seed=0)))
            times[name].append(time.perf_counter() - start)
    if not torch.equal(*texts.values()):
        raise SystemExit("the two texts differ")
    for name, values in times.items():
        print(f"{name:<11} {length / median(values):8.0f} characters/s")
    print(f"ratio       {median(times['without']) / median(times['with cache']):8.1f}")


if __name__ == "__main__":
    typer.run(main)
