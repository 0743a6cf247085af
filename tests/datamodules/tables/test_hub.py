"""Data sets that the library ``datasets`` writes and reads: forms, columns, names of embedded images, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from image_folders import all_pixels, make, picture, save, sizes
from ways import rows_of_folder, write_embedded, write_parquet

from zoo.core.errors import UserError
from zoo.datamodules.hf import HubImages


def ready(path: Path | str, **options) -> HubImages:
    data = HubImages(4, 0, str(path), **options)
    data.prepare_data()
    data.setup()
    return data


def set_of(root: Path, names: tuple[str, ...] = ("dog", "cat"), label: str = "label") -> Dataset:
    """Images of a folder as the library holds them, with declared classes."""
    rows = rows_of_folder(root)
    columns = {"img": [str(root / row["file_name"]) for row in rows], label: [row["label"] for row in rows]}
    return Dataset.from_dict(columns, features=Features({"img": Image(), label: ClassLabel(names=list(names))}))


def test_what_save_to_disk_writes_with_the_classes_that_it_declares(root, tmp_path):
    everything = set_of(make(root, 10))
    parts = DatasetDict(train=everything, validation=everything.select(range(5)), test=everything.select(range(15, 20)))
    parts.save_to_disk(tmp_path / "saved")
    data = ready(tmp_path / "saved")
    assert data.spec.classes == ("dog", "cat") and sizes(data) == {"train": 20, "val": 5, "test": 5}
    assert data.splits["test"].labels.tolist() == [0] * 5 and data.splits["val"].labels.tolist() == [1] * 5
    expected = np.asarray(everything[0]["img"]).transpose(2, 0, 1)
    assert np.array_equal(all_pixels(data, "val")[0].numpy(), expected)
    single = ready(tmp_path / "saved" / "train", validation=0.3, test=0.3)
    assert sum(sizes(single).values()) == 20


def test_columns_are_found_by_name_or_type_or_named(root, tmp_path):
    make(root, 10)
    whole = set_of(root, label="breed").add_column("fine", [f"kind{index % 2}" for index in range(20)])
    whole.save_to_disk(tmp_path / "saved")
    assert ready(tmp_path / "saved", test=0.3, validation=0.3).spec.classes == ("dog", "cat")
    named = ready(tmp_path / "saved", label_column="fine", image_column="img", test=0.3, validation=0.3)
    assert named.spec.classes == ("kind0", "kind1")
    for options, words in (
        ({"label_column": "bred"}, "data.label_column=bred: .* no such column; did you mean 'breed'"),
        ({"image_column": "breed"}, "column 'breed' holds int values, not images: choose another by data.image_column"),
        ({"image_column": "images"}, "data.image_column=images: .*no such column"),
    ):
        with pytest.raises(UserError, match=words):
            _ = HubImages(4, 0, str(tmp_path / "saved"), **options).tree


def test_recorded_paths_decide_about_splits_and_bare_names_stand_in_folders(root, tmp_path):
    make(root / "train", 6)
    make(root / "test", 2)
    for with_folders in (True, False):
        data = ready(write_embedded(tmp_path / str(with_folders), root, with_folders), validation=0.3)
        found = {name for split in data.splits.values() for name in data.names(split.files)}
        assert found == {path.relative_to(root).as_posix() for path in root.rglob("*.png")}


def test_images_without_names_and_with_equal_ones_are_all_kept(root, tmp_path):
    contents = [save(root / f"{index}.png", picture(seed=index)).read_bytes() for index in range(4)]
    names = [None, None, "x/same.png", "x/same.png", "../../../../up.png", "/a/b/abs.png", "C:\\d\\win.png", "n" * 300 + ".png"]
    rows = [{"image": {"bytes": contents[index % 4], "path": name}, "label": "ab"[index % 2]} for index, name in enumerate(names)]
    data = ready(write_parquet(tmp_path / "set" / "all.parquet", rows).parent, validation=0, test=0.5)
    files = [Path(path) for split in (data.splits["train"], data.splits["test"]) for path in split.files]
    assert len(set(files)) == len(names) and all(file.resolve().is_relative_to(data.root.resolve()) for file in files)
    assert sorted(file.read_bytes() for file in files) == sorted([*contents, *contents])
    assert not (tmp_path / "up.png").exists()
    under = {path.relative_to(data.root).as_posix() for path in files}
    assert {"a/up.png", "b/abs.png", "a/win.png", "x/same.png"} <= under


def test_embedded_images_are_written_once_and_anew_when_the_data_changes(root, tmp_path, monkeypatch):
    make(root, 10)
    folder = write_embedded(tmp_path / "set", root)
    options = {"test": 0.3, "validation": 0.3}
    first = ready(folder, **options)
    states = {path: Path(path).stat() for path in first.tree.paths()}
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("read again"))
        assert list(ready(folder, **options).splits["train"].files) == list(first.splits["train"].files)
    save(root / "cat" / "00.png", picture(seed=900))
    save(root / "cat" / "new.png", picture(seed=901))
    (root / "dog" / "00.png").unlink()
    second = ready(write_embedded(folder, root), **options)
    names = {Path(path).relative_to(second.root).as_posix() for path in second.tree.paths()}
    assert names == {path.relative_to(root).as_posix() for path in root.rglob("*.png")}
    same = [path for path in states if path in set(second.tree.paths()) and not path.endswith("cat/00.png")]
    assert len(same) == 18 and all(Path(path).stat().st_ino == states[path].st_ino for path in same), "what is equal stays"
    assert (second.root / "cat/00.png").read_bytes() == (root / "cat/00.png").read_bytes()


def test_rows_without_a_label_are_left_out_and_other_splits_named(root, tmp_path):
    make(root, 10)
    whole = set_of(root)
    hidden = whole.map(lambda row: {"label": -1}, remove_columns=["label"]).cast(whole.features)
    DatasetDict(train=whole, test=hidden, unsupervised=whole).save_to_disk(tmp_path / "saved")
    data = ready(tmp_path / "saved", test=0.3, validation=0.3)
    assert data.notes[:2] == [
        "20 rows without label left out: rows 21, 22, 23 and 17 more",
        "rows of other splits than train, val and test are not used: unsupervised (20)",
    ]
    assert sum(sizes(data).values()) == 20


def test_what_the_library_leaves_out_of_a_folder_of_images_is_said(root):
    make(root / "Training_Set", 10)
    make(root / "Testing", 10)
    (root / "Testing" / "cat" / "00.png").rename(root / "Testing" / "cat" / "without ending")
    instead = f"{root}/ as the data, in place of hf, reads all"
    assert ready(root, validation=0.3, test=0.3).notes[:2] == [
        f"1 of the images are not read by the library datasets (Testing/cat/without ending): {instead}",
        f"the folders Testing, Training_Set are not read as splits by the library datasets: {instead}",
    ]


def test_a_single_file_and_binary_columns(root, tmp_path):
    make(root, 10)
    rows = [{"image": (root / row["file_name"]).read_bytes(), "label": row["label"]} for row in rows_of_folder(root)]
    path = write_parquet(tmp_path / "all.parquet", rows)
    assert sum(sizes(ready(path, test=0.3, validation=0.3)).values()) == 20


def test_a_data_set_of_the_hub_is_asked_for_by_name_and_linked_files_keep_their_own_paths(root, tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "datasets--user--pets" / "snapshots" / "abc"
    make(cached / "train", 10)
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return DatasetDict(train=set_of(cached))

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = ready("user/pets", config="small", revision="v1", test=0.3, validation=0.3)
    assert asked == [(("user/pets", "small"), {"revision": "v1"})]
    names = {name for split in data.splits.values() for name in data.names(split.files)}
    assert names == {path.relative_to(cached).as_posix() for path in cached.rglob("*.png")}
    ready("user/pets", config="small", revision="v1")
    assert len(asked) == 1, "what was fetched stays"


@pytest.mark.parametrize("answers", [True, False])
def test_a_hub_that_does_not_answer_is_not_asked_again_but_its_cache(root, monkeypatch, answers):
    make(root, 5)

    def load(*_, **__):
        assert datasets.config.HF_HUB_OFFLINE is not answers
        return DatasetDict(train=set_of(root))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("zoo.datamodules.files.hub_rows._hub_answers", lambda: answers)
    assert sum(sizes(ready("user/kept", test=0.3, validation=0.3)).values()) == 10
    assert datasets.config.HF_HUB_OFFLINE is False


def test_what_cannot_be_read_is_refused_in_one_line(zoo, root, tmp_path, workplace, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    (workplace / "script").mkdir()
    (workplace / "script" / "script.py").write_text("raise SystemExit('run')")
    (workplace / "empty").mkdir()
    write_parquet(workplace / "floats" / "a.parquet", [{"image": b"x", "label": 0.5}])
    write_parquet(workplace / "other" / "a.parquet", [{"text": "x", "label": 1}])
    make(workplace / "pets", 3)
    for path, words in (
        ("script", ["data.path=script", "script"]),
        ("empty", ["data.path=empty"]),
        ("floats", ["column 'label' holds numbers like 0.5", "classes are needed"]),
        ("other", ["no column is named as an image is: it has text, label"]),
        ("pet", ["data.path=pet: is no file or folder here, and the hub does not give it: ", "; did you mean 'pets'?"]),
        ("./pet", ["data.path=./pet: there is no such file or folder; did you mean 'pets'?"]),
        ("user/absent", ["data.path=user/absent: is no file or folder here", "hub does not give it: it cannot be reached"]),
    ):
        answer = zoo("train", "softmax", "--data", "hf", "--set", f"data.path={path}")
        assert answer.is_one_line_error(*words), (path, answer)
    assert not (workplace / "runs").exists()


@pytest.mark.slow
def test_without_the_library_the_command_to_install_it_is_given(root):
    make(root, 2)
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['pyarrow'] = None\n"
        "from zoo.core.errors import UserError\n"
        "from zoo.datamodules.hf import HubImages\n"
        "from zoo.datamodules.table import Table\n"
        f"open({str(root / 'a.parquet')!r}, 'w').close()\n"
        f"for data in (HubImages(4, 0, {str(root)!r}), Table(4, 0, {str(root / 'a.parquet')!r})):\n"
        "    try:\n        data.tree\n    except UserError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "the data set hf needs the library datasets: pip install 'bestiary[hf]'"
    assert second.endswith("reading parquet needs pyarrow: pip install 'bestiary[hf]'")


def test_values_of_other_types(tmp_path):
    rows = {"image": [["a"], ["b"]], "label": [0, 1]}
    Dataset.from_dict(rows, features=Features({"image": [Value("string")], "label": Value("int64")})).save_to_disk(tmp_path / "x")
    with pytest.raises(UserError, match="column 'image' holds list values, not images"):
        _ = HubImages(4, 0, str(tmp_path / "x")).tree
