"""CLEVR: rendered scenes of solids, with questions that were made by programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.datamodules.bases.question_answering import Question
from zoo.datamodules.bases.question_files import QuestionedImage, QuestionFiles, by_picture, frequent_answers
from zoo.datamodules.files.json_files import read_json
from zoo.registry.entry import register_data
from zoo.text.tokenization import tokenize

# the last function of a question's program tells what is asked (Johnson et al. 2016, figure 5)
KIND_OF_FUNCTION = {
    "count": "count",
    "exist": "exist",
    **dict.fromkeys(("equal_integer", "greater_than", "less_than"), "compare-numbers"),
    **dict.fromkeys(("query_color", "query_material", "query_shape", "query_size"), "query-attribute"),
    **dict.fromkeys(("equal_color", "equal_material", "equal_shape", "equal_size"), "compare-attribute"),
}


@register_data("clevr", task="question-answering", tags=["own", "color"], paper="1612.06890")
class CLEVR(QuestionFiles):
    """CLEVR (Johnson et al. 2016): 70,000 training and 15,000 validation pictures of solids, ten questions on each.

    In the layout of its download: ``questions/CLEVR_train_questions.json``, ``questions/CLEVR_val_questions.json``,
    ``images/train/`` and ``images/val/``. The answers to its test questions are not public: what is said of testing is said of
    the validation pictures.

    Args:
        root: the folder.
        size: pixels that the height of 320 becomes; the width, half as much again.
        augment: none, light, standard, strong, or a list as in crop:4.
        min_count: how often a word must be seen in training questions to be known.
        questions_per_sample: questions on a picture that are answered at once; a picture with more comes several times.
        memory_gb: decoded pictures up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    kinds = tuple(dict.fromkeys(KIND_OF_FUNCTION.values()))

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 128,
        augment: str = "none",
        min_count: int = 1,
        questions_per_sample: int = 10,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, (size, size * 3 // 2), augment, 0.1, min_count, questions_per_sample, memory_gb)

    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        train, val = (self._find(split) for split in ("train", "val"))
        return {"train": train, "val": val, "test": val}

    def _find(self, split: str) -> list[QuestionedImage]:
        def read(content: Any) -> list[tuple[Path, Question]]:
            return [
                (self.root / "images" / split / question["image_filename"], _question(question))
                for question in content["questions"]
            ]

        return by_picture(read_json(self.root / "questions" / f"CLEVR_{split}_questions.json", read))

    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        return frequent_answers(train, 1, lambda question: question.answers[0])


def _question(entry: dict[str, Any]) -> Question:
    program = entry.get("program")
    kind = KIND_OF_FUNCTION.get(program[-1]["function"], "") if program else ""
    return Question(tokenize(entry["question"]), [entry["answer"]], kind)
