"""easy-VQA: images of one colored shape, with questions about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.core.errors import UserError
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.bases.question_answering import Question
from zoo.datamodules.bases.question_files import QuestionedImage, QuestionFiles, group_by_image
from zoo.datamodules.files.json_files import read_json, text_of
from zoo.registry.entry import register_data
from zoo.text.files import read_text
from zoo.text.tokenization import tokenize


@register_data("easy-vqa", task="question-answering", tags=["local-files", "color"], size=64, questions_per_sample=12)
class EasyVQA(QuestionFiles):
    """Images of one shape with simple questions: 5,000 images, 48,000 questions (github.com/vzhou842/easy-VQA).

    In the layout of its download: ``answers.txt``, and in ``train/`` (4,000 images) and ``test/`` (1,000) the folder ``images/``
    with ``0.png`` and so on, and ``questions.json``, a list of [question, answer, number of the image].

    Args:
        validation: fraction of the training images held out for validation.
    """

    def __init__(self, batch_size: int, seed: int, root: str, validation: float = 0.1, **options: Any) -> None:
        super().__init__(batch_size, seed, root, **options)
        require_fraction(validation=validation)
        self.validation = validation

    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        return {split: self._find(self.root / split) for split in ("train", "test")}

    def _find(self, folder: Path) -> list[QuestionedImage]:
        def read(content: Any) -> list[tuple[Path, Question]]:
            return [
                (folder / "images" / f"{int(image)}.png", Question(tokenize(question), [text_of(answer)]))
                for question, answer, image in content
            ]

        return group_by_image(read_json(folder / "questions.json", read))

    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        file = self.root / "answers.txt"
        answers = tuple(dict.fromkeys(line.strip() for line in read_text(file, str(file)).splitlines() if line.strip()))
        if not answers:
            raise UserError(f"{file}: is empty; expected one answer per line")
        return answers
