"""Sort-of-CLEVR (Santoro et al. 2017): relational and non-relational questions about colored squares and circles."""

from __future__ import annotations

from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import sort_of_clevr
from zoo.registry.entry import register_data
from zoo.spec import SPECIAL_WORDS, ImageSpec, QuestionSpec


@register_data("sort-of-clevr", task="question-answering", tags=["offline", "color"], tiny={"num_images": 200})
class SortOfCLEVR(QuestionData):
    """Six shapes with relational and other questions: 10,000 images, ten questions of both kinds on each.

    Drawn as Santoro et al. 2017 (arXiv:1706.01427) describe it, with 200 images for testing, the same for every seed.
    Questions are in words.

    Args:
        num_images: number of training images, those for validation included.
        size: height and width in pixels to which images are resized; 0 keeps 75.
        augment: none, light, standard, strong, or a list as in crop:2.
        validation: fraction of the training images held out for validation.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_images: int = 9800,
        size: int = 0,
        augment: str = "none",
        validation: float = 0.02,
    ) -> None:
        super().__init__(batch_size, seed, size=size, augment=augment, validation=validation)
        require_at_least(2, num_images=num_images)  # one of them for validation
        self.num_images = num_images

    def build_spec(self) -> QuestionSpec:
        return QuestionSpec(
            ImageSpec(3, sort_of_clevr.SIDE, sort_of_clevr.SIDE, classes=()),
            (*SPECIAL_WORDS, *sort_of_clevr.WORDS),
            sort_of_clevr.ANSWERS,
            sort_of_clevr.LONGEST,
            sort_of_clevr.KINDS,
        )

    def load_splits(self) -> dict[str, Split]:
        return {"train": self._draw("train", self.num_images), "test": self._draw("test", sort_of_clevr.TEST_IMAGES)}

    def _draw(self, name: str, number: int) -> Split:
        scenes = sort_of_clevr.draw_scenes(0, name, number)  # seed 0: the same data for all runs
        drawn = sort_of_clevr.ask_questions(scenes, 0, name)
        rows = zip(drawn.words(), drawn.answer.tolist(), drawn.kind.tolist(), strict=True)
        questions = [
            [
                Question(words.split(), [sort_of_clevr.ANSWERS[answer]], sort_of_clevr.KINDS[kind])
                for words, answer, kind in zip(*row, strict=True)
            ]
            for row in rows
        ]
        return self.encode_split(ImagesInMemory(sort_of_clevr.render(scenes)), questions)
