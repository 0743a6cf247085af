"""CLEVR: rendered scenes of solids, with questions that were made by programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.core.printing import composed
from zoo.datamodules.bases.question_answering import Question
from zoo.datamodules.bases.question_files import QuestionedImage, QuestionFiles, frequent_answers, group_by_image
from zoo.datamodules.files.json_files import read_json, text_of
from zoo.registry.entry import register_data
from zoo.text.tokenization import tokenize

# the last function of a question's program gives its type (Johnson et al. 2016, figure 5)
KIND_OF_FUNCTION = {
    "count": "count",
    "exist": "exist",
    **dict.fromkeys(("equal_integer", "greater_than", "less_than"), "compare-numbers"),
    **dict.fromkeys(("query_color", "query_material", "query_shape", "query_size"), "query-attribute"),
    **dict.fromkeys(("equal_color", "equal_material", "equal_shape", "equal_size"), "compare-attribute"),
}


@register_data("clevr", task="question-answering", tags=["local-files", "color"], paper="1612.06890", size=128)
class CLEVR(QuestionFiles):
    """Rendered scenes with ten questions each: 70,000 for training, 15,000 for testing (Johnson et al. 2016).

    In the layout of its download: ``questions/CLEVR_train_questions.json``, ``questions/CLEVR_val_questions.json``,
    ``images/train/`` (70,000 images) and ``images/val/`` (15,000). The answers to its test questions are not public: testing is
    on the validation images.

    Args:
        size: height in pixels to which images are resized, from 320; the width is 1.5 times as much.
    """

    kinds = tuple(dict.fromkeys(KIND_OF_FUNCTION.values()))
    aspect = 1.5

    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        return {split: self._find(split) for split in ("train", "val")}

    def _find(self, split: str) -> list[QuestionedImage]:
        folder = self.root / "images" / split
        names = os.listdir(folder) if folder.is_dir() else []
        as_stored = {**{composed(name): name for name in names}, **{name: name for name in names}}

        def path(name: str) -> Path:
            return folder / as_stored.get(name, as_stored.get(composed(name), name))

        def read(content: Any) -> list[tuple[Path, Question]]:
            return [(path(Path(question["image_filename"]).name), _question(question)) for question in content["questions"]]

        return group_by_image(read_json(self.root / "questions" / f"CLEVR_{split}_questions.json", read))

    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        return frequent_answers(train, 1, lambda question: question.answers[0])


def _question(entry: dict[str, Any]) -> Question:
    program = entry.get("program")
    kind = KIND_OF_FUNCTION.get(program[-1]["function"], "") if program else ""
    return Question(tokenize(entry["question"]), [text_of(entry["answer"])], kind)
