"""VisDial 1.0: photographs with dialogues of ten rounds, and a hundred candidates for each answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.errors import UserError
from zoo.core.files import files_below
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.dialogue import NO_ROUND, DialogueData, Dialogues, Sentence
from zoo.datamodules.bases.image_text_files import ImageTextFiles, ReadImages
from zoo.datamodules.bases.options import require_at_least, require_fraction
from zoo.datamodules.files.formats import is_image
from zoo.datamodules.files.json_files import read_json
from zoo.datamodules.loading.splits import Split
from zoo.registry.entry import register_data
from zoo.spec import IGNORE, DialogueSpec, ImageSpec
from zoo.text.tokenization import build_vocabulary, tokenize

WORDS_FILE = re.compile(r"visdial_[\d.]+_(train|val)(?!.*dense).*\.json(\.gz)?")
DENSE_FILE = re.compile(r"visdial_[\d.]+_val_dense_annotations.*\.json(\.gz)?")
IMAGE = {  # file names; a number means another image in each of the two
    "train": re.compile(r"(?:COCO_(?:train|val)2014_)?(\d+)\.\w+"),
    "val": re.compile(r"VisualDialog_val2018_(\d+)\.\w+"),
}
EXAMPLE = {"train": "COCO_train2014_{:012}.jpg", "val": "VisualDialog_val2018_{:012}.jpg"}
TEST_SHARE = 0.1  # of the dialogues, where there is no file of training dialogues


@dataclass(frozen=True)
class Talks:
    """The content of one file: lists of tokenized questions and answers, and the dialogues.

    Attributes:
        image_ids: the number of each dialogue's image.
        dialogues: indices into these lists.
        damaged: number of dialogues left out.
        unanswerable: number of rounds without the usual number of candidates, the right one among them.
    """

    path: Path
    questions: list[Sentence]
    answers: list[Sentence]
    image_ids: list[int]
    dialogues: Dialogues
    damaged: int
    unanswerable: int

    def sentences(self) -> Iterator[Sentence]:
        """All captions, questions and answers, with repetitions."""
        yield from self.dialogues.captions
        for table, rows in ((self.questions, self.dialogues.questions), (self.answers, self.dialogues.answers)):
            yield from (table[row] for row in rows.flatten().tolist() if row != NO_ROUND)


@register_data("visdial", task="dialogue", tags=["color"])
class VisDial(ImageTextFiles, DialogueData):
    """VisDial 1.0, dialogues about photographs of COCO: 125,351 of ten rounds each (Das et al. 2017).

    Its files lie anywhere below the folder: visdial_1.0_train.json and visdial_1.0_val.json (or .json.gz),
    visdial_1.0_val_dense_annotations.json if NDCG is wanted, and the images, as COCO_train2014_000000185565.jpg and
    VisualDialog_val2018_000000185565.jpg. Testing is on the official validation dialogues, as the answers of the official test
    are not public. Without a training file, a tenth of the validation dialogues is for testing and the rest for training.

    Args:
        validation: fraction of the training dialogues held out for validation.
        num_answers: most frequent answers to choose from where no candidates are given.
        max_length: tokens to which questions and answers are truncated.
        max_caption_length: tokens to which captions are truncated.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        validation: float = 0.05,
        num_answers: int = 1000,
        max_length: int = 20,
        max_caption_length: int = 40,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, seed, root, **options)
        require_fraction(validation=validation)
        require_at_least(1, num_answers=num_answers)
        require_at_least(2, max_length=max_length, max_caption_length=max_caption_length)  # one word and the end
        self.validation, self.num_answers = validation, num_answers
        self.max_length, self.max_caption_length = max_length, max_caption_length

    @cached_property
    def _files(self) -> dict[str, Path]:
        """``train`` if it is there, ``val``, and ``dense`` if it is there."""
        found: dict[str, Path] = {}
        for path in sorted(map(Path, files_below(self.root))):
            match = WORDS_FILE.fullmatch(path.name)
            kind = match[1] if match else "dense" if DENSE_FILE.fullmatch(path.name) else None
            if kind in found:
                raise UserError(f"{self.root}: {found[kind].name} and {path.name} both exist: keep one of them")
            if kind:
                found[kind] = path
        if "val" not in found:
            raise UserError(f"{self.root}: has no visdial_1.0_val.json (or .json.gz), which is needed for testing")
        return found

    @cached_property
    def _talks(self) -> dict[str, Talks]:
        return {name: read_talks(path) for name, path in self._files.items() if name != "dense"}

    def build_spec(self) -> DialogueSpec:
        talks = self._talks.get("train") or self._talks["val"]
        vocabulary = build_vocabulary(talks.sentences(), self.min_count)
        rows = talks.dialogues.answers
        counts = Counter(" ".join(talks.answers[row]) for row in rows[rows != NO_ROUND].tolist())
        known = sorted(counts, key=lambda answer: (-counts[answer], answer))[: self.num_answers]
        image = ImageSpec(3, *self.shape, classes=())
        length = max(self.max_length, self.max_caption_length)
        return DialogueSpec(image, vocabulary, tuple(known), length, rows.shape[1], talks.dialogues.candidates.shape[2])

    def load_splits(self) -> dict[str, Split]:
        paths = [Path(path) for path in sorted(files_below(self.root)) if is_image(path) and self.is_kept(path)]
        there = {name: self._with_image(name, talks, paths) for name, talks in self._talks.items()}
        read = self.read_images({self._talks[name].path.name: list(found.values()) for name, found in there.items()})
        splits = {
            name: self._encode(name, self._talks[name], list(found), each)
            for (name, found), each in zip(there.items(), read.values(), strict=True)
        }
        del self._talks  # the splits hold what is needed of it
        if "train" in splits:
            return {"train": splits["train"], "test": splits["val"]}
        everything = splits["val"]
        if len(everything) < 3:
            raise UserError(f"{self.root}: {len(everything)} dialogues are too few for training, validation and testing")
        test, train = self.hold_out_by_name(everything.files, TEST_SHARE, derive_seed(self.seed, "test"))
        return {"train": everything.subset(train), "test": everything.subset(test)}

    def _with_image(self, name: str, talks: Talks, paths: Sequence[Path]) -> dict[int, str]:
        """The image of each dialogue that has one, by the number of the dialogue."""
        if talks.dialogues.candidates.shape[2] != self.spec.candidates:
            count = talks.dialogues.candidates.shape[2]
            raise UserError(f"{talks.path}: has {count} candidates a round, the model ranks {self.spec.candidates}")
        path_of = {int(match[1]): str(path) for path in paths if (match := IMAGE[name].fullmatch(path.name))}
        there = {number: path_of[image_id] for number, image_id in enumerate(talks.image_ids) if image_id in path_of}
        if not there:
            like = EXAMPLE[name].format(talks.image_ids[0])
            raise UserError(f"{self.root}: holds no image of {talks.path.name}: searched all folders for names such as {like}")
        return there

    def _encode(self, name: str, talks: Talks, there: list[int], read: ReadImages) -> Split:
        """The dialogues of these numbers, without those whose image was not read."""
        held = talks.dialogues
        if name == "val" and "dense" in self._files:
            held = replace(held, columns=read_relevance(self._files["dense"], talks))
        self._report(talks, len(there))
        everything = self.encode_split(read.images, held, talks.questions, talks.answers)
        chosen = torch.tensor(there)[read.readable]
        columns = {key: column[chosen] for key, column in everything.columns.items()}
        labels = everything.labels[chosen]
        return replace(everything, labels=labels, columns=columns, files=read.files, digests=read.digests)

    def _report(self, talks: Talks, with_image: int) -> None:
        """Print one line about the skipped parts of a file, with the reasons."""
        parts = {
            "malformed dialogues are skipped": talks.damaged,
            "dialogues without an image are skipped": len(talks.image_ids) - with_image,
            "rounds have no correct candidate and are not ranked": talks.unanswerable,
        }
        if texts := [f"{count:,} {what}" for what, count in parts.items() if count]:
            rank_zero_print(f"warning: {talks.path.name}: {'; '.join(texts)}")


# ---------------------------------------------------------------------------------------------- the files


def _as_array(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert candidates to arrays while the file is parsed: as Python integers they would need gigabytes."""
    try:
        if "answer_options" in fields:
            fields["answer_options"] = np.asarray(fields["answer_options"], np.int32)
    except (ValueError, TypeError, OverflowError):
        del fields["answer_options"]
    return fields


def read_talks(path: Path) -> Talks:
    """The dialogues of a file in VisDial's layout.

    Raises:
        UserError: it is laid out otherwise, or no dialogue in it is complete.
    """
    content = read_json(path, lambda content: content, _as_array)
    data = content.get("data") if isinstance(content, dict) else None
    for key in ("questions", "answers", "dialogs"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f"{path}: is not a file of VisDial: data.{key} is missing")
    for key in ("questions", "answers"):
        if not all(isinstance(text, str) for text in data[key]):
            raise UserError(f"{path}: is not a file of VisDial: data.{key} contains values that are not text")
    sizes = len(data["questions"]), len(data["answers"])
    whole = [dialogue for dialogue in data["dialogs"] if _is_whole(dialogue, *sizes)]
    if not whole:
        raise UserError(f"{path}: contains no complete dialogue, with image_id, caption, and rounds of question and answer")
    rounds = max(len(dialogue["dialog"]) for dialogue in whole)
    counts = Counter(len(options) for d in whole for r in d["dialog"] if (options := _options(r, sizes[1])) is not None)
    if not counts:
        raise UserError(f"{path}: no round has answer_options, so there is nothing to rank")
    most = counts.most_common(1)[0][0]
    questions, answers, right = (np.full((len(whole), rounds), fill, np.int64) for fill in (NO_ROUND, NO_ROUND, IGNORE))
    candidates = np.zeros((len(whole), rounds, most), np.int32)
    for place, dialogue in enumerate(whole):
        for number, each in enumerate(dialogue["dialog"]):
            questions[place, number], answers[place, number] = each["question"], each["answer"]
            options = _options(each, sizes[1])
            if options is not None and len(options) == most and (found := (options == each["answer"]).nonzero()[0]).size:
                candidates[place, number] = options
                given = each.get("gt_index")
                right[place, number] = given if given in found.tolist() else found[0]
    held = Dialogues(
        [tokenize(dialogue["caption"]) for dialogue in whole],
        *map(torch.from_numpy, (questions, answers, candidates, right)),
    )
    unanswerable = int(((questions != NO_ROUND) & (right == IGNORE)).sum())
    tables = ([tokenize(text) for text in data[key]] for key in ("questions", "answers"))
    image_ids = [dialogue["image_id"] for dialogue in whole]
    return Talks(path, *tables, image_ids, held, len(data["dialogs"]) - len(whole), unanswerable)


def _is_whole(dialogue: Any, questions: int, answers: int) -> bool:
    """Whether it has an image, a caption, and rounds whose questions and answers exist."""
    if not isinstance(dialogue, dict) or not isinstance(dialogue.get("image_id"), int):
        return False
    if not isinstance(dialogue.get("caption"), str) or not isinstance(dialogue.get("dialog"), list) or not dialogue["dialog"]:
        return False
    return all(
        isinstance(each, dict) and _is_row(each.get("question"), questions) and _is_row(each.get("answer"), answers)
        for each in dialogue["dialog"]
    )


def _is_row(value: Any, size: int) -> bool:
    return isinstance(value, int) and 0 <= value < size


def _options(each: dict[str, Any], answers: int) -> np.ndarray | None:
    """The candidates of a round, if they are a list of existing answers."""
    options = each.get("answer_options")
    if not isinstance(options, np.ndarray) or options.ndim != 1 or not options.size:
        return None
    return options if options.min() >= 0 and options.max() < answers else None


def read_relevance(path: Path, talks: Talks) -> dict[str, torch.Tensor]:
    """``relevance``, [N, R, K], of each candidate of the rounds with dense annotations, zero for all others.

    Raises:
        UserError: it is not a file of dense annotations.
    """
    content = read_json(path, lambda content: content)
    if not isinstance(content, list):
        raise UserError(f"{path}: is not a file of dense annotations: a list of image_id, round_id and gt_relevance")
    relevance = torch.zeros(talks.dialogues.candidates.shape)
    place_of = {image_id: place for place, image_id in enumerate(talks.image_ids)}
    lost = 0
    for entry in content:
        try:
            values = torch.tensor(entry["gt_relevance"], dtype=torch.float32)
            number = int(entry["round_id"]) - 1  # rounds are counted from one
            if number < 0 or not values.isfinite().all() or (values < 0).any():
                raise ValueError
            relevance[place_of[entry["image_id"]], number] = values
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
            lost += 1
    if lost:
        rank_zero_print(f"warning: {path.name}: {lost:,} of {len(content):,} entries match no round and are skipped")
    return {"relevance": relevance}
