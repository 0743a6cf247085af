"""Room-to-Room on two small buildings in the published layout, held against networkx and values worked by hand; real texts."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from PIL import Image

from zoo.datamodules.bases.viewpoints import ViewpointGraphs
from zoo.datamodules.files import view_features
from zoo.datamodules.files.connectivity import read_scan
from zoo.datamodules.files.view_features import ViewFeatures, load_view_features
from zoo.datamodules.r2r import R2R, read_routes
from zoo.models.navigator import Navigator
from zoo.spec import IGNORE, SPECIAL_WORDS, ImageSpec, NavigationSpec
from zoo.tasks.navigation import Walk, episode_metrics
from zoo.text.tokenization import build_vocabulary, tokenize

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "r2r"
WIDTH = 12  # features of a view
BUILDINGS = ("shady", "sunny")
WAYS, NUMBERS = ("Go to", "Walk to the", "Find"), ("one", "two", "three", "four", "five", "six")
TINY = ("--data", "r2r", "--set", "data.root=rooms", "--set", "data.min_count=1")


def viewpoint(name: str, place: tuple[float, float, float], reaches: list[bool], included: bool = True) -> dict[str, Any]:
    """An entry of a connectivity file."""
    x, y, z = place
    pose = [1, 0, 0, x, 0, 1, 0, y, 0, 0, 1, z, 0, 0, 0, 1]
    rest = {"included": included, "visible": [True] * len(reaches), "unobstructed": reaches, "height": 1.5}
    return {"image_id": name, "pose": pose, **rest}


def building(name: str, draw: random.Random) -> tuple[list[dict[str, Any]], networkx.Graph]:
    """A connectivity file of a grid of rooms, in whose midst is a viewpoint that is not included; and its graph."""
    graph = networkx.grid_2d_graph(4, 3)
    graph.remove_edge((0, 0), (0, 1))
    cells = sorted(graph)
    places = {cell: (2.5 * cell[0] + draw.random(), 2.5 * cell[1] + draw.random(), draw.random()) for cell in cells}
    for one, other in graph.edges:
        graph.edges[one, other]["weight"] = math.dist(places[one], places[other])
    cells.insert(5, None)
    entries = [
        viewpoint("hidden", (0, 0, 0), [True] * len(cells), included=False)
        if cell is None
        else viewpoint(
            f"{name}-{cell[0]}{cell[1]}", places[cell], [other is None or graph.has_edge(cell, other) for other in cells]
        )
        for cell in cells
    ]
    return entries, networkx.relabel_nodes(graph, {cell: f"{name}-{cell[0]}{cell[1]}" for cell in graph})


def routes(name: str, graph: networkx.Graph, count: int, draw: random.Random, first: int = 0) -> list[dict[str, Any]]:
    """Shortest paths of at least three moves, with instructions that tell one from another."""
    ends = [(a, b) for a in sorted(graph) for b in sorted(graph) if networkx.shortest_path_length(graph, a, b) >= 3]
    chosen = draw.sample(ends, count)
    return [
        {
            "scan": name,
            "path_id": first + number,
            "path": (path := networkx.dijkstra_path(graph, start, goal)),
            "distance": networkx.path_weight(graph, path, "weight"),
            "heading": draw.uniform(0, 2 * math.pi),
            "instructions": [f"{way} room {NUMBERS[number]}. " for way in WAYS],
        }
        for number, (start, goal) in enumerate(chosen)
    ]


def write_buildings(root: Path) -> dict[str, networkx.Graph]:
    """Write all that Room-to-Room needs, in the published layout."""
    draw, generator = random.Random(3), np.random.default_rng(0)
    (root / "connectivity").mkdir(parents=True)
    graphs, lines = {}, []
    for name in BUILDINGS:
        entries, graphs[name] = building(name, draw)
        (root / "connectivity" / f"{name}_connectivity.json").write_text(json.dumps(entries))
        for entry in entries:
            features = generator.random((36, WIDTH), dtype=np.float32)
            lines.append("\t".join([name, entry["image_id"], "640", "480", "60", base64.b64encode(features).decode()]) + "\n")
    (root / "ResNet-152-imagenet.tsv").write_text("".join(lines))
    train = routes("sunny", graphs["sunny"], 6, draw)
    unseen = routes("shady", graphs["shady"], 5, draw, 100)
    test = [{**{k: v for k, v in route.items() if k != "distance"}, "path": route["path"][:1]} for route in unseen[:2]]
    (root / "R2R_train.json").write_text(json.dumps(train))
    (root / "R2R_val_seen.json").write_text(json.dumps(train))  # learned by heart, it is solved
    for split, content in (("val_unseen", unseen), ("test", test)):
        (root / f"R2R_{split}.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    return graphs


@pytest.fixture
def graphs(workplace: Path) -> dict[str, networkx.Graph]:
    return write_buildings(workplace / "rooms")


def opened(**options: Any) -> R2R:
    data = R2R(4, 0, "rooms", min_count=1, **options)
    data.setup()
    return data


# ---------------------------------------------------------------------------------------------- graphs and views


def corner() -> tuple[ViewpointGraphs, torch.Tensor]:
    """Four viewpoints: 1 is 2 m north of 0, 2 is 2 m east of 1 and 2 m higher, 3 is 3 m east of 2; and their features."""
    places = [(0, 0, 0), (0, 2, 0), (2, 2, 2), (5, 2, 2)]
    joined = {(0, 1), (1, 2), (2, 3)}
    entries = [viewpoint("abcd"[i], places[i], [(min(i, j), max(i, j)) in joined for j in range(4)]) for i in range(4)]
    Path("corner_connectivity.json").write_text(json.dumps(entries))
    table = torch.arange(1, 4 * 36 + 1).view(4, 36, 1).half()
    features = ViewFeatures(Path("none"), table, {("corner", name): row for row, name in enumerate("dcba")})
    return ViewpointGraphs.build([read_scan(Path("corner_connectivity.json"))], features, actions=4), table


def test_moves_lengths_and_experts_are_those_worked_by_hand() -> None:
    graphs, _ = corner()
    tables = graphs.lookup(torch.tensor([0]), torch.tensor([3]))
    row = torch.tensor([0])

    def at(name: str, viewpoint: int, heading: int = 0) -> Any:
        return tables[name][row, torch.tensor([12 * viewpoint + heading])][0].tolist()

    # headings: 0 is north, 3 east, 6 south, 9 west; one arrives facing as one went
    assert at("moves", 0, 7) == [12 * 1 + 0, -1, -1, 7]
    assert at("moves", 1) == [12 * 0 + 6, 12 * 2 + 3, -1, 12]
    assert at("moves", 2, 11) == [12 * 1 + 9, 12 * 3 + 3, -1, 12 * 2 + 11]
    assert at("lengths", 1) == pytest.approx([2, math.sqrt(8), 0, 0])
    assert [at("distance", v) for v in range(4)] == pytest.approx([5 + math.sqrt(8), 3 + math.sqrt(8), 3, 0])
    assert [at("expert", v) for v in range(4)] == [0, 1, 1, 3]


def test_an_agent_sees_the_view_nearest_to_each_neighbor_and_its_direction_from_where_it_faces() -> None:
    graphs, table = corner()
    views = graphs.lookup(torch.tensor([0]), torch.tensor([3]))["views"]
    # from b, facing east: a is to the right, level (view 12 + 6); c is ahead, 45 degrees up (view 24 + 3), as is the stop, level
    seen = views[torch.tensor([0]), torch.tensor([12 * 1 + 3])]
    assert seen.shape == (1, 1 + 4, 1, 4)
    own = table[2, :, 0].tolist()  # the rows of the features are in another order
    right, ahead, none, stop = seen[0, :, 0].T.tolist()
    half = math.sqrt(0.5)
    assert right == pytest.approx([own[12 + 6], 1, 0, 0, 1], abs=1e-6)
    assert ahead == pytest.approx([own[24 + 3], 0, 1, half, half], abs=1e-6)
    assert none == [0] * 5 and stop == pytest.approx([own[12 + 3], 0, 1, 0, 1])
    # facing north, c is to the right
    assert views[torch.tensor([0]), torch.tensor([12 * 1])][0, 1:3, 0, 1].tolist() == pytest.approx([1, 0], abs=1e-6)


def test_distances_and_paths_are_those_of_networkx(graphs: dict[str, networkx.Graph]) -> None:
    data = opened()
    for number, name in enumerate(BUILDINGS):  # the held-out one first
        scan = data.scans[number]
        assert scan.name == name and len(scan.viewpoints) == 12 and "hidden" not in scan.viewpoints
        expected = dict(networkx.all_pairs_dijkstra_path_length(graphs[name]))
        matrix = [[expected[a][b] for b in scan.viewpoints] for a in scan.viewpoints]
        assert scan.distances() == pytest.approx(np.array(matrix))
    for split in ("train", "val", "test"):
        episodes = data.splits[split]
        for episode, (file, index, number) in enumerate(data.sources[split]):
            route = data.routes[file][index]
            path = episodes.path[episode][episodes.actions[episode] != IGNORE] // 12
            scan = data.scans[int(episodes.environment[episode])]
            assert [scan.viewpoints[place] for place in path.tolist()] == list(route.path)
            assert data.instruction(split, episode) == " ".join(tokenize(route.instructions[number]))
            assert int(episodes.start[episode]) % 12 == round(route.heading / (math.pi / 6)) % 12


def test_metrics_are_the_published_ones() -> None:
    graphs, _ = corner()
    published = {"panoramic": True, "success_distance": 3.0, "requires_stop": False, "unit": "m"}
    spec = NavigationSpec(ImageSpec(5, 1, 4, ()), SPECIAL_WORDS, ("1", "2", "3", "stop"), length=5, steps=5, **published)
    # from a to d, 5 + 2.83 m: right; with a detour; a step too early, which leaves 3 m; past it and back; not at all
    far = 5 + math.sqrt(8)
    paths = [[0, 1, 2, 3, 3, 3], [0, 1, 0, 1, 2, 3], [0, 1, 2, 2, 2, 2], [0, 1, 2, 3, 2, 1], [0, 0, 0, 0, 0, 0]]
    edges = {(0, 1): 2, (1, 2): math.sqrt(8), (2, 3): 3}
    lengths = [sum(edges.get((min(a, b), max(a, b)), 0) for a, b in zip(path, path[1:], strict=False)) for path in paths]
    rows = torch.zeros(5, dtype=torch.long)
    batch = {**graphs.lookup(rows, rows + 3), "start": rows}
    stopped = torch.tensor([True, False, True, True, True])
    walk = Walk(12 * torch.tensor(paths), torch.empty(0), torch.empty(0), stopped, torch.tensor(lengths))
    metrics = {name: values.tolist() for name, values in episode_metrics(batch, walk, spec).items()}
    assert metrics["success"] == [1, 1, 0, 0, 0], "less than 3 m from the goal, also of one that ran out of steps"
    assert metrics["oracle_success"] == [1, 1, 0, 1, 0]
    assert metrics["spl"] == pytest.approx([1, far / (far + 4), 0, 0, 0])
    assert metrics["error"] == pytest.approx([0, 0, 3, 3 + math.sqrt(8), far])
    assert metrics["length"] == pytest.approx(lengths)


# ---------------------------------------------------------------------------------------------- files


def test_features_are_converted_once_and_again_after_a_kill(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path("rooms/ResNet-152-imagenet.tsv")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(view_features, "replace_file", killed)
        load_view_features(source)
    features = load_view_features(source)
    for line in source.read_text().splitlines():
        scan, name, *_, encoded = line.split("\t")
        exact = np.frombuffer(base64.b64decode(encoded), np.float32).reshape(36, WIDTH)
        assert np.abs(features.table[features.rows(scan, (name,))[0]].numpy() - exact).max() < 1e-3
    with monkeypatch.context() as patch:
        patch.setattr(view_features, "_convert", killed)
        assert torch.equal(load_view_features(source).table, features.table)


def test_what_is_missing_or_damaged_is_one_line(zoo, graphs: Any) -> None:
    root = Path("rooms")
    assert zoo("train", "navigator", "--data", "r2r").is_one_line_error("data.root")
    assert zoo("train", "resnet20", *TINY).is_one_line_error("classification")

    def fails(*words: str) -> bool:
        return zoo("train", "navigator", *TINY, "--epochs", "1").is_one_line_error(*words)

    features, graph, unseen = (
        root / "ResNet-152-imagenet.tsv",
        root / "connectivity/shady_connectivity.json",
        "R2R_val_unseen.json",
    )
    assert zoo("train", "navigator", *TINY, "--set", "data.max_steps=3").is_one_line_error("data.max_steps=3", "at least 7")
    assert zoo("train", "navigator", *TINY, "--set", "recipe.label_smoothing=0.1").is_one_line_error("recipe.label_smoothing=0.1")
    assert zoo("train", "navigator", *TINY, "--set", "data.features=no.tsv").is_one_line_error("no.tsv")
    assert zoo("train", "navigator", *TINY, "--set", "data.connectivity=no").is_one_line_error(
        "data.connectivity=no", "Simulator"
    )
    graph.rename("kept")
    assert fails("shady_connectivity.json", "github.com/peteanderson80/Matterport3DSimulator", "data.connectivity=FOLDER")
    Path("kept").rename(graph)
    whole = features.read_text()
    features.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert fails("no features of viewpoints of scan sunny: sunny-32")
    features.write_text(whole.replace("\t480\t", "\t", 1))
    assert fails("line 1 ", "5 columns")
    features.write_text(whole[:-40] + "\n")
    assert fails("line 26 ")
    features.unlink()
    assert fails("ResNet-152-imagenet.tsv", "github.com/peteanderson80/Matterport3DSimulator", "data.features=FILE.tsv")
    features.write_text(whole)
    content = json.loads((root / "R2R_train.json").read_text())
    content[0]["path"][0] = "hidden"
    (root / "R2R_train.json").write_text(json.dumps(content))
    assert fails("path_id 0", "hidden", "sunny_connectivity.json")
    (root / "R2R_train.json").write_text('[{"path_id": 1}]')
    assert fails("R2R_train.json", "'scan'")
    (root / f"{unseen}.gz").unlink()
    (root / "R2R_train.json").write_text(json.dumps(content))
    assert fails(f"{unseen} (or {unseen}.gz)", "download.sh")


def test_the_real_files_are_read_whole() -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here: the four files of Room-to-Room")
    expected = {"train": (14_039, 61), "val_seen": (1_021, 56), "val_unseen": (2_349, 11), "test": (4_173, 18)}
    files = {split: read_routes(REAL / f"R2R_{split}.json.gz") for split in expected}
    told = {split: [tokenize(text) for route in routes for text in route.instructions] for split, routes in files.items()}
    found = {split: (len(told[split]), len({route.scan for route in routes})) for split, routes in files.items()}
    assert found == expected
    assert all(sentence for sentences in told.values() for sentence in sentences), "each can be tokenized"
    # Anderson et al. 2018: 29 words on average, paths of 4 to 6 moves, vocabulary of 3.1 thousand words
    lengths = Counter(len(route.path) - 1 for split in ("train", "val_seen", "val_unseen") for route in files[split])
    assert set(lengths) == {3, 4, 5, 6} and lengths[3] < 0.01 * lengths.total()
    assert {len(route.path) for route in files["test"]} == {1}
    everything = [sentence for sentences in told.values() for sentence in sentences]
    assert sum(map(len, everything)) / len(everything) == pytest.approx(26, abs=1.5)  # without punctuation
    assert 2_500 < len({word for sentence in everything for word in sentence}) < 3_500
    assert 900 < len(build_vocabulary(told["train"], 5)) < 1_000 and max(map(len, everything)) < 200
    held_out = {route.scan for split in ("val_unseen", "test") for route in files[split]}
    assert not held_out & {route.scan for route in files["train"]}
    assert {route.scan for route in files["val_seen"]} <= {route.scan for route in files["train"]}
    assert all(0 <= route.heading <= 2 * math.pi for routes in files.values() for route in routes)


# ---------------------------------------------------------------------------------------------- training


def test_batches_fit_the_spec_and_splits_have_their_names(zoo, graphs: Any) -> None:
    data = opened()
    for split in ("train", "val", "test", "official_test"):
        data.check_batch(next(iter(data.build_loader(split))))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 18, "val": 33, "test": 33, "official_test": 6}
    for split in ("val", "test"):
        seen = torch.cat([batch["seen"] for batch in data.build_loader(split)])
        assert seen.tolist() == [file == "val_seen" for file, *_ in data.sources[split]]
    data = opened(validation="val_seen", instructions="shuffled")
    assert not any(batch["seen"].any() for batch in data.val_dataloader()), "it selects, under the plain names"
    assert {file for file, *_ in data.sources["val"]} == {"val_seen"}
    own = opened().splits["train"].words
    assert sorted(data.splits["train"].words.tolist()) == sorted(own.tolist()) and not torch.equal(
        data.splits["train"].words, own
    )
    assert opened(instructions="none").instruction("train", 0) == ""
    assert zoo("check", "r2r", "--set", "data.root=rooms", "--set", "data.min_count=1").code == 0


def test_a_student_takes_only_ways_that_there_are(graphs: dict[str, networkx.Graph]) -> None:
    data = opened()
    torch.manual_seed(0)
    agent = Navigator(data.spec, hidden_size=8, embed_dim=8, forcing="student")
    batch = next(iter(data.build_loader("test")))
    walk = agent.walk(batch, sample=True)
    for row, poses in enumerate(walk.poses.tolist()):
        scan = data.scans[int(data.splits["test"].environment[row])]
        path = [scan.viewpoints[pose // 12] for pose in poses[: int(walk.steps[row]) + 1]]
        assert networkx.path_weight(graphs[scan.name], path, "weight") == pytest.approx(float(walk.length[row]), rel=1e-5)
        assert int(walk.steps[row]) == data.spec.steps or walk.stopped[row]
    agent.objective = lambda loss, n, **sums: loss
    loss = agent.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite() and all(each.grad is not None and each.grad.isfinite().all() for each in agent.parameters())


def test_samples_of_a_batch_do_not_mix_and_padding_changes_nothing(graphs: Any) -> None:
    data = opened()
    torch.manual_seed(0)
    agent = Navigator(data.spec, hidden_size=8, embed_dim=8).eval()
    batch = next(iter(data.build_loader("test")))
    with torch.no_grad():
        together = agent.teacher_forced_scores(batch).softmax(2)
        apart = torch.cat([agent.teacher_forced_scores(agent.part(batch, slice(i, i + 1))).softmax(2) for i in range(4)])
    torch.testing.assert_close(together, apart)
    impossible = batch["moves"][torch.arange(4)[:, None], batch["path"]] < 0
    assert not together[impossible].any() and impossible.any()


@pytest.mark.slow
def test_a_run_that_was_interrupted_and_resumed_ends_with_the_same_bits(zoo, graphs: Any, monkeypatch) -> None:
    options = (*TINY, "--set", "recipe.batch_size=6", "--set", "model.hidden_size=8", "--set", "model.forcing=student")
    options = ("train", "navigator", *options, "--set", "model.dropout=0.2", "--epochs", "3")
    assert zoo(*options, "--name", "whole").code == 0

    begin = Navigator.on_train_batch_start

    def interrupt(self: Navigator, batch: Any, batch_idx: int) -> None:
        begin(self, batch, batch_idx)
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Navigator, "on_train_batch_start", interrupt)
        assert zoo(*options, "--name", "stopped").code == 130
    assert zoo("train", "--resume", "stopped").code == 0
    whole, resumed = (torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True) for name in ("whole", "stopped"))
    assert whole["global_step"] == resumed["global_step"] == 9
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.slow
def test_paths_learned_by_heart_are_walked_and_shown(zoo, graphs: Any) -> None:
    options = ("--set", "recipe.batch_size=9", "--set", "recipe.lr=0.01", "--set", "model.hidden_size=32")
    answer = zoo("train", "navigator", *TINY, *options, "--set", "data.validation=val_seen", "--epochs", "40", "--name", "sure")
    assert answer.code == 0, answer.err
    told = json.loads(zoo("test", "sure", "--json").out)
    assert told["test/spl_seen"] == told["test/success_seen"] == told["test/oracle_success_seen"] == 1
    assert told["test/error_seen"] == 0 and told["test/success"] < 1
    records = [json.loads(line) for line in Path("runs/sure/metrics.jsonl").read_text().splitlines()]
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    assert losses[-1] < 0.1 * losses[0]

    import zoo as package

    run = package.load("sure")
    walked = run.trajectories("official_test")
    assert [each["instr_id"] for each in walked] == [f"{path}_{number}" for path in (100, 101) for number in range(3)]
    unseen = json.loads(gzip.decompress(Path("rooms/R2R_val_unseen.json.gz").read_bytes()))
    assert [each["trajectory"][0][0] for each in walked] == [route["path"][0] for route in unseen[:2] for _ in range(3)]
    succeeded, failed = run.episodes()
    assert len(succeeded) + len(failed) == 15 and " m, shortest path " in failed[0].outcome
    assert zoo("picture", "path", "sure").code == 0 and zoo("report", "sure").code == 0
    with Image.open("sure-path.png") as picture:
        assert min(picture.size) > 600
    assert "test episodes in unseen houses succeed" in Path("runs/sure/report.html").read_text()
    assert zoo("data", "preview", "r2r", "--set", "data.root=rooms").code == 0
    assert zoo("test", "sure", "--set", "data.instructions=shuffled").code == 0
    assert zoo("predict", "sure", "sure-path.png").is_one_line_error("navigator", "zoo picture path")
