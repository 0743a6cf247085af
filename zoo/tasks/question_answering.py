"""The question-answering task: pictures with questions in words, each answered by one of a closed list of answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.metrics.mean_loss import MeanLoss
from zoo.spec import IGNORE, PAD, SPECIAL_WORDS, ImageTextSpec, QuestionSpec
from zoo.tasks.task import Task, read_out

AGREEING = 3  # people whose answer makes it entirely right
EXAMPLE_QUESTIONS = 3


class QuestionAnswerer(Task):
    """Pictures and questions in, one score for each answer out. A model writes ``__init__``, ``forward`` and ``stages``.

    A batch is a dict of pictures with their questions, so that a picture is looked at once: ``images``, [N, C, H, W] with values
    from 0 to 255; ``questions``, int64 [N, Q, L], padded with ``PAD``; ``labels``, int64 [N, Q], or [N, Q, people] where several
    people answered, with ``IGNORE`` where there is no question or no person and ``UNKNOWN_ANSWER`` for an answer that is not in
    the list; and ``kinds``, int64 [N, Q], if the spec has kinds.

    The loss of a question is the cross-entropy averaged over the people whose answer is in the list (Kazemi and Elqursh 2017,
    equation 4). Its accuracy is that of ``accuracies``.
    """

    task = "question-answering"
    monitor = "accuracy"
    directions = {"accuracy": "max", "loss": "min"}

    def __init__(self, spec: QuestionSpec, recipe: Recipe) -> None:
        super().__init__(spec, recipe)
        self.directions = {**self.directions, **{f"accuracy_{kind}": "max" for kind in spec.kinds}}
        self.metrics = nn.ModuleDict({stage: self._new_metrics() for stage in ("val", "test")})

    def _new_metrics(self) -> nn.ModuleList:
        return nn.ModuleList(MeanLoss() for _ in self.directions)  # in a list, since a kind may have any name

    def forward(self, images: Tensor, questions: Tensor) -> Tensor:
        """A score for each answer to each question, [N, Q, answers].

        Args:
            images: [N, C, H, W], values from 0 to 255.
            questions: int64 [N, Q, L].
        """
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, labels = self(batch["images"], batch["questions"]), batch["labels"]
        losses, known = self.losses(logits, labels)
        right, asked = accuracies(logits.detach().argmax(-1), labels), was_asked(labels)
        n = len(labels)
        accuracy = (right * asked).sum() / asked.sum().clamp(min=1)
        return self.objective((losses * known).sum() / known.sum().clamp(min=1), n, accuracy=accuracy * n)

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each question, [N, Q], and which have one: those with an answer that is in the list."""
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
        right, asked = accuracies(logits.argmax(-1), labels), was_asked(labels)
        for name, metric in zip(self.directions, self.metrics[stage], strict=True):
            if name == "loss":
                metric.update(*self.losses(logits, labels))
            elif name == "accuracy":
                metric.update(right, asked)
            else:
                kind = self.spec.kinds.index(name.removeprefix("accuracy_"))
                metric.update(right, asked & (batch["kinds"] == kind))

    def compute_metrics(self, stage: str) -> dict[str, float]:
        return read_out(dict(zip(self.directions, self.metrics[stage], strict=True)))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """The probability of each answer to each question, [N, Q, answers]."""
        return self(batch["images"], batch["questions"]).float().softmax(-1)

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


def was_asked(labels: Tensor) -> Tensor:
    """Which questions there are, bool [N, Q]."""
    return labels != IGNORE if labels.dim() == 2 else (labels != IGNORE).any(-1)


def accuracies(picked: Tensor, labels: Tensor) -> Tensor:
    """How right each answer is, [N, Q]: 0 or 1; where several people answered, the share of them that agrees, as VQA has it.

    That is min(n / 3, 1), where n of the others gave this answer, averaged over leaving each person out once (Antol et al. 2015
    and the official evaluation).

    Args:
        picked: the answers given, int64 [N, Q].
        labels: the true ones, [N, Q] or [N, Q, people].
    """
    if labels.dim() == 2:
        return (picked == labels).float()
    agree = (labels == picked[..., None]).sum(-1).float()
    people = (labels != IGNORE).sum(-1)
    left_out_agrees = agree * ((agree - 1).clamp(min=0) / AGREEING).clamp(max=1)
    left_out_differs = (people - agree) * (agree / AGREEING).clamp(max=1)
    return (left_out_agrees + left_out_differs) / people.clamp(min=1)
