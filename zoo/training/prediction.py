"""What a trained model says of image files: needs the run folder and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from zoo.core.errors import UserError, did_you_mean, some
from zoo.datamodules.files.images import EXTENSIONS, UnreadableImage, read_image
from zoo.datamodules.files.progress import shown
from zoo.registry.registry import Registry
from zoo.spec import END, PAD, SPECIAL_WORDS, image_spec
from zoo.tasks.captioning import Captioner
from zoo.tasks.decoding import Sampling, beam_search, sample, until
from zoo.tasks.question_answering import QuestionAnswerer
from zoo.tasks.task import Task
from zoo.text.tokenization import tokenize
from zoo.training.building import load_task
from zoo.training.exported import read_trained

BATCH = 64
INSTEAD = {  # task -> what a model for it does, and the command that lets it
    "language-modeling": "writes text, and knows no images: zoo sample",
    "sequence-memory": "reads sequences of numbers, and knows no images: zoo test",
    "dialogue": "talks about images: zoo chat",
    "navigation": "finds its way in a world of views, and takes no images: zoo picture path",
}


class Prediction(Protocol):
    """What was said of one file: as a row of a table, and as plain data."""

    header: ClassVar[tuple[str, ...]]

    def row(self) -> tuple[str, ...]: ...

    def to_dict(self) -> dict[str, Any]: ...

    def cells(self) -> dict[str, Any]:
        """As a line of a CSV file: column to value, the same columns for all predictions of one call."""
        ...


def predict_files(
    registry: Registry, checkpoint_file: Path, inputs: list[str], *, progress: bool = True, **asked: Any
) -> Iterator[Prediction]:
    """Predictions for image files and for all images in folders, in order, as they come: no more than a batch is held.

    What the model knows of classes, words and statistics comes from the checkpoint, so it is that of the training whatever
    today's code says. A file that cannot be read is left out with a warning; one that was named is an error, once the others
    are answered.

    Args:
        progress: whether to show how many of the files were looked at.
        asked: options of the model's task, as in ``top=5``; None counts as not given.

    Raises:
        UserError: a named file is missing or not an image, a folder holds none that can be read, an option is of another task, or
            the model knows no images.
    """
    files = [file for text in inputs for file in _files(text)]
    task, run = load_task(registry, read_trained(checkpoint_file), checkpoint_file)
    name = run.model["name"]
    if task.task in INSTEAD:
        raise UserError(f"this {name} {INSTEAD[task.task]}")
    if image_spec(task.spec).are_points:
        raise UserError(f"this {name} was trained on points in the plane ({run.data['name']}), not on images")
    if task.task not in PREDICTORS:
        raise UserError(f"this {name} is for {task.task}, of which zoo predict knows nothing")
    predict, options = PREDICTORS[task.task]
    given = {option: value for option, value in asked.items() if value is not None}
    if strange := [option for option in given if option not in options]:
        takes = ", ".join(f"--{option}" for option in options)
        raise UserError(f"--{strange[0]} is not for {task.task}, which {name} does: it takes {takes}")
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    pictures = _read_all(files, {Path(text) for text in inputs}, image_spec(task.spec).shape, progress)
    return _at_least_one(predict(task, pictures, **given), inputs)


def _at_least_one(predictions: Iterator[Prediction], inputs: list[str]) -> Iterator[Prediction]:
    count = 0
    for count, prediction in enumerate(predictions, 1):  # noqa: B007
        yield prediction
    if not count:
        raise UserError(f"{some(inputs)}: no image can be read")


Pictures = Iterable[tuple[list[str], torch.Tensor]]  # files and their images, uint8 [n, channels, height, width], in parts


# ---------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class Classes:
    """The most probable classes of one file, best first, each with its probability."""

    header = ("file", "class", "probability", "then")
    file: str
    top: list[tuple[str, float]]

    @property
    def name(self) -> str:
        return self.top[0][0]

    @property
    def probability(self) -> float:
        return self.top[0][1]

    def row(self) -> tuple[str, ...]:
        then = "  ".join(f"{name} {probability:.4f}" for name, probability in self.top[1:])
        return self.file, self.name, f"{self.probability:.4f}", then

    def to_dict(self) -> dict[str, Any]:
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"file": self.file, "class": self.name, "probability": self.probability, "top": top}

    def cells(self) -> dict[str, Any]:
        columns = {}
        for place, (name, probability) in enumerate(self.top, 1):
            after = f"_{place}" if place > 1 else ""
            columns |= {self.header[1] + after: name, f"probability{after}": f"{probability:.6f}"}
        return {"file": self.file, **columns}


@torch.inference_mode()
def predict_classes(task: Task, pictures: Pictures, top: int = 3) -> Iterator[Classes]:
    """The ``top`` most probable classes of each picture."""
    classes = task.spec.classes
    for files, images in pictures:
        best = task.predict_step({"images": images.to(task.device)}).topk(min(top, len(classes)))
        for file, values, indices in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
            yield Classes(file, list(zip((classes[index] for index in indices), values, strict=True)))


# ---------------------------------------------------------------------------------------------- captions


@dataclass(frozen=True)
class Caption:
    """A sentence about one file, with its log-probability where a search has found it; of several, the likeliest stand first."""

    header = ("file", "caption", "log-probability")
    file: str
    caption: str
    log_probability: float | None

    def row(self) -> tuple[str, ...]:
        return self.file, self.caption, "" if self.log_probability is None else f"{self.log_probability:.3f}"

    def to_dict(self) -> dict[str, Any]:
        return {"file": self.file, "caption": self.caption, "log_probability": self.log_probability}

    cells = to_dict


@torch.inference_mode()
def predict_captions(
    task: Captioner,
    pictures: Pictures,
    beams: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
) -> Iterator[Caption]:
    """A caption of each picture, found by beam search; or several, drawn at random.

    Args:
        beams: sentences that are kept at a time; the default is the model's own.
        samples: how many to draw in place of a search; ``temperature`` and ``seed`` are of the drawing.
    """
    if samples is None and not temperature == seed == None:  # noqa: E711
        raise UserError(f"--{'seed' if temperature is None else 'temperature'} goes with --samples, which are drawn at random")
    if samples is not None and beams is not None:
        raise UserError("--beams and --samples exclude each other")
    for files, images in pictures:
        encoded = task.encode(images.to(task.device))
        prompt, length = task.start_tokens(encoded), task.spec.length
        if samples is None:
            texts, totals = beam_search(task.decoder(encoded), task.select_rows, prompt, length, beams or task.beams, END)
            found = zip(files, texts[:, 0].tolist(), totals[:, 0].tolist(), strict=True)
        else:
            copies = torch.arange(len(files), device=encoded.device).repeat_interleave(samples)
            key = (seed or 0) % 2**63  # as a generator takes it
            how = Sampling(1.0 if temperature is None else temperature)
            drawn = sample(task.decoder(encoded[copies]), prompt[copies], length, how, key)
            found = ((files[copy], text, None) for copy, text in zip(copies.tolist(), until(END, drawn).tolist(), strict=True))
        yield from (Caption(file, " ".join(task.spec.decode(text)), total) for file, text, total in found)


# ---------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answers(Classes):
    """The most probable answers to a question about one file, best first, each with its probability."""

    header = ("file", "answer", "probability", "then")

    def to_dict(self) -> dict[str, Any]:
        top = [{"answer": name, "probability": probability} for name, probability in self.top]
        return {"file": self.file, "answer": self.name, "probability": self.probability, "top": top}


@torch.inference_mode()
def predict_answers(task: QuestionAnswerer, pictures: Pictures, question: str | None = None, top: int = 3) -> Iterator[Answers]:
    """The ``top`` most probable answers to a question about each picture.

    Raises:
        UserError: there is no question, it has words that the model does not know, or it is too long.
    """
    spec = task.spec
    if question is None:
        raise UserError('give a question about the images, as in --question "what color is the circle"')
    words = tokenize(question)
    if not words:
        raise UserError(f"--question {question!r}: has no word in it")
    if strange := [word for word in dict.fromkeys(words) if word not in spec.vocabulary[len(SPECIAL_WORDS) :]]:
        known = "".join(did_you_mean(word, spec.vocabulary) for word in strange[:1])
        raise UserError(f"--question {question!r}: the model does not know {some(map(repr, strange))}{known}")
    if len(words) > spec.length:
        raise UserError(f"--question {question!r}: has {len(words)} words, the model was trained on at most {spec.length}")
    asked = torch.full((1, 1, spec.length), PAD)
    asked[0, 0, : len(words)] = torch.tensor(spec.encode(words))
    for files, images in pictures:
        questions = asked.to(task.device).expand(len(images), -1, -1)
        best = task.predict_step({"images": images.to(task.device), "questions": questions})[:, 0].topk(
            min(top, len(spec.answers))
        )
        for file, values, indices in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
            yield Answers(file, list(zip((spec.answers[index] for index in indices), values, strict=True)))


PREDICTORS: dict[str, tuple[Callable[..., Iterator[Prediction]], tuple[str, ...]]] = {  # by task, with the options it takes
    "classification": (predict_classes, ("top",)),
    "captioning": (predict_captions, ("beams", "samples", "temperature", "seed")),
    "question-answering": (predict_answers, ("question", "top")),
}


# ---------------------------------------------------------------------------------------------- files


def _read_all(
    files: list[Path], named: set[Path], shape: tuple[int, int, int], progress: bool
) -> Iterator[tuple[list[str], torch.Tensor]]:
    if len(files) == 1 and files[0] in named:
        yield [str(files[0])], read_named(files[0], shape)[None]
        return
    refused = []

    def read(part: list[Path]) -> list[tuple[str, torch.Tensor]]:
        found = []
        for file in part:
            try:
                found.append((str(file), read_image(str(file), *shape)))
            except UnreadableImage as error:
                print(f"warning: {file} is left out: {error}", file=sys.stderr)
                refused.extend([file] if file in named else [])
        return found

    parts: Iterable[list[tuple[str, torch.Tensor]]] = (read(files[i : i + BATCH]) for i in range(0, len(files), BATCH))
    for found in shown(parts, len(files), BATCH, "looking at") if progress else parts:
        if found:
            names, images = zip(*found, strict=True)
            yield list(names), torch.stack(images)
    if refused:
        raise UserError(f"{len(refused):,} of the files that were named cannot be read: {some(refused)}")


def read_named(file: Path, shape: tuple[int, int, int]) -> torch.Tensor:
    """uint8 [channels, height, width] of an image file that somebody named.

    Raises:
        UserError: it is missing or cannot be read.
    """
    if not file.is_file():
        raise UserError(f"{file}: {'is no file' if file.exists() else 'no such file'}")
    try:
        return read_image(str(file), *shape)
    except UnreadableImage as error:
        raise UserError(f"{file}: {error}") from None


def _files(text: str) -> list[Path]:
    path = Path(text)
    if not path.exists():
        raise UserError(f"{text}: no such file or folder")
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
    if not found:
        raise UserError(f"{text}: holds no images ({', '.join(EXTENSIONS)})")
    return found
