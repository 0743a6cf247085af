"""The question-answering task: questions about images, each answered by one of a closed list of answers."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.counts import percentage
from zoo.core.errors import UserError, did_you_mean, some
from zoo.metrics.mean_loss import MeanLoss, proportion_error
from zoo.spec import IGNORE, PAD, SPECIAL_WORDS, UNKNOWN_ANSWER, ImageTextSpec, QuestionSpec
from zoo.tasks.pixels import to_pixels
from zoo.tasks.prediction import Prediction, rank
from zoo.tasks.samples import SPLIT_NAMES, Samples, Scene, Turn, evenly_spread, part_of, require_some
from zoo.tasks.task import Task, compute_and_reset
from zoo.text.tokenization import tokenize

AGREEING = 3  # people whose answer makes it entirely right
EXAMPLE_QUESTIONS = 3
MOST_TESTED = 100  # images with their questions in a report: some networks compare all pairs of places
SHOWN = 8
SHOWN_QUESTIONS = 4  # about each image, wrong answers first


class QuestionAnswerer(Task):
    """Images and questions in, a logit for each answer out. A model implements ``forward`` and ``stages``.

    A batch is a dict of images with their questions, so that an image is encoded once: ``images``, [N, C, H, W] with values
    from 0 to 255; ``questions``, int64 [N, Q, L], padded with ``PAD``; ``labels``, int64 [N, Q], or [N, Q, people] where several
    people answered, with ``IGNORE`` where there is no question or no person and ``UNKNOWN_ANSWER`` for an answer that is not in
    the list; and ``kinds``, int64 [N, Q], if the spec has kinds. It may also be a tuple ``(images, questions, labels)`` of one
    question each, int64 [N, L] and [N], or of several.

    The loss of a question is the cross-entropy averaged over the people whose answer is in the list (Kazemi and Elqursh 2017,
    equation 4). Its accuracy is that of ``accuracies``.
    """

    task = "question-answering"
    use_command = "predict {run} IMAGE... --question TEXT"
    monitor = "accuracy"
    directions = {"accuracy": "max", "loss": "min"}

    def __init__(self, spec: QuestionSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        self.directions = {**self.directions, **{f"accuracy_{kind}": "max" for kind in spec.kinds}}
        # in a list, since a kind may have any name
        self.metrics = nn.ModuleDict({stage: nn.ModuleList(MeanLoss() for _ in self.directions) for stage in ("val", "test")})

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        """Logits of the answers to each question, [N, Q, answers].

        Args:
            images: [N, C, H, W], values from 0 to 255.
            questions: int64 [N, Q, L].
        """
        raise NotImplementedError

    def batch_from_tuple(self, images: Tensor, questions: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        batch = {"images": to_pixels(images), "questions": questions.view(len(images), -1, questions.shape[-1])}
        return batch if labels is None else {**batch, "labels": labels.view(len(images), -1)}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, labels = self(batch["images"], batch["questions"]), batch["labels"]
        losses, known = self.losses(logits, labels)
        right, mask = accuracies(logits.detach().argmax(-1), labels), question_mask(labels)
        n = len(labels)
        accuracy = (right * mask).sum() / mask.sum().clamp(min=1)
        return self.objective((losses * known).sum() / known.sum().clamp(min=1), n, accuracy=accuracy * n)

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of the questions, [N, Q], and a mask of those with an answer in the list."""
        answers = labels if labels.dim() == logits.dim() else labels[..., None]
        known = answers >= 0
        targets = torch.zeros_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
        targets.scatter_add_(-1, answers.clamp(min=0), known.to(targets))
        targets = targets / known.sum(-1, keepdim=True).clamp(min=1)
        losses = F.cross_entropy(
            logits.to(targets).flatten(0, 1), targets.flatten(0, 1),
            reduction="none", label_smoothing=self.recipe.label_smoothing,
        )  # fmt: skip
        return losses.view(logits.shape[:2]), known.any(-1)

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, labels = self(batch["images"], batch["questions"]).float(), batch["labels"]
        right, mask = accuracies(logits.argmax(-1), labels), question_mask(labels)
        for name, metric in zip(self.directions, self.metrics[stage], strict=True):
            if name == "loss":
                metric.update(*self.losses(logits, labels))
            elif name == "accuracy":
                metric.update(right, mask)
            elif "kinds" in batch:
                kind = self.spec.kinds.index(name.removeprefix("accuracy_"))
                metric.update(right, mask & (batch["kinds"] == kind))

    def compute_metrics(self, stage: str) -> dict[str, float]:
        values = compute_and_reset(dict(zip(self.directions, self.metrics[stage], strict=True)))
        return {name: value for name, value in values.items() if name in ("accuracy", "loss") or not math.isnan(value)}

    def standard_error(self, value: float) -> float:
        return proportion_error(value, self.metrics["val"][0].samples) if self.monitor == "accuracy" else 0.0

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the answers to each question, [N, Q, answers]."""
        return self(batch["images"], batch["questions"]).float().softmax(-1)

    def predict_images(self, images: Tensor, question: str | None = None, top: int = 3) -> list[Prediction]:
        """The ``top`` most probable answers to a question about each image."""
        words = self._encode_question(question).to(images.device).expand(len(images), -1, -1)
        return rank(self.predict_step({"images": images, "questions": words})[:, 0], self.spec.answers, "answer", top)

    def _encode_question(self, question: str | None) -> Tensor:
        """int64 [1, 1, length].

        Raises:
            UserError: there is no question, it has unknown words, or it is too long.
        """
        spec = self.spec
        if question is None:
            raise UserError('give a question about the images, as in --question "what color is the circle"')
        words = tokenize(question)
        if not words:
            raise UserError(f"--question {question!r}: has no words")
        if strange := [word for word in dict.fromkeys(words) if word not in spec.vocabulary[len(SPECIAL_WORDS) :]]:
            hint = did_you_mean(strange[0], spec.vocabulary)
            raise UserError(f"--question {question!r}: unknown words {some(map(repr, strange))}{hint}")
        if len(words) > spec.length:
            raise UserError(f"--question {question!r}: has {len(words)} words, the model was trained on at most {spec.length}")
        return F.pad(torch.tensor([[spec.encode(words)]]), (0, spec.length - len(words)), value=PAD)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Images with questions, predicted and expected answers."""
        samples, named = data.splits[split], SPLIT_NAMES[split]
        require_some(samples, f"{named} images")
        chosen = evenly_spread(len(samples), MOST_TESTED)
        shown = set(chosen[evenly_spread(len(chosen), SHOWN)].tolist())
        scenes, correct, total = [], 0.0, 0
        for indices in chosen.split(data.batch_size):
            batch = samples.read(indices)
            inputs = {name: batch[name].to(self.device) for name in ("images", "questions")}
            probability, predicted = self.predict_step(inputs).cpu().max(-1)
            scores, mask = accuracies(predicted, batch["labels"]), question_mask(batch["labels"])
            correct, total = correct + float((scores * mask).sum()), total + int(mask.sum())
            for row, index in enumerate(indices.tolist()):
                if index in shown:
                    turns = self._turns(
                        batch["questions"][row], batch["labels"][row], predicted[row], probability[row], scores[row]
                    )
                    scenes.append(Scene(batch["images"][row].cpu(), f"{named} image {index}", turns=turns))
        part = part_of(len(chosen), len(samples), f"{named} images")
        accuracy = f"{percentage(correct, total)} of the {total:,} questions" if total else "no question"
        about = f"The best checkpoint is correct on {accuracy} about {part}."
        return Samples(f"{about} Below are {len(scenes)} of these, wrong answers first.", scenes=scenes)

    def _turns(
        self, questions: Tensor, labels: Tensor, predicted: Tensor, probability: Tensor, scores: Tensor
    ) -> tuple[Turn, ...]:
        """Some questions about one image."""
        positions = question_mask(labels[None])[0].nonzero()[:, 0]
        order = positions[scores[positions].argsort(stable=True)][:SHOWN_QUESTIONS]
        return tuple(
            Turn(
                f"{' '.join(self.spec.decode(questions[place].tolist()))}?",
                self.spec.answers[int(predicted[place])],
                bool(scores[place] >= 0.5),  # of ten people, at least two say the same
                expected_answers(self.spec, torch.atleast_1d(labels[place])),
                float(probability[place]),
            )
            for place in order.tolist()
        )

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = n, EXAMPLE_QUESTIONS
        images = torch.randint(0, 256, (n, *self.spec.image.shape), generator=generator, dtype=torch.uint8)
        questions = random_words(self.spec, (*shape, self.spec.length), generator)
        labels = torch.randint(0, len(self.spec.answers), shape, generator=generator)
        kinds = {"kinds": torch.randint(0, len(self.spec.kinds), shape, generator=generator)} if self.spec.kinds else {}
        return {"images": images, "questions": questions, "labels": labels, **kinds}


def random_words(spec: ImageTextSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Words of random sentences of random lengths, int64 of that shape, the last dimension along the sentence."""
    words = torch.randint(len(SPECIAL_WORDS) - 1, len(spec.vocabulary), shape, generator=generator)
    lengths = torch.randint(1, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
    return words.masked_fill(torch.arange(shape[-1]) >= lengths, PAD)


def expected_answers(spec: QuestionSpec, labels: Tensor) -> str:
    """The answers of people, int64 [people], in words: each once, with its count, the most frequent first."""
    given = Counter(label for label in labels.tolist() if label != IGNORE)
    names = {label: "an answer outside the list" if label == UNKNOWN_ANSWER else spec.answers[label] for label in given}
    if given.total() == 1:
        return names[next(iter(given))]
    return ", ".join(f"{names[label]} ({count})" for label, count in given.most_common())


def question_mask(labels: Tensor) -> Tensor:
    """Mask of the questions that there are, bool [N, Q]."""
    return labels != IGNORE if labels.dim() == 2 else (labels != IGNORE).any(-1)


def accuracies(picked: Tensor, labels: Tensor) -> Tensor:
    """VQA accuracy of each answer, [N, Q]: 0 or 1 or, where several people answered, their consensus.

    That is min(n / 3, 1), where n of the others gave this answer, averaged over leaving each person out once (Antol et al. 2015
    and the official evaluation).

    Args:
        picked: predicted answers, int64 [N, Q].
        labels: the true ones, [N, Q] or [N, Q, people].
    """
    if labels.dim() == 2:
        return (picked == labels).float()
    agree = (labels == picked[..., None]).sum(-1).float()
    people = (labels != IGNORE).sum(-1)
    left_out_agrees = agree * ((agree - 1).clamp(min=0) / AGREEING).clamp(max=1)
    left_out_differs = (people - agree) * (agree / AGREEING).clamp(max=1)
    return (left_out_agrees + left_out_differs) / people.clamp(min=1)
