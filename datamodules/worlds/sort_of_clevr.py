"""Sort-of-CLEVR: images of six colored squares and circles, with relational and non-relational questions, drawn from a seed.

Santoro et al. 2017 (arXiv:1706.01427). What the paper leaves open is as in the public
re-implementation kimhc6028/relational-networks: radius 5, a white ground, the colors, the order of answers. There,
corners may overlap and of equally close objects the first counts; here such images are drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed

SIDE, RADIUS = 75, 5  # pixels of the image, and from the center of an object to its edge
COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
SQUARE, CIRCLE = range(2)
TEST_IMAGES = 200
ANSWERS = ("yes", "no", "rectangle", "circle", *"123456")
KINDS = ("non-relational", "relational")
QUESTIONS_OF_A_KIND = 10
DRAWN_AT_ONCE = 4096  # images, before those are left out that are not clear
# what each kind asks of an object, in the order of the subtypes
ASKED = {
    "non-relational": (
        "what is the shape of the {} object",
        "is the {} object on the left",
        "is the {} object on the top",
    ),
    "relational": (
        "what is the shape of the object closest to the {} object",
        "what is the shape of the object furthest from the {} object",
        "how many objects have the shape of the {} object",
    ),
}
LONGEST = 12  # words in a question
WORDS = sorted({*COLORS, *(word for kind in ASKED.values() for words in kind for word in words.replace("{} ", "").split())})


@dataclass(frozen=True)
class Scenes:
    """N images as what is in them: an object of each of the six colors, in the order of ``COLORS``.

    ``centers`` are int64 [N, 6, 2], x and y in pixels, y downwards; ``shapes`` are int64 [N, 6], ``SQUARE`` or ``CIRCLE``.
    """

    centers: Tensor
    shapes: Tensor

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class Questions:
    """Twenty questions on each of N images, the ten non-relational ones first: all int64 [N, 20].

    ``kind`` is a place in ``KINDS``, ``subtype`` in the list that ``ASKED`` has of the kind, ``color`` in ``COLORS`` and
    ``answer`` in ``ANSWERS``. Of the 18 questions of a kind that there are, none is asked twice of an image.
    """

    kind: Tensor
    subtype: Tensor
    color: Tensor
    answer: Tensor

    def words(self) -> list[list[str]]:
        """The questions in words, without a mark at the end: a list of 20 for each image."""
        phrases = [[[words.format(color) for color in COLORS] for words in ASKED[kind]] for kind in KINDS]
        places = torch.stack([self.kind, self.subtype, self.color], -1).tolist()
        return [[phrases[kind][subtype][color] for kind, subtype, color in image] for image in places]


def draw_scenes(seed: int, split: str, number: int) -> Scenes:
    """A number of images for a split: objects do not touch, and each has one that is the closest and one that is the furthest."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sort-of-clevr", split))
    centers = torch.empty(0, len(COLORS), 2, dtype=torch.int64)
    while len(centers) < number:
        drawn = torch.randint(RADIUS, SIDE - RADIUS, (DRAWN_AT_ONCE, len(COLORS), 2), generator=generator)
        centers = torch.cat([centers, drawn[_is_clear(drawn)]])
    shapes = torch.randint(0, 2, (number, len(COLORS)), generator=generator)
    return Scenes(centers[:number], shapes)


def _is_clear(centers: Tensor) -> Tensor:
    offsets = (centers[:, :, None] - centers[:, None]).abs().amax(-1)
    apart = (offsets > 2 * RADIUS).sum((1, 2)) == len(COLORS) * (len(COLORS) - 1)  # of all but each with itself
    ordered = _squared_distances(centers).sort(-1).values[..., 1:]  # without the object itself
    no_ties = (ordered[..., 0] < ordered[..., 1]) & (ordered[..., -2] < ordered[..., -1])
    return apart & no_ties.all(-1)


def _squared_distances(centers: Tensor) -> Tensor:
    """Between the centers of any two objects, int64 [N, 6, 6]."""
    return (centers[:, :, None] - centers[:, None]).square().sum(-1)


def render(scenes: Scenes) -> Tensor:
    """uint8 [N, 3, 75, 75]: full colors on white, with hard edges."""
    canvas = torch.full((len(scenes), 3, SIDE * SIDE), 255, dtype=torch.uint8)
    reach = torch.arange(-RADIUS, RADIUS + 1)
    square = (reach[:, None] * SIDE + reach).flatten()  # places of pixels around a center
    disc = (reach[:, None].square() + reach.square() <= RADIUS * (RADIUS + 1)).flatten()  # without tips of one pixel
    for place, color in enumerate(COLORS.values()):
        x, y = scenes.centers[:, place].T
        pixels = ((y * SIDE + x)[:, None] + square)[:, None].expand(-1, 3, -1)
        covered = disc | (scenes.shapes[:, place] == SQUARE)[:, None, None]
        paint = torch.tensor(color, dtype=torch.uint8)[:, None]
        canvas.scatter_(2, pixels, torch.where(covered, paint, canvas.gather(2, pixels)))
    return canvas.view(-1, 3, SIDE, SIDE)


def ask_questions(scenes: Scenes, seed: int, split: str) -> Questions:
    """Ten questions of each kind on each image, drawn at random from the 18 that there are."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sort-of-clevr", split, "questions"))
    number = len(scenes)
    chosen = torch.rand(number, len(KINDS), 3 * len(COLORS), generator=generator).argsort(-1)[..., :QUESTIONS_OF_A_KIND]
    answers = _answers(scenes).flatten(2).gather(2, chosen)
    kind = torch.arange(len(KINDS))[:, None].expand_as(chosen)
    parts = (kind, chosen // len(COLORS), chosen % len(COLORS), answers)
    return Questions(*(part.reshape(number, -1) for part in parts))


def _answers(scenes: Scenes) -> Tensor:
    """To each question that can be asked, int64 [N, kinds, 3, colors]."""
    x, y = scenes.centers.unbind(-1)
    shape_answer = ANSWERS.index("rectangle") + scenes.shapes
    distances = _squared_distances(scenes.centers)
    closest = (distances + torch.eye(len(COLORS), dtype=torch.int64) * (2 * SIDE**2)).argmin(-1)
    same = scenes.shapes[:, :, None] == scenes.shapes[:, None]
    non_relational = [shape_answer, (2 * x > SIDE).long(), (2 * y > SIDE).long()]  # "yes" is the first answer, "no" the second
    relational = [
        shape_answer.gather(1, closest),
        shape_answer.gather(1, distances.argmax(-1)),
        same.sum(-1) + ANSWERS.index("1") - 1,
    ]
    return torch.stack([torch.stack(non_relational, 1), torch.stack(relational, 1)], 1)
