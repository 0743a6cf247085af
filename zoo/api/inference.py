"""What is asked of a trained network: predictions and features of images, texts, dialogues, and ways through worlds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.core.errors import UserError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.config.run import Run
    from zoo.registry.entry import Entry
    from zoo.registry.registry import Registry
    from zoo.tasks.language_modeling import LanguageModel
    from zoo.tasks.navigation import Episode
    from zoo.tasks.prediction import Prediction
    from zoo.tasks.task import Task
    from zoo.training.conversation import Conversation
    from zoo.training.prediction import ImageInput

Kind = TypeVar("Kind")


class Inference:
    """The part of ``TrainedRun`` that asks its network.

    Attributes:
        config: settings of its training.
        entry: its model in the registry.
    """

    registry: Registry
    config: Run
    entry: Entry

    @property
    def model(self) -> Task:
        """The network with its trained weights, in evaluation mode."""
        raise NotImplementedError

    def predict(
        self, inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 64, progress: bool = False, **options: object
    ) -> list[Prediction]:
        """Predict for images: classes, captions or answers, one prediction for each image, in order.

        Args:
            inputs: one or several of: image files, folders of images, Pillow images, arrays or tensors ([H, W], [H, W, C] or
                [C, H, W], uint8 or floats from 0 to 1), or batches of them.
            batch_size: images that are predicted at once.
            progress: whether to show a progress bar.
            options: of the task: ``top`` classes or answers; ``question`` about each image; ``beams``, ``samples``,
                ``temperature`` and ``seed`` for captions.

        Raises:
            UserError: an image is missing or cannot be read, or an option is of another task.

        Examples:
            >>> for prediction in run.predict(["a.jpg", "b.jpg"], top=5):
            ...     print(prediction.name, prediction.probability)
        """
        found = self.stream(_several(inputs), batch_size=batch_size, progress=progress, **options)
        return [prediction for _, prediction in found]

    def stream(
        self, inputs: Sequence[ImageInput], *, batch_size: int = 64, progress: bool = False, **options: object
    ) -> Iterator[tuple[str, Prediction]]:
        """Predict as ``predict`` does: pairs of a file and its prediction, while the next images are read."""
        model = self.model
        from zoo.training.prediction import predict

        return predict(model, self.entry.name, inputs, batch_size=batch_size, progress=progress, **options)

    def sample(
        self,
        prompt: str = "",
        length: int = 500,
        *,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        greedy: bool = False,
        beams: int = 0,
    ) -> list[str]:
        """Generate texts that continue ``prompt``, with a language model.

        Args:
            length: number of characters.
            samples: number of texts.
            temperature: divides the logits: below 1, probable characters become more probable.
            top_k: sample from the k most probable characters; 0 from all.
            top_p: sample from the most probable characters that together have this probability.
            seed: of the samples.
            greedy: always take the most probable character.
            beams: beam search with this beam width, the most probable text first; 0 for none.

        Raises:
            UserError: the model is for another task, or the prompt has characters that it does not know.
        """
        if beams:
            return [text for text, _ in self._language_model().generate_by_beam_search(prompt, length, beams)]
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "greedy": greedy}
        stream = self.stream_text(prompt, length, samples=samples, **given)
        return ["".join(characters) for characters in zip(*stream, strict=True)]

    def stream_text(
        self,
        prompt: str = "",
        length: int = 500,
        *,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        greedy: bool = False,
    ) -> Iterator[list[str]]:
        """Generate texts as ``sample`` does: the next character of each, one after the other."""
        if not isinstance(prompt, str) or length < 1 or samples < 1:
            raise UserError(f"sample takes a text, and numbers from 1: not {prompt!r}, length={length}, samples={samples}")
        from zoo.tasks.decoding import Sampling

        sampling = Sampling(temperature, top_k, top_p)
        return self._language_model().generate(prompt, length, samples, None if greedy else sampling, int(seed))

    def _language_model(self) -> LanguageModel:
        from zoo.tasks.language_modeling import LanguageModel

        return self._model_of(LanguageModel, "generates no text")

    def _model_of(self, kind: type[Kind], lacking: str) -> Kind:
        """The network, if it is for that kind of work; ``lacking`` is what others cannot do."""
        if not isinstance(self.model, kind):
            raise UserError(self.model.cannot(self.entry.name, lacking))
        return self.model

    def chat(self, image: ImageInput, caption: str = "") -> Conversation:
        """Begin a dialogue about an image: ``ask(question)`` of the result answers in the context of the previous questions.

        Raises:
            UserError: the model is for another task, or the image cannot be read.
        """
        from zoo.tasks.dialogue import VisualDialogue
        from zoo.training.conversation import Conversation

        return Conversation(self._model_of(VisualDialogue, "holds no dialogue"), image, caption)

    def episodes(self) -> tuple[list[Episode], list[Episode]]:
        """Let a navigation agent follow the instructions of test episodes in unseen worlds: successes, and failures.

        Raises:
            UserError: the model is for another task.
        """
        from zoo.tasks.navigation import NavigationAgent
        from zoo.training.building import build_test_data

        agent = self._model_of(NavigationAgent, "does not navigate")
        return agent.walk_unseen(build_test_data(self.registry, self.config, agent.spec))

    def trajectories(self, split: str = "test") -> list[dict[str, Any]]:
        """Let a navigation agent follow all instructions of a split of its data, as in ``official_test`` of ``r2r``.

        Returns:
            The path of each episode, in the form in which the data's benchmark takes results.

        Raises:
            UserError: the model is for another task, or there is no such split.
        """
        from zoo.tasks.navigation import NavigationAgent
        from zoo.training.building import build_test_data

        agent = self._model_of(NavigationAgent, "does not navigate")
        data = build_test_data(self.registry, self.config, agent.spec)
        if split not in data.splits:
            raise unknown("split", split, data.splits)
        return agent.walk_split(data, split)

    def embed(
        self, inputs: ImageInput | Iterable[ImageInput], *, batch_size: int = 64, progress: bool = False
    ) -> tuple[list[str], Tensor]:
        """Compute features of images: what the last layer of a classifier is given.

        Args:
            inputs, batch_size, progress: as in ``predict``.

        Returns:
            The file of each image, and its features, float32 [n, features].

        Raises:
            UserError: as ``predict``, or the model has no features.

        Examples:
            >>> files, features = zoo.load("efficientnet-lite0").embed("photos/")
        """
        import torch

        found = list(self.stream_features(_several(inputs), batch_size=batch_size, progress=progress))
        return [file for files, _ in found for file in files], torch.cat([features for _, features in found])

    def stream_features(
        self, inputs: Sequence[ImageInput], *, batch_size: int = 64, progress: bool = False
    ) -> Iterator[tuple[list[str], Tensor]]:
        """Compute features as ``embed`` does: files and features of a batch, while the next images are read."""
        model = self.model
        from zoo.training.prediction import embed

        return embed(model, self.entry.name, inputs, batch_size=batch_size, progress=progress)


def _several(inputs: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """One or several images as a list."""
    # arrays, tensors and Pillow images are iterable, too
    is_one = isinstance(inputs, (str, Path)) or hasattr(inputs, "shape") or hasattr(inputs, "convert")
    return [inputs] if is_one or not isinstance(inputs, Iterable) else list(inputs)
