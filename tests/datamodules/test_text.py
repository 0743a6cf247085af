"""Text as streams: rows go on from batch to batch, held-out text is read once, and what cannot be read is one line."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest
import torch

from zoo.core.errors import UserError
from zoo.datamodules.loading.text_chunks import HeldOutTextLoader, StreamLoader, WindowLoader, describe_fitting
from zoo.datamodules.text import PythonReference, Shakespeare, TextFiles
from zoo.spec import IGNORE, TextSpec


def own(folder: Path, text: str, batch_size: int = 3, seed: int = 0, **options) -> TextFiles:
    path = folder / "own.txt"
    path.write_text(text, encoding="utf-8")
    data = TextFiles(batch_size, seed, str(path), **options)
    data.prepare_data()
    data.setup()
    return data


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TEXT = "".join(random.Random(0).choices(ALPHABET, k=2000))


def test_splits_lie_behind_each_other_and_characters_keep_their_places(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=8)
    assert data.spec.vocabulary == tuple(sorted(set(TEXT)))
    parts = {name: data.spec.decode(places.tolist()) for name, places in data.splits.items()}
    assert parts["train"] + parts["val"] + parts["test"] == TEXT
    assert (len(parts["val"]), len(parts["test"])) == (100, 100)


def test_each_row_goes_on_where_it_stopped_and_only_the_first_batch_is_fresh(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=16)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) > 5
    text = data.spec.decode(data.splits["train"].tolist())
    assert [bool(batch["fresh"].all()) for batch in batches] == [True] + [False] * (len(batches) - 1)
    for row in range(3):
        tokens = data.spec.decode(torch.cat([batch["tokens"][row] for batch in batches]).tolist())
        targets = data.spec.decode(torch.cat([batch["targets"][row] for batch in batches]).tolist())
        assert tokens in text and tokens[1:] == targets[:-1]
    starts = [text.index(data.spec.decode(batches[0]["tokens"][row].tolist())) for row in range(3)]
    assert starts == sorted(starts)


def test_an_epoch_starts_elsewhere_and_any_batch_can_be_made_alone(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=16)
    loader = data.train_dataloader()
    first = list(loader)
    loader.position = lambda: (1, 0)
    second = list(loader)
    assert not torch.equal(first[0]["tokens"], second[0]["tokens"])
    loader.position = lambda: (1, 4)
    for resumed, whole in zip(loader, second[4:], strict=True):
        assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_processes_share_the_rows_of_one_batch(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=16)
    alone = data.train_dataloader()
    alone.rows, alone.length = 6, alone.length // 2
    together = [StreamLoader(data.splits["train"], 3, 16, 0, rank=rank, world=2) for rank in range(2)]
    for one, *others in zip(alone, *together, strict=False):
        assert torch.equal(one["tokens"], torch.cat([other["tokens"] for other in others]))


def test_windows_are_from_anywhere_and_differ_between_steps_epochs_and_processes(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=16, order="windows")
    loader = data.train_dataloader()
    assert isinstance(loader, WindowLoader)
    seen = [batch["tokens"] for batch in loader]
    seen += [batch["tokens"] for batch in WindowLoader(data.splits["train"], 3, 16, 0, rank=1, world=2)]
    loader.position = lambda: (1, 0)
    seen += [batch["tokens"] for batch in loader]
    assert len(torch.unique(torch.cat(seen), dim=0)) > 0.9 * sum(map(len, seen))
    text = data.spec.decode(data.splits["train"].tolist())
    assert all(data.spec.decode(row.tolist()) in text for row in torch.cat(seen))


def test_chunk_zero_takes_whole_rows(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=0)
    (batch,) = data.train_dataloader()
    assert batch["tokens"].shape == (3, (1800 - 1) // 3)


@pytest.mark.parametrize("length", [3, 50, 700, 20_000])
@pytest.mark.parametrize("chunk", [1, 32, 0])
@pytest.mark.parametrize("world", [1, 2, 3, 40])
def test_every_held_out_character_is_a_target_once(length: int, chunk: int, world: int) -> None:
    if chunk == 1 and length > 1000:
        pytest.skip("many small batches prove no more")
    text = torch.arange(length, dtype=torch.int32)  # every character is its own place
    counted = []
    batches = [list(HeldOutTextLoader(text, chunk, rank=rank, world=world)) for rank in range(world)]
    assert len({len(own) for own in batches}) == 1
    for batch in (batch for own in batches for batch in own):
        targets = batch["targets"]
        is_counted = targets != IGNORE
        counted.append(targets[is_counted])
        assert torch.equal(batch["tokens"][is_counted] + 1, targets[is_counted])
    assert torch.cat(counted).sort().values.tolist() == list(range(1, length))


def test_text_for_another_model_gets_its_places(tmp_path: Path) -> None:
    data = own(tmp_path, TEXT, seq_len=8)
    spec = TextSpec(("z", *ALPHABET[:-1], "!"))
    data.require_compatible(spec, "own")
    assert spec.decode(data.splits["train"].tolist()) == TEXT[:1800]
    with pytest.raises(UserError, match="unknown characters: 'B'"):
        own(tmp_path, TEXT + "B", seq_len=8).require_compatible(TextSpec(tuple(sorted(set(TEXT)))), "own")


def test_the_python_reference_is_real_text_that_needs_nothing() -> None:
    data = PythonReference(4, 0)
    data.setup()
    assert len(data.splits["train"]) > 300_000
    assert "for_stmt" in data.load_text() and len(data.spec.vocabulary) > 80


def test_shakespeares_characters_are_known_before_he_is_fetched(tmp_path: Path) -> None:
    spec = Shakespeare(4, 0).spec
    assert len(spec.vocabulary) == 65 and spec.encode("To be, or not!")
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question.\n" * 300)
    data = Shakespeare(2, 0, root=str(tmp_path), seq_len=16)
    data.prepare_data()
    data.setup()
    assert data.spec == spec


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two " * 100)
    (tmp_path / "a.txt").write_text("one " * 100)
    assert TextFiles(1, 0, str(tmp_path)).load_text() == "one " * 100 + "\n" + "two " * 100


def test_what_is_left_out_of_a_folder_is_one_warning_with_counts(capfd, tmp_path: Path) -> None:
    (tmp_path / "z.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / ".hidden").write_text("hidden")
    with pytest.raises(UserError, match="data.root=.*none of its files is UTF-8 text"):
        TextFiles(1, 0, str(tmp_path)).load_text()
    (tmp_path / "picture.bin").write_bytes(bytes(range(256)))
    for name in (".git/HEAD", "b/.ipynb_checkpoints/c.txt", "__MACOSX/b/c.txt", "a.txt", "c.txt", "b/2.txt", "empty"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text({"a.txt": "two\nlines", "c.txt": "three", "empty": ""}.get(name, "two\nlines"))
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbftwo\r\nlines")
    os.mkfifo(tmp_path / "pipe")
    assert TextFiles(1, 0, str(tmp_path)).load_text() == "two\nlines\nthree"
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: data.root=") and "2 files are read" in warning
    assert "4 hidden (.git, .hidden, __MACOSX and 1 more)" in warning
    assert "2 copies of others (b/2.txt, d.txt)" in warning and "2 not UTF-8 text (picture.bin, z.txt)" in warning


def test_what_cannot_be_read_is_one_line(zoo, tmp_path: Path) -> None:
    def refused(content: bytes, *words: str, settings: tuple[str, ...] = ()) -> bool:
        path = tmp_path / "bad.txt"
        path.write_bytes(content)
        answer = zoo("train", "char-rnn", "--data", "text", "--set", f"data.root={path}", *settings)
        return answer.is_one_line_error(*words) and not Path("runs").exists()

    assert refused(b"", "bad.txt", "empty")
    assert refused("Grüße".encode("latin-1") * 1000, "not UTF-8", "byte 2")
    assert refused(b"too short", "9 characters")
    assert refused(b"short " * 200, "data.seq_len=128", "at most recipe.batch_size=7 or data.seq_len=16 fits")
    missing = zoo("train", "char-rnn", "--data", "text", "--set", f"data.root={tmp_path / 'nowhere'}")
    assert missing.is_one_line_error("nowhere", "no such file")
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device")):
        answer = zoo("train", "char-rnn", "--data", "text", "--set", f"data.root={path}")
        assert answer.is_one_line_error(f"data.root={path}: is {kind}, not a regular file")
    assert zoo("train", "char-rnn", "--data", "text").is_one_line_error("data.root must be given")
    assert zoo("train", "char-rnn", "--set", "data.seq_len=-1").is_one_line_error("data.seq_len=-1")
    assert zoo("train", "char-rnn", "--data", "digits").is_one_line_error("language-modeling", "pydoc")
    assert zoo("train", "resnet20", "--data", "pydoc").is_one_line_error("classification", "digits")


def test_a_short_text_can_be_shown_and_tested_though_not_trained_on(zoo, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"for x in y: pass\r\n" * 12)  # as some editors write it
    assert TextFiles(1, 0, str(path)).load_text() == "for x in y: pass\n" * 12
    assert zoo("data", "show", "text", "--measure", "--set", f"data.root={path}").code == 0
    assert "for x in y" in zoo("data", "preview", "text", "--set", f"data.root={path}").out
    quick = (
        "--epochs",
        "1",
        "--set",
        "trainer.limit_train_batches=2",
        "--set",
        "model.hidden_size=8",
        "--set",
        "data.seq_len=32",
    )
    assert zoo("train", "char-rnn", "--name", "reader", *quick).code == 0
    other = ("test", "reader", "--data", "text", "--set", f"data.root={path}")
    assert zoo(*other).out.rstrip().endswith("test/characters 9"), "5% of 204, of which the first is no target"
    whole = zoo(*other, "--set", "data.held_out=1", "--json")
    assert json.loads(whole.out)["test/characters"] == 203
    train = ("train", "char-rnn", "--data", "text", "--set", f"data.root={path}", "--set")
    assert zoo(*train, "data.held_out=1").is_one_line_error("data.held_out=1", "zoo test")
    assert zoo(*train, "data.held_out=0.5").is_one_line_error("data.held_out=0.5", "0.4")


@pytest.mark.parametrize(("order", "world"), [("stream", 1), ("stream", 3), ("windows", 1), ("windows", 3)])
@pytest.mark.parametrize("chunk", [1, 16, 0])
def test_the_most_rows_and_the_longest_chunk_that_are_named_are_just_what_fits(order: str, world: int, chunk: int) -> None:
    if order == "windows" and not chunk:
        return
    text, kind = torch.zeros(200, dtype=torch.uint8), {"stream": StreamLoader, "windows": WindowLoader}[order]

    def batches(rows: int, chunk: int) -> int:
        return len(kind(text, rows, chunk, 0, world=world))

    rows = 300
    said = describe_fitting(199, chunk, rows, world, spare=order == "stream" and chunk > 0)
    most = int(re.search(r"batch_size=(\d+)", said)[1])
    assert batches(most, chunk) and not batches(most + 1, chunk)
    rows = 7
    said = describe_fitting(199, 100, rows, world, spare=order == "stream")
    longest = int(re.search(r"seq_len=(\d+)", said)[1])
    assert batches(rows, longest) and not batches(rows, longest + 1)


def test_a_root_that_is_not_there_is_told_even_if_nothing_is_read(zoo, tmp_path: Path) -> None:
    for command in (("show",), ("show", "--measure"), ("preview",)):
        answer = zoo("data", *command, "text", "--set", f"data.root={tmp_path / 'nowhere'}")
        assert answer.is_one_line_error("nowhere", "no such file or folder"), command
    assert zoo("data", "show", "text", "--set", f"data.root={tmp_path}").code == 0
    assert zoo("data", "show", "shakespeare", "--set", "data.root=nowhere").code == 0, "where it would be put"
    assert zoo("data", "show", "text", "--set", "data.seq_length=3").is_one_line_error("seq_length", "seq_len")


def test_a_text_that_comes_or_goes_moves_nothing_of_the_others(tmp_path: Path) -> None:
    texts = {name: name * length for name, length in zip("bdfh", (40, 100, 61, 200), strict=True)}

    def held(names: str) -> dict[str, str]:
        folder = tmp_path / names
        folder.mkdir()
        for name in names:
            (folder / f"{name}.txt").write_text(texts[name])
        data = TextFiles(1, 0, str(folder), held_out=0.1)
        data.setup()
        return {name: data.spec.decode(split.tolist()) for name, split in data.splits.items()}

    for names in ("bdfh", "bfh", "dh", "h"):
        counts = {split: [text.count(name) for name in names] for split, text in held(names).items()}
        tenth = [round(len(texts[name]) / 10) for name in names]
        assert counts["val"] == counts["test"] == tenth
        assert counts["train"] == [len(texts[name]) - 2 * part for name, part in zip(names, tenth, strict=True)]
