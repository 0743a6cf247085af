"""k-nearest neighbors as a model of the zoo: its votes are scikit-learn's, and what it remembers is all of the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import zoo
from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training import building, engine
from zoo.training.checkpoints import read_checkpoint

SPEC = zoo.ImageSpec(1, 4, 4, classes=("a", "b", "c"))


def knn(images: torch.Tensor, labels: torch.Tensor, **options):
    """A model that remembers these images, [N, 1, 4, 4]."""
    task = zoo.create_model("knn", SPEC, Recipe(epochs=1, batch_size=len(labels)), **options)
    task.stored.clear(len(labels), SPEC.shape)
    task.store(images, labels, 0)
    return task.eval()


def random_images(n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, *SPEC.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("metric", ["L1", "L2"])
@pytest.mark.parametrize("vote", ["majority", "distance"])
@pytest.mark.parametrize("k", [1, 4, 15])
def test_shares_of_votes_are_those_of_scikit_learn(metric: str, vote: str, k: int) -> None:
    images, labels = random_images(200, 0), torch.arange(200) % 3
    queries = torch.cat([random_images(60, 1), images[:5]])  # some are known images
    task = knn(images, labels, k=k, metric=metric, vote=vote)
    probabilities = task.predict_step({"images": queries}).numpy()
    reference = KNeighborsClassifier(
        k, p={"L1": 1, "L2": 2}[metric], weights={"majority": "uniform"}.get(vote, vote), algorithm="brute"
    )
    reference.fit(images.flatten(1).numpy().astype(float), labels.numpy())
    vectors = queries.flatten(1).numpy().astype(float)
    distances, _ = reference.kneighbors(vectors, k + 1)
    certain = distances[:, k - 1] < distances[:, k]  # else it is open which of two equally near ones votes
    assert certain.sum() > 50
    probabilities, expected = probabilities[certain], reference.predict_proba(vectors[certain])
    np.testing.assert_allclose(probabilities, expected, atol=2e-4)
    clear = np.sort(expected)[:, -1] - np.sort(expected)[:, -2] > 1e-3
    assert clear.sum() > 20
    np.testing.assert_array_equal(probabilities.argmax(1)[clear], expected.argmax(1)[clear])


def test_a_tie_goes_to_the_class_of_the_nearest() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([[2, 1, 1, 2], [0, 1, 1, 2], [1, 0, 0, 1]])
    for vote, winners in (("majority", [2, 1, 1]), ("distance", [2, 0, 1])):
        shares = knn(random_images(4, 0), torch.arange(4) % 3, k=4, vote=vote).votes(distances, labels)
        assert shares.argmax(1).tolist() == winners
        torch.testing.assert_close(shares.sum(1), torch.ones(3, dtype=torch.float64))


def test_all_training_images_are_remembered_in_their_order() -> None:
    registry = scan()
    run = resolve(registry, "knn", {}, [{"recipe": {"batch_size": 100}, "trainer": {"accelerator": "cpu"}}])
    outcome = engine.train(registry, run, "whole")
    split = building.build_data(registry, run).splits["train"]
    kept = read_checkpoint(outcome.folder.best)["state_dict"]
    assert len(split) % 100  # the last batch is not a full one
    assert torch.equal(kept["stored.images"], split.images.pixels.flatten(1))
    assert torch.equal(kept["stored.labels"], split.labels)


def test_an_interrupted_pass_starts_again(zoo) -> None:
    from zoo.training.run_folder import RunFolder

    assert zoo("train", "knn", "--name", "whole").code == 0
    assert zoo("train", "knn", "--name", "again").code == 0
    folder = RunFolder.find("again")
    folder.last.unlink()
    folder.best.unlink()
    assert zoo("train", "--resume", "again").code == 0
    whole, again = (read_checkpoint(RunFolder.find(name).best)["state_dict"] for name in ("whole", "again"))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_what_the_model_cannot_do_is_one_line(zoo) -> None:
    assert zoo("train", "knn", "--set", "model.k=5000").is_one_line_error("model.k=5000", "1295 training images")
    assert zoo("train", "knn", "--set", "model.k=0").is_one_line_error("model.k=0")
    assert zoo("train", "knn", "--set", "recipe.lr=0.1").is_one_line_error("recipe.lr=0.1", "one pass")
    assert zoo("train", "knn", "--epochs", "3").is_one_line_error("recipe.epochs=3", "one pass")
    assert zoo("train", "knn", "--set", "model.metric=L3").is_one_line_error("model.metric=L3", "'L1' or 'L2'")


def test_without_memory_all_classes_are_alike() -> None:
    task = zoo.create_model("knn", SPEC)
    torch.testing.assert_close(task.predict_step({"images": random_images(2, 0)}), torch.full((2, 3), 1 / 3))
    with pytest.raises(UserError):
        zoo.create_model("knn", SPEC, k=-1)
