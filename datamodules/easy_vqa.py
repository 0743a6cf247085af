"""easy-VQA: pictures of one colored shape, with questions on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.core.errors import UserError
from zoo.datamodules.bases.question_answering import Question
from zoo.datamodules.bases.question_files import QuestionedImage, QuestionFiles, by_picture
from zoo.datamodules.files.json_files import read_json
from zoo.registry.entry import register_data
from zoo.text.tokenization import tokenize


@register_data("easy-vqa", task="question-answering", tags=["own", "color"])
class EasyVQA(QuestionFiles):
    """easy-VQA (github.com/vzhou842/easy-VQA): 4,000 training and 1,000 test pictures of a shape, 48,000 questions in all.

    In the layout of its download: ``answers.txt``, and in ``train/`` and in ``test/`` the folder ``images/`` with ``0.png`` and
    so on, and ``questions.json``, a list of [question, answer, number of the image].

    Args:
        root: the folder.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4.
        validation: share of the training pictures held out for validation.
        min_count: how often a word must be seen in training questions to be known.
        questions_per_sample: questions on a picture that are answered at once; a picture with more comes several times.
        memory_gb: decoded pictures up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 64,
        augment: str = "none",
        validation: float = 0.1,
        min_count: int = 1,
        questions_per_sample: int = 12,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, (size, size), augment, validation, min_count, questions_per_sample, memory_gb)

    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        return {split: self._find(self.root / split) for split in ("train", "test")}

    def _find(self, folder: Path) -> list[QuestionedImage]:
        def read(content: Any) -> list[tuple[Path, Question]]:
            return [
                (folder / "images" / f"{int(image)}.png", Question(tokenize(question), [str(answer)]))
                for question, answer, image in content
            ]

        return by_picture(read_json(folder / "questions.json", read))

    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        file = self.root / "answers.txt"
        try:
            answers = tuple(dict.fromkeys(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()))
        except OSError:
            raise UserError(f"{file}: no such file") from None
        except UnicodeDecodeError:
            raise UserError(f"{file}: is no text in UTF-8") from None
        if not answers:
            raise UserError(f"{file}: is empty, and should have an answer on each line")
        return answers
