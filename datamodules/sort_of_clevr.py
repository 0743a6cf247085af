"""Sort-of-CLEVR (Santoro et al. 2017): relational and non-relational questions about colored squares and circles."""

from __future__ import annotations

from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import sort_of_clevr
from zoo.registry.entry import register_data
from zoo.spec import SPECIAL_WORDS, ImageSpec, QuestionSpec


@register_data("sort-of-clevr", task="question-answering", tags=["embedded", "color"])
class SortOfCLEVR(QuestionData):
    """Six colored squares and circles with ten relational and ten non-relational questions: 9,800 pictures, and 200 to test on.

    Drawn as Santoro et al. 2017 (arXiv:1706.01427) describe it, always the same; questions are asked in words.

    Args:
        size: scale pictures to this many pixels a side; 0 keeps 75.
        augment: none, light, standard, strong, or a list as in crop:2.
        validation: share of the training pictures held out for validation.
    """

    def __init__(self, batch_size: int, seed: int, size: int = 0, augment: str = "none", validation: float = 0.02) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=validation)

    def build_spec(self) -> QuestionSpec:
        return QuestionSpec(
            ImageSpec(3, sort_of_clevr.SIDE, sort_of_clevr.SIDE, classes=()),
            (*SPECIAL_WORDS, *sort_of_clevr.WORDS),
            sort_of_clevr.ANSWERS,
            sort_of_clevr.LONGEST,
            sort_of_clevr.KINDS,
        )

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in sort_of_clevr.PICTURES}

    def _draw(self, name: str) -> Split:
        pictures = sort_of_clevr.draw_pictures(0, name)  # one world for all runs, whatever their seed
        asked = sort_of_clevr.ask_questions(pictures, 0, name)
        rows = zip(asked.words(), asked.answer.tolist(), asked.kind.tolist(), strict=True)
        questions = [
            [
                Question(words.split(), [sort_of_clevr.ANSWERS[answer]], sort_of_clevr.KINDS[kind])
                for words, answer, kind in zip(*row, strict=True)
            ]
            for row in rows
        ]
        return self.encode_split(ImagesInMemory(sort_of_clevr.render(pictures)), questions)
