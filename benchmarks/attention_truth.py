"""Whether a captioner looks at what it speaks of: its attention held against where the things of the world of shapes are.

    zoo train captioner-attention
    python benchmarks/attention_truth.py captioner-attention-shapes-captions

For every word of a color or a shape in the captions that a network writes of the test pictures, the benchmark adds up the
attention on the cells of the map that the thing's box touches. A word counts as looked for when that is at least half. Only
captions that are true of exactly one thing, or one pair of things, are judged, for of others nobody can tell what they speak of.
Beside the share of such words stand the mean of their attention, and what attention that is spread evenly would have there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import torch
import typer

from zoo.datamodules.worlds.captions import MEANS
from zoo.datamodules.worlds.descriptions import ATTRIBUTE_OF, Description, fits, read, stands
from zoo.datamodules.worlds.shapes import SIDE, SIZES, Thing
from zoo.pictures.caption_attention import caption_attention
from zoo.registry.registry import scan
from zoo.training.building import build_data, load_task
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder

JUDGED = ("color", "shape")
ENOUGH = 0.5  # of the attention
BATCH = 100


def phrases(words: Sequence[str]) -> tuple[str, list[range]]:
    """The relation that a caption states, or nothing, and the places of the words of each thing, without article."""
    relation, parts = "", [range(len(words))]
    for phrase, meaning in sorted(MEANS.items(), key=lambda pair: -len(pair[0])):
        said = phrase.split()
        starts = [place for place in range(len(words)) if list(words[place : place + len(said)]) == said]
        if starts and not relation:
            relation, parts = meaning, [range(starts[0]), range(starts[0] + len(said), len(words))]
    kept = []
    for part in parts:
        articles = [place for place in part if words[place] in ("a", "an")]
        start = articles[0] + 1 if articles else part.start
        kept.append(range(start, part.stop - (words[part.stop - 1] == "is")))
    return relation, kept


def spoken_of(words: Sequence[str], scene: Sequence[Thing]) -> dict[int, Thing]:
    """The thing that each word of a phrase speaks of, by the word's place; nothing if that cannot be told for certain."""
    relation, parts = phrases(words)
    descriptions: list[Description | None] = [read(" ".join(words[place] for place in part)) for part in parts]
    if None in descriptions:
        return {}
    meant = [
        things
        for things in permutations(scene, len(parts))
        if all(map(fits, descriptions, things)) and (not relation or stands(things[0], relation, things[1]))
    ]
    if len(meant) != 1:
        return {}
    return {place: thing for part, thing in zip(parts, meant[0], strict=True) for place in part}


def cells(thing: Thing, rows: int, columns: int) -> torch.Tensor:
    """Which cells of a map the box around a thing touches, bool [rows, columns]."""
    half = SIZES[thing.size]
    touched = [
        (torch.arange(count) * SIDE / count <= center + half) & (torch.arange(1, count + 1) * SIDE / count > center - half)
        for center, count in ((thing.y, rows), (thing.x, columns))
    ]
    return touched[0][:, None] & touched[1]


def judge(task: torch.nn.Module, data: object) -> Iterator[tuple[str, int, float, float]]:
    """For each judged word its kind, which thing it is about, the attention on that thing, and that thing's share of the map."""
    split = data.splits["test"]
    order = torch.arange(len(split)).split(BATCH)
    for chosen, images in zip(order, split.images.batches(iter(order)), strict=True):
        scenes = data.scenes(split.columns["image_id"][chosen])
        for words, maps, scene in zip(*caption_attention(task, images), scenes, strict=True):
            things = spoken_of(words, scene)
            numbers = {thing: number for number, thing in enumerate(dict.fromkeys(things.values()))}
            for place, thing in things.items():
                if (kind := ATTRIBUTE_OF.get(words[place])) in JUDGED:
                    there = cells(thing, *maps.shape[1:])
                    yield kind, numbers[thing], float(maps[place][there.numpy()].sum()), float(there.float().mean())


def main(run: str) -> None:
    """Print the share of words that are looked for where the thing is.

    Args:
        run: of a captioner with attention that was trained on shapes-captions.
    """
    checkpoint = RunFolder.find(run).checkpoint("best")
    task, of_run = load_task(scan(), read_checkpoint(checkpoint), checkpoint)
    data = build_data(scan(), of_run)
    judged = list(judge(task, data))
    print(f"{run}: {len(judged):,} words of colors and shapes in {len(data.splits['test']):,} captions")
    for name, kinds, numbers in (
        ("all", JUDGED, (0, 1)), ("colors", ("color",), (0, 1)), ("shapes", ("shape",), (0, 1)),
        ("of the first thing", JUDGED, (0,)), ("of the second thing", JUDGED, (1,)),
    ):  # fmt: skip
        some = [(attention, share) for kind, number, attention, share in judged if kind in kinds and number in numbers]
        enough = sum(attention >= ENOUGH for attention, _ in some) / max(len(some), 1)
        mean, even = (sum(column) / max(len(some), 1) for column in zip(*some, strict=True))
        print(f"{name:20} {enough:6.1%} have at least half of their attention there; mean {mean:.1%}, spread evenly {even:.1%}")


if __name__ == "__main__":
    typer.run(main)
