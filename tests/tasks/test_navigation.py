"""Navigation held against agents whose behavior is known: one that knows the way, one that never stops, and one that is deaf."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.datamodules.rooms import LONGEST, Rooms
from zoo.datamodules.worlds.rooms import THINGS
from zoo.models.navigator import Navigator
from zoo.spec import IGNORE, PAD
from zoo.tasks.navigation import NavigationAgent, Walk, episode_metrics

SMALL = ("--set", "data.num_houses=3", "--set", "data.num_starts=2")
TINY = (
    *SMALL, "--set", "model.hidden_size=8", "--set", "model.channels=[4,4]", "--set", "recipe.batch_size=36",
    "--set", "trainer.limit_val_batches=1", "--set", "trainer.limit_test_batches=2",
)  # fmt: skip
FEW = ("--set", "trainer.limit_test_batches=2", "--json")


@pytest.fixture(scope="module")
def data() -> Rooms:
    data = Rooms(32, 0, num_houses=3, num_starts=2)
    data.setup()
    return data


class Scripted(NavigationAgent):
    """An agent that reads its scores off its views: what ``scores`` says of the number that each view is filled with."""

    def __init__(self, data: Rooms, scores: Tensor, forcing: str = "teacher") -> None:
        super().__init__(data.spec, Recipe(), forcing)
        self.scores = nn.Parameter(scores)

    def encode_views(self, views: Tensor) -> Tensor:
        return views[:, 0, 0, 0].long()

    def encode_instruction(self, words: Tensor) -> tuple[None, Tensor]:
        return None, torch.zeros(len(words))

    def forward(self, features: Tensor, previous: Tensor, memory: None, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores[features], state


def showing(batch: dict[str, Tensor], numbers: Tensor) -> dict[str, Tensor]:
    """A batch whose views show a number each, [n, P]."""
    return {**batch, "views": numbers[:, :, None, None, None].to(torch.uint8)}


def figures_over(agent: NavigationAgent, batches: list[dict[str, Tensor]]) -> dict[str, float]:
    agent.setup("test")
    with torch.no_grad():
        for batch in batches:
            agent.evaluation_step("test", batch)
    return agent.compute_metrics("test")


def test_an_agent_that_knows_the_way_succeeds_by_the_shortest(data: Rooms) -> None:
    agent = Scripted(data, 50 * torch.eye(4))
    batches = [showing(batch, batch["expert"]) for batch in data.test_dataloader()]
    figures = figures_over(agent, batches)
    for ending in ("", "_seen"):
        assert (figures[f"success{ending}"], figures[f"spl{ending}"], figures[f"error{ending}"]) == (1, 1, 0)
    split = data.splits["test"]
    unseen = split.environment < data.first_seen
    lengths = (split.actions != IGNORE).sum(1) - 1
    assert figures["length"] == pytest.approx(float(lengths[unseen].double().mean()))
    assert figures["length_seen"] == pytest.approx(float(lengths[~unseen].double().mean()))
    assert figures["loss"] == pytest.approx(0, abs=1e-6)


def test_an_agent_that_never_stops_never_succeeds_though_it_may_pass_the_goal(data: Rooms) -> None:
    scores = 50 * torch.eye(4)
    scores[3] = scores[1]  # it turns where the expert would stop
    agent = Scripted(data, scores)
    batch = showing(next(iter(data.test_dataloader())), next(iter(data.test_dataloader()))["expert"])
    walk = agent.walk(batch)
    assert batch["distance"].gather(1, walk.poses).eq(0).any(1).all(), "each comes to its goal"
    assert not walk.stopped.any() and walk.length.eq(data.spec.steps).all() and walk.walking.all()
    metrics = episode_metrics(batch, walk, data.spec)
    assert not metrics["success"].any() and metrics["oracle_success"].all()


def test_figures_are_those_of_the_formulas(data: Rooms) -> None:
    # a corridor of five poses whose goal is the last
    distance = torch.tensor([[4, 3, 2, 1, 0]]).expand(4, -1)
    batch = {"distance": distance, "start": torch.tensor([0, 2, 1, 0])}
    walk = Walk(
        poses=torch.tensor([[0, 4], [2, 4], [1, 3], [0, 4]]),
        scores=torch.empty(0),
        walking=torch.empty(0),
        stopped=torch.tensor([True, True, True, False]),
        length=torch.tensor([4.0, 5, 2, 30]),
    )
    figures = episode_metrics(batch, walk, data.spec)
    assert figures["success"].tolist() == [1, 1, 0, 0]
    assert figures["spl"].tolist() == [1, pytest.approx(2 / 5), 0, 0]
    assert figures["oracle_success"].tolist() == [1, 1, 0, 1]
    assert figures["error"].tolist() == [0, 0, 1, 0] and figures["length"].tolist() == [4, 5, 2, 30]


def test_rows_that_only_keep_processes_in_step_do_not_count_and_batches_do_not_matter(data: Rooms) -> None:
    torch.manual_seed(0)
    agent = Navigator(data.spec, Recipe(), hidden_size=8, channels=[4, 4]).eval()
    whole = figures_over(agent, list(data.val_dataloader()))
    loader = data.val_dataloader()
    loader.batch_size = 70
    batches = list(loader)
    extra = {**batches[0], "counted": torch.zeros(70, dtype=torch.bool)}
    assert figures_over(agent, [*reversed(batches), extra]) == pytest.approx(whole, abs=1e-6)


def test_who_hears_nothing_ends_in_the_same_place_for_all_things_and_is_right_at_most_once() -> None:
    data = Rooms(10 * THINGS, 0, num_houses=1, num_starts=1, instructions="none")
    data.setup()
    batch = next(iter(data.test_dataloader()))
    for seed in range(3):
        torch.manual_seed(seed)
        walk = Navigator(data.spec, Recipe()).eval().walk(batch)
        ends = walk.poses[:, -1].unflatten(0, (-1, THINGS))
        assert torch.equal(ends, ends[:, :1].expand_as(ends))
    # nor can any other place be right for two: no pose is the goal of two things
    assert ((data.environments.steps == 0).sum(1) <= 1).all()


def test_the_loss_of_a_teacher_is_that_of_each_action_on_the_experts_way(data: Rooms) -> None:
    agent = Scripted(data, torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    agent.objective = lambda loss, n, **sums: loss
    batch = next(iter(data.train_dataloader()))
    batch = showing(batch, batch["expert"])
    losses = []
    for path, actions, expert in zip(*(batch[name].tolist() for name in ("path", "actions", "expert")), strict=True):
        for place, action in zip(path, actions, strict=True):
            if action != IGNORE:
                losses.append(-agent.scores.log_softmax(1)[expert[place], action])
    assert len(losses) == int((batch["actions"] != IGNORE).sum())
    torch.testing.assert_close(agent.training_step(batch, 0), torch.stack(losses).mean())


def test_a_student_draws_by_its_probabilities_and_learns_from_the_expert_where_it_stands(data: Rooms) -> None:
    probabilities = torch.tensor([0.5, 0.2, 0.2, 0.1])
    agent = Scripted(data, probabilities.log().repeat(2, 1), forcing="student")
    agent.objective = lambda loss, n, **sums: loss
    batch = showing(b := next(iter(data.train_dataloader())), torch.zeros_like(b["expert"]))
    many = {key: value[:1].expand(3000, *value.shape[1:]) for key, value in batch.items()}
    torch.manual_seed(0)
    walk = agent.walk(many, sample=True)
    after = many["moves"][0, many["start"][0]].tolist()
    assert len(set(after)) == 4, "each action leads elsewhere"
    first = torch.tensor([[pose == place for place in after] for pose in walk.poses[:, 1].tolist()]).double().mean(0)
    assert first.tolist() == pytest.approx(probabilities.tolist(), abs=4 * math.sqrt(0.25 / 3000))
    stops = walk.walking.sum(1)[walk.stopped]
    assert float(stops.double().mean()) == pytest.approx(1 / 0.1, rel=0.15), "a stop ends an episode with a tenth at each step"

    torch.manual_seed(1)
    loss = agent.training_step(batch, 0)
    torch.manual_seed(1)
    walk = agent.walk(batch, sample=True)
    targets = [
        int(batch["expert"][row, pose])
        for row in range(len(walk.poses))
        for pose, walking in zip(walk.poses[row].tolist(), walk.walking[row].tolist(), strict=False)
        if walking
    ]
    expected = F.cross_entropy(probabilities.log().expand(len(targets), -1), torch.tensor(targets))
    torch.testing.assert_close(loss, expected)
    assert loss.requires_grad


def test_padding_behind_an_instruction_changes_nothing(data: Rooms) -> None:
    torch.manual_seed(0)
    agent = Navigator(data.spec, Recipe(), hidden_size=8, channels=[4, 4]).eval()
    batch = next(iter(data.test_dataloader()))
    longer = {**batch, "words": F.pad(batch["words"], (0, 7), value=PAD)}
    torch.testing.assert_close(agent.teacher_forced_scores(batch), agent.teacher_forced_scores(longer))
    assert not torch.allclose(
        agent.teacher_forced_scores(batch), agent.teacher_forced_scores({**batch, "words": batch["words"].roll(1, 0)})
    )


def test_attention_is_the_mean_of_what_was_read_weighted_by_how_well_it_answers(data: Rooms) -> None:
    torch.manual_seed(0)
    agent = Navigator(data.spec, Recipe(), hidden_size=8, channels=[4, 4]).eval()
    memory, (hidden, _) = agent.encode_instruction(next(iter(data.test_dataloader()))["words"])
    attended = agent.decoder.attend(memory, hidden)
    for row in range(3):
        keys = memory.keys[row][~memory.is_padding[row]]
        weights = (keys @ agent.decoder.query.weight @ hidden[row]).exp()
        torch.testing.assert_close(attended[row], (weights / weights.sum()) @ keys)


@pytest.mark.slow
def test_a_run_from_training_to_its_picture(zoo) -> None:
    answer = zoo("train", "navigator", "--name", "agent", "--epochs", "1", "--set", "model.forcing=student", *TINY)
    assert answer.code == 0, answer.err
    assert "next: zoo picture path agent" in answer.out
    told = json.loads(zoo("test", "agent", *FEW).out)
    # the first batches are of unseen houses
    assert set(told) == {f"test/{name}" for name in Navigator.directions if not name.endswith("_seen")}
    assert 0 <= told["test/success"] <= 1 and told["test/length"] <= Rooms(1, 0).spec.steps
    again = json.loads(zoo("test", "agent", *FEW, "--set", "data.instructions=shuffled").out)
    assert again["test/loss"] != told["test/loss"], "it is told something else"
    assert zoo("predict", "agent", ".").code == 2
    Image.new("RGB", (8, 8)).save("photo.png")
    assert zoo("predict", "agent", "photo.png").is_one_line_error("navigator", "zoo picture path")
    assert zoo("picture", "confusion", "agent").is_one_line_error("classification", "navigation")
    answer = zoo("picture", "path", "agent")
    assert answer.code == 0 and "zoo test agent --set data.instructions=shuffled" in answer.out, answer.err
    with Image.open("agent-path.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 600


def test_rooms_are_shown_measured_and_drawn(zoo) -> None:
    facts = json.loads(zoo("data", "show", "rooms", "--measure", "--json", *SMALL).out)
    assert facts["houses"] == {"train": 3, "val": 40, "test": 40} and facts["episodes"]["train"] == 3 * 2 * THINGS
    assert " on average, at most " in facts["actions"] and int(facts["actions"].split()[-1]) <= LONGEST
    answer = zoo("data", "preview", "rooms", *SMALL)
    assert answer.code == 0 and answer.out.startswith("rooms.png: ")
    with Image.open("rooms.png") as picture:
        assert picture.width > 6 * 256 and picture.height > 256, "six houses in a row"
    assert zoo("data", "preview", "rooms", "-o", "rooms.jpg", *SMALL).is_one_line_error("rooms.jpg", ".png")


def test_what_an_agent_cannot_be_is_one_line(zoo) -> None:
    assert zoo("train", "navigator", "--set", "model.forcing=teachr").is_one_line_error("teachr", "'teacher'")
    assert zoo("train", "navigator", "--set", "model.hidden_size=0", *SMALL).is_one_line_error("model.hidden_size=0")
    assert zoo("train", "navigator", "--set", "model.channels=[]", *SMALL).is_one_line_error("model.channels=[]")
    assert zoo("train", "navigator", "--set", "model.channels=[4,4,4,4,4]", *SMALL).is_one_line_error("24x36")
    assert zoo("train", "resnet20", "--data", "rooms").is_one_line_error("classification", "digits")
