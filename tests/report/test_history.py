"""Reading what a run recorded, whole, half written or strange; and thinning it without losing what matters."""

from __future__ import annotations

import json
import math
import time
import tracemalloc

import numpy as np
import pytest

from zoo.pictures.curves import curve
from zoo.report.history import columns, heat, magnitudes, read_history, thin

# ------------------------------------------------------------------ reading


def test_what_was_recorded_is_read(write_run, metrics, monitors, finding) -> None:
    history = read_history(write_run("whole", metrics(100), [*monitors(range(0, 50, 10)), finding()]).path)
    assert len(history.metrics.times) == 12
    assert history.activations.names == ["network.first", "network.second"]
    assert history.activations.types["network.first"] == "ReLU"
    assert history.activations.steps.tolist() == [0, 10, 20, 30, 40]
    assert history.activations.values["std"].tolist() == [[1.0, 11.0, 21.0, 31.0, 41.0]] * 2
    assert history.activations.recorded("dead").all() and not history.activations.recorded("saturated").any()
    assert history.gradients.values["update_ratio"][0].tolist() == [0.0011] * 5
    places, counts = history.gradients.histograms["network.first.weight"]
    assert places.tolist() == [0, 1, 2, 3, 4] and counts[0].nonzero()[0].tolist() == [45]
    assert set(history.series) == {"norm", "clipped", "steps_per_second", "data_loading", "memory"}
    assert history.series["norm"][1].tolist() == [2.3] * 5
    assert not history.unread


def test_nothing_recorded_is_no_error(write_run) -> None:
    history = read_history(write_run("bare").path)
    assert not history.metrics
    assert (history.activations, history.gradients, history.series, history.findings) == (None, None, {}, [])
    assert not history.has_monitors


def test_a_last_line_that_was_cut_off_is_left_out_without_a_word(write_run, monitors) -> None:
    history = read_history(write_run("cut", (), monitors(range(3)), rest='{"step": 3, "kind": "activ').path)
    assert history.activations.steps.tolist() == [0, 1, 2]
    assert not history.unread


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1, 2]",
        "7",
        "null",
        "[" * 100_000,
        '{"step": null, "kind": "throughput"}',
        '{"step": "3", "kind": "activations"}',
        '{"step": NaN, "kind": "throughput", "data_loading": 1}',
        '{"step": 1, "kind": ["activations"]}',
        '{"step": 1, "kind": "of tomorrow"}',
        '{"step": 1, "kind": "activations"}',
        '{"step": 1, "kind": "activations", "layers": [1]}',
        '{"step": 1, "kind": "activations", "layers": {"a": 3}}',
        '{"step": 1, "kind": "gradients", "parameters": null}',
        '{"step": 1, "kind": "throughput", "memory": null, "data_loading": "much", "steps_per_second": true}',
    ],
    ids=range(15),
)
def test_strange_lines_spoil_nothing(write_run, monitors, line: str) -> None:
    folder = write_run("strange", (), monitors(range(5, 8)))
    file = folder.path / "monitors.jsonl"
    file.write_text(line + "\n" + file.read_text())
    history = read_history(folder.path)
    assert history.activations.names == ["network.first", "network.second"]
    assert np.isfinite(history.activations.values["std"]).sum() == 6
    assert history.series["data_loading"][0].tolist() == [5, 6, 7]


def test_histograms_that_are_none_are_left_out(write_run, histogram) -> None:
    wrong = [None, 3, [1, 2], [-1] + [0] * 64, ["x"] * 65, [[1]] * 65, [math.inf] * 65]
    layers = {f"wrong{place}": {"histogram": value} for place, value in enumerate(wrong)}
    record = {"step": 1, "kind": "activations", "layers": {**layers, "right": {"histogram": histogram(b32=3)}}}
    table = read_history(write_run("histograms", (), [record]).path).activations
    assert list(table.histograms) == ["right"] and len(table.names) == 8


def test_of_a_step_that_was_recorded_twice_the_later_record_counts(write_run, monitors) -> None:
    records = monitors(range(0, 30, 10))
    again = json.loads(json.dumps(monitors(range(10, 40, 10))))
    for record in again:
        for layer in record.get("layers", {}).values():
            layer["std"] = 0.5
    history = read_history(write_run("resumed", (), [*records, *again]).path)
    assert history.activations.steps.tolist() == [0, 10, 20, 30]
    assert history.activations.values["std"][0].tolist() == [1.0, 0.5, 0.5, 0.5]
    assert history.series["norm"][0].tolist() == [0, 10, 20, 30]


def test_layers_that_come_later_have_no_values_before(write_run, monitors) -> None:
    records = [*monitors(range(2), ("network.first",)), *monitors(range(2, 4), ("network.first", "network.thawed"))]
    values = read_history(write_run("thawed", (), records).path).activations.values["std"]
    assert np.isnan(values[1]).tolist() == [True, True, False, False]


def test_findings_are_summed_up_and_the_worst_comes_first(write_run, finding) -> None:
    records = [
        finding(10),
        finding(5, severity="note", name="new"),
        finding(30, evidence="70%"),
        finding(20, severity="error", name="exploding", where=""),
        finding(10, where="network.second"),
    ]
    findings = read_history(write_run("found", (), records).path).findings
    assert [(f.fields["name"], f.fields["where"], f.first, f.last, f.times) for f in findings] == [
        ("exploding", "", 20, 20, 1),
        ("dead-units", "network.first", 10, 30, 2),
        ("dead-units", "network.second", 10, 10, 1),
        ("new", "network.first", 5, 5, 1),
    ]
    assert findings[1].fields["evidence"] == "70%"


# ------------------------------------------------------------------ thinning


@pytest.mark.parametrize("n", [1, 2, 299, 300, 301, 302, 5000, 100_000])
def test_a_thinned_line_keeps_its_ends_and_extremes(n: int) -> None:
    x, y = np.arange(n) * 50, np.random.default_rng(n).standard_cauchy(n)
    thin_x, thin_y = thin(x, y, 300)
    assert len(thin_x) <= 300 and (np.diff(thin_x) > 0).all()
    assert {x[0], x[-1], x[y.argmin()], x[y.argmax()]} <= set(thin_x.tolist())
    assert (y[thin_x // 50] == thin_y).all()
    assert n > 300 or len(thin_x) == n


def test_a_peak_of_one_step_survives_everywhere() -> None:
    for place in range(0, 10_000, 97):
        y = np.zeros(10_000)
        y[place] = 9.0
        assert thin(np.arange(10_000), y, 300)[1].max() == 9.0


def test_what_is_no_number_stays_a_gap_in_a_thinned_line() -> None:
    y = np.ones(3000)
    y[1000:2000] = np.nan
    x, thinned = thin(np.arange(3000), y, 300)
    assert np.isnan(thinned[(x > 1020) & (x < 1980)]).all() and len(x) <= 300
    assert len(thin(np.arange(3000), np.full(3000, np.nan), 300)[0]) <= 300


def test_evenly_spaced_records_have_a_column_each() -> None:
    where = columns(np.arange(0, 5000, 50), 300)
    assert where.count == 100 and where.of.tolist() == list(range(100))
    assert (where.start, where.end) == (0, 5000)
    assert columns(np.array([7]), 300).count == 1


def test_many_records_share_columns_evenly() -> None:
    where = columns(np.arange(0, 100_000, 50), 300)
    assert where.count == 300 and where.of[0] == 0 and where.of[-1] == 299
    assert set(np.bincount(where.of)) == {6, 7}


def test_a_heat_map_keeps_what_stands_out() -> None:
    steps, values = np.arange(2000), np.ones((2, 2000))
    values[0, 777], values[1, 1234] = 50.0, 0.001
    cells = heat(values, columns(steps, 100))
    assert cells.shape == (2, 100)
    assert cells[0].max() == 50.0 and cells[1].min() == 0.001
    assert (cells == 1).sum() == 198


def test_a_column_without_a_record_shows_the_one_before() -> None:
    steps = np.array([0, 1, 2, 3, 4, 5, 6, 10, 11])
    values = np.array([[0.0, 1, 2, 3, 4, 5, math.nan, 10, 11]])
    cells = heat(values, columns(steps, 300))[0]
    assert cells.tolist()[:6] == [0, 1, 2, 3, 4, 5] and cells.tolist()[10:] == [10, 11]
    assert np.isnan(cells[6:10]).all()  # recorded, but no number


def test_histograms_that_share_a_column_are_added_up() -> None:
    counts = np.random.default_rng(0).integers(0, 100, (1000, 65)).astype(np.float32)
    where = columns(np.arange(1000), 10)
    shares = magnitudes(np.arange(1000), counts, where)
    expected = counts.reshape(10, 100, 65).sum(1)
    np.testing.assert_allclose(shares, (expected / expected.sum(1, keepdims=True)).T, rtol=1e-6)
    assert shares.shape == (65, 10)


def test_a_layer_that_was_recorded_later_has_nothing_in_front() -> None:
    shares = magnitudes(np.array([5]), np.ones((1, 65), np.float32), columns(np.arange(10), 300))
    assert shares[:, :5].sum() == 0 and np.allclose(shares[:, 5:].sum(0), 1)


@pytest.mark.slow
def test_hundreds_of_thousands_of_records_take_seconds_and_little_memory(write_run) -> None:
    names = ("train/loss", "train/accuracy", "train/lr", "train/samples_per_second")
    records = ({"step": 50 * n, "epoch": n // 2000, "time": 2.0 * n, **dict.fromkeys(names, 0.123456)} for n in range(200_000))
    folder = write_run("long", records)
    tracemalloc.start()
    started = time.process_time()
    metrics = read_history(folder.path).metrics
    plots = [curve(metrics, name, "long") for name in names]
    elapsed, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(metrics.times) == 200_000 and all(len(epochs) == 200_000 for epochs, _ in plots)
    assert peak < 300e6 and elapsed < 30, (peak, elapsed)  # the watch over the memory alone takes most of the time
