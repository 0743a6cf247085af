"""VQA v2: photographs of COCO with questions that ten people answered, and the normalization of answers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, some
from zoo.datamodules.bases.question_answering import Question
from zoo.datamodules.bases.question_files import QuestionedImage, QuestionFiles, frequent_answers, group_by_image
from zoo.datamodules.files.json_files import identifier, read_json, text_of
from zoo.registry.entry import register_data
from zoo.spec import UNKNOWN_ANSWER
from zoo.text.tokenization import tokenize

SPLITS = {"train": "train2014", "val": "val2014"}


@register_data(
    "vqa", task="question-answering", tags=["local-files", "color"], paper="1612.00837", min_count=3, questions_per_sample=8
)
class VQA(QuestionFiles):
    """VQA v2, questions about photographs of COCO: 658,111 with ten answers each (Goyal et al. 2016).

    In the layout of its download: ``v2_OpenEnded_mscoco_train2014_questions.json``, ``v2_mscoco_train2014_annotations.json``, the
    same for ``val2014``, and the photographs in ``train2014/`` and ``val2014/``. The answers to its test questions are not
    public: testing is on the validation photographs. Accuracy is that of the official evaluation: an answer counts in full if
    three of the ten people gave it, after both were normalized, unless all ten wrote the same.

    Args:
        min_answer_count: keep answers that are the most frequent one of at least this many training questions.
    """

    kinds = ("yes-no", "number", "other")

    def __init__(self, batch_size: int, seed: int, root: str, min_answer_count: int = 9, **options: Any) -> None:
        super().__init__(batch_size, seed, root, **options)
        self.min_answer_count = min_answer_count

    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        return {name: self._find(split) for name, split in SPLITS.items()}

    def _find(self, split: str) -> list[QuestionedImage]:
        questions_file = self.root / f"v2_OpenEnded_mscoco_{split}_questions.json"
        questions = read_json(
            questions_file, lambda content: {identifier(entry["question_id"]): entry for entry in content["questions"]}
        )

        def read(content: Any) -> list[tuple[Path, Question]]:
            annotations = {identifier(entry["question_id"]): entry for entry in content["annotations"]}
            if unanswered := sorted(questions.keys() - annotations.keys(), key=str):
                raise UserError(f"{annotations_file}: has no answers to questions {some(unanswered)} of {questions_file.name}")
            if unasked := sorted(annotations.keys() - questions.keys(), key=str):
                raise UserError(f"{questions_file}: has no questions {some(unasked)}, which {annotations_file.name} answers")
            return [
                (
                    self.root / split / f"COCO_{split}_{int(entry['image_id']):012d}.jpg",
                    _question(text_of(entry["question"]), annotations[number]),
                )
                for number, entry in questions.items()
            ]

        annotations_file = self.root / f"v2_mscoco_{split}_annotations.json"
        return group_by_image(read_json(annotations_file, read))

    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        """The most frequent normalized answers, each in the spelling of questions where all agree, and nothing is normalized."""
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for question in (question for _, group in train for question in group):
            normalized = _most_frequent(question)
            if _is_unanimous(question) or not normalized:  # "a" alone is an article
                spellings[normalized][Counter(question.answers).most_common(1)[0][0]] += 1

        def answer_of(question: Question) -> str:
            normalized = _most_frequent(question)
            return min(spellings.get(normalized, {normalized: 1}).items(), key=lambda item: (-item[1], item[0]))[0]

        return frequent_answers(train, self.min_answer_count, answer_of)

    def answer_encoder(self) -> Callable[[Question], list[int]]:
        written = {answer: place for place, answer in reversed([*enumerate(self.spec.answers)])}
        normalized = {normalize_answer(answer): place for answer, place in written.items()}

        def encode(question: Question) -> list[int]:
            if _is_unanimous(question):
                return [written.get(answer, UNKNOWN_ANSWER) for answer in question.answers]
            return [normalized.get(normalize_answer(answer), UNKNOWN_ANSWER) for answer in question.answers]

        return encode


def _is_unanimous(question: Question) -> bool:
    return len(set(question.answers)) == 1


def _most_frequent(question: Question) -> str:
    return Counter(map(normalize_answer, question.answers)).most_common(1)[0][0]


def _question(text: str, annotation: dict[str, Any]) -> Question:
    answers = [text_of(said["answer"]).replace("\n", " ").replace("\t", " ").strip() for said in annotation["answers"]]
    if not answers:
        raise ValueError(f"question {annotation['question_id']} has an empty list of answers")
    return Question(tokenize(text), answers, annotation["answer_type"].replace("/", "-"))


# ---------------------------------------------------------------------------------------------- normalization of answers

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # in the order of the official evaluation (GT-Vision-Lab/VQA, vqaEval.py, version 2)
NUMBERS = "zero one two three four five six seven eight nine ten"
ARTICLES = ("a", "an", "the")
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd
    how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't
    'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS.split())}}
# each is put right where one apostrophe is missing; the last is an oddity of the official list
PUT_RIGHT = {
    word[:place] + word[place + 1 :]: word for word in CONTRACTIONS.split() for place, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}


@lru_cache(2**18)
def normalize_answer(answer: str) -> str:
    """Normalize an answer as the official evaluation does: drop punctuation and articles, write small numbers as digits."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = re.search(r"\d,\d", answer) is not None
    kept = answer
    for sign in PUNCTUATION:
        beside_blank = f"{sign} " in answer or f" {sign}" in answer
        kept = kept.replace(sign, "" if beside_blank or has_thousands else " ")
    kept = re.sub(r"\.(?!\d)", "", kept, count=32)
    words = (DIGITS.get(word, word) for word in kept.lower().split())
    return " ".join(PUT_RIGHT.get(word, word) for word in words if word not in ARTICLES)
