"""CLEVR, VQA v2 and easy-VQA as they were published, each in tiny: what is read, and what is said of faults."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from zoo.core.errors import UserError
from zoo.datamodules.clevr import CLEVR
from zoo.datamodules.easy_vqa import EasyVQA
from zoo.datamodules.vqa import VQA, normalize_answer
from zoo.spec import IGNORE, UNKNOWN_ANSWER
from zoo.tasks.question_answering import accuracies
from zoo.training.data_record import DataRecord


def picture(path: Path, shade: int, size: tuple[int, int] = (48, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 0, 255 - shade)).save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def opened(data):
    data.prepare_data()
    data.setup()
    return data


def asked(data, split: str) -> list[list[tuple[str, Any]]]:
    """The questions of each sample with the numbers of their answers."""
    part = data.splits[split]
    return [
        [(" ".join(data.spec.decode(words)), answer) for words, answer in zip(*row, strict=True) if answer != IGNORE]
        for row in zip(part.columns["questions"].tolist(), part.labels.tolist(), strict=True)
    ]


# ---------------------------------------------------------------------------------------------- CLEVR


def clevr_question(split: str, image: int, question: str, answer: str, function: str) -> dict[str, Any]:
    """With all the fields of the published files."""
    return {
        "image_index": image, "program": [{"inputs": [], "function": "scene", "value_inputs": []},
                                          {"inputs": [0], "function": function, "value_inputs": []}],
        "question_index": 0, "image_filename": f"CLEVR_{split}_{image:06d}.png", "question_family_index": 2, "split": split,
        "answer": answer, "question": question,
    }  # fmt: skip


@pytest.fixture
def clevr(workplace: Path) -> Path:
    root = workplace / "CLEVR_v1.0"
    for split, count in (("train", 4), ("val", 2)):
        questions = [
            clevr_question(split, image, "How many small spheres are there?", str(image), "count") for image in range(count)
        ] + [clevr_question(split, 0, "Is there a big brown thing; what about a cube?", "yes", "exist")]
        write_json(root / "questions" / f"CLEVR_{split}_questions.json", {"info": {"split": split}, "questions": questions})
        for image in range(count):
            picture(root / "images" / split / f"CLEVR_{split}_{image:06d}.png", 40 * image)
    return root


def test_clevr_is_read_as_published(clevr: Path) -> None:
    data = opened(CLEVR(2, 0, str(clevr), size=16))
    assert data.spec.image.shape == (3, 16, 24), "nothing of the picture is cut off"
    assert data.spec.answers == ("0", "1", "2", "3", "yes")
    rows = asked(data, "train")
    assert rows[0] == [("how many small spheres are there", 0), ("is there a big brown thing what about a cube", 4)]
    assert [row[0][1] for row in rows] == [0, 1, 2, 3]
    kinds = [data.spec.kinds[kind] for kind in data.splits["train"].columns["kinds"][0].tolist()]
    assert kinds == ["count", "exist"]
    assert data.splits["train"].images.pixels[:, 0, 5, 5].tolist() == [0, 40, 80, 120]
    assert data.splits["test"] is data.splits["val"] and len(data.splits["val"]) == 2


def test_a_name_in_another_form_of_unicode_is_the_same_one(clevr: Path) -> None:
    path = clevr / "questions" / "CLEVR_train_questions.json"
    path.write_text(path.read_text().replace("CLEVR_train_000002.png", unicodedata.normalize("NFC", "sphère.png")))
    (clevr / "images/train/CLEVR_train_000002.png").rename(clevr / "images/train" / unicodedata.normalize("NFD", "sphère.png"))
    assert opened(CLEVR(2, 0, str(clevr), size=16)).splits["train"].images.pixels[:, 0, 5, 5].tolist() == [0, 40, 80, 120]


def test_a_picture_with_more_questions_comes_several_times(clevr: Path) -> None:
    data = opened(CLEVR(2, 0, str(clevr), size=16, questions_per_sample=1))
    assert [row[0][1] for row in asked(data, "train")] == [0, 4, 1, 2, 3]
    assert data.splits["train"].images.pixels[:, 0, 5, 5].tolist() == [0, 0, 40, 80, 120]


# ---------------------------------------------------------------------------------------------- VQA

SAID = {  # question -> what ten people said in training, of each picture
    "What color is the dog?": ["brown"] * 7 + ["Brown.", "tan", "a dog"],
    "Is it raining?": ["no"] * 9 + ["yes"],
    "How many?": ["two"] * 6 + ["2"] * 3 + ["three"],
}


def annotation(number: int, image: int, answers: list[str], kind: str) -> dict[str, Any]:
    said = [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i, answer in enumerate(answers, 1)]
    return {
        "question_type": "what", "multiple_choice_answer": answers[0], "answers": said, "image_id": image, "answer_type": kind,
        "question_id": number,
    }  # fmt: skip


@pytest.fixture
def vqa(workplace: Path) -> Path:
    root = workplace / "vqa"
    for split, images in (("train2014", (9, 25)), ("val2014", (42,))):
        questions, annotations = [], []
        for image in images:
            for place, (question, said) in enumerate(SAID.items()):
                number = image * 1000 + place
                questions.append({"image_id": image, "question": question, "question_id": number})
                annotations.append(annotation(number, image, said, ("other", "yes/no", "number")[place]))
            picture(root / split / f"COCO_{split}_{image:012d}.jpg", image)
        about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": split}
        write_json(
            root / f"v2_OpenEnded_mscoco_{split}_questions.json",
            {**about, "task_type": "Open-Ended", "questions": questions},
        )
        write_json(root / f"v2_mscoco_{split}_annotations.json", {**about, "annotations": annotations})
    return root


def test_vqa_is_read_as_published(vqa: Path) -> None:
    data = opened(VQA(2, 0, str(vqa), size=16, min_count=1, min_answer_count=2))
    assert data.spec.answers == ("2", "brown", "no")
    labels = data.splits["train"].labels
    assert labels.shape == (2, 3, 10)
    assert labels[0, 0].tolist() == [1] * 8 + [UNKNOWN_ANSWER] * 2, "written in another way it is the same answer"
    assert labels[1, 1].tolist() == [2] * 9 + [UNKNOWN_ANSWER]
    assert labels[0, 2].tolist() == [0] * 9 + [UNKNOWN_ANSWER]
    assert data.spec.kinds == ("yes-no", "number", "other")
    assert data.splits["train"].columns["kinds"].tolist() == [[2, 0, 1]] * 2
    assert data.summarize()["val_questions"] == 3 and data.summarize()["val_outside"] == 0
    assert data.preview_texts(torch.arange(1))[0][0] == "what color is the dog? brown"


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The dog.", "dog"), ("none", "0"), ("Ten", "10"), ("1,000 cars", "1000 cars"), ("dont know", "don't know"),
        ("red-white", "red white"), ("red, white", "red white"), ("2:50 pm", "2:50 pm"), ("3.5", "3.5"), ("St. Mary", "st mary"),
        ("an\tapple\n", "apple"), ("girl's", "girl's"), ("couldn'tve", "couldn't've"), ("yes!", "yes"), ("a", ""),
        ("and/or", "and or"), ("somebody'd", "somebodyd"),
    ],
)  # fmt: skip
def test_answers_are_made_alike_as_the_official_evaluation_does(written: str, compared: str) -> None:
    assert normalize_answer(written) == compared


PREDICTED = ("yes", "no", "2", "brown", "A", "don't know", "red white", "1000", "0", "dog", "3.5", "Hot Dog")
SPELLINGS = (
    ("yes", "Yes", "yes."), ("no", "No!", "no"), ("two", "2", "Two"), ("brown", "a brown", "Brown."), ("A", "the", "?"),
    ("dont know", "don't know", "Don't know"), ("red-white", "red, white", "red white"), ("1,000", "1000"), ("none", "0", "zero"),
    ("dog", "the dog", " dog\n"), ("3.5", "3.5."), ("Hot Dog", "hot dog", "the hot dog"), ("cat", "a\tcat"),
)  # fmt: skip
# VQA's own program on what made_up_questions returns: the accuracy of each in tenths, x is 10
OFFICIAL = (
    "x0x0900x09xx60009x000x0060x69x900000xx0x0x06x9603300633x3xx0x0x03x0x00930030309330xxxx00906xxx03x609"
    "0xxx0600066xxxxxx0x066x0x369xxx0600090009x0x960xx003xx600000xx6xxxxx00xx0x000x006000000x00x9xx000x66"
    "x0x609003x00xx00099xx0x00000xxx3006x0xx00009x06060xxx630xx900900xx060x6x3x000x306xx000x00x000090xx0x"
    "3x0603600xxxx00xx0900x0xx0x00690069x00x9990xx0xx9x00xx0000000xx3x00xx00x600036x0xxx00x00300x9030x000"
)


def made_up_questions(count: int = 400) -> list[tuple[list[str], str]]:
    """The answers of ten people and a predicted answer each; in some, all people write the same."""
    drawn = random.Random(5).random

    def choice(choices):
        return choices[int(drawn() * len(choices))]

    questions = []
    for _ in range(count):
        known = [choice(SPELLINGS) for _ in range(3)]
        said = [choice(known[min(int(drawn() * 4), 2)]) for _ in range(10)]
        if drawn() < 0.4:
            said = [choice(known[0])] * 10
        likely = [answer for spellings, answer in zip(SPELLINGS, PREDICTED, strict=False) if spellings in known]
        questions.append((said, choice(likely if likely and drawn() < 0.8 else PREDICTED)))
    return questions


def test_accuracy_is_that_of_the_official_evaluation(vqa: Path) -> None:
    made_up = made_up_questions()
    write_json(
        vqa / "v2_OpenEnded_mscoco_val2014_questions.json",
        {"questions": [{"image_id": "42", "question": "what?", "question_id": str(i)} for i in range(len(made_up))]},
    )
    write_json(
        vqa / "v2_mscoco_val2014_annotations.json",
        {"annotations": [annotation(i, 42, said, "other") for i, (said, _) in enumerate(made_up)]},
    )
    data = opened(VQA(2, 0, str(vqa), size=16, min_count=1, min_answer_count=1, questions_per_sample=400))
    data.require_compatible(replace(data.spec, answers=PREDICTED), "vqa")
    picked = torch.tensor([[PREDICTED.index(predicted) for _, predicted in made_up]])
    tenths = (10 * accuracies(picked, data.splits["test"].labels)).round().int()[0].tolist()
    assert "".join("x" if tenth == 10 else str(tenth) for tenth in tenths) == OFFICIAL


def test_an_answer_is_written_as_people_who_agree_write_it(vqa: Path) -> None:
    file = vqa / "v2_mscoco_train2014_annotations.json"
    said = (["A"] * 10, ["Hot Dog"] * 10, ["hot dog", "Hot dog."] * 5, ["the"] * 5 + ["a"] * 5, ["St. Mary"] * 9 + ["no"])
    content = json.loads(file.read_text())
    content["annotations"] = [annotation(entry["question_id"], entry["image_id"], answers, "other")
                              for entry, answers in zip(content["annotations"], (*said, said[0]), strict=True)]  # fmt: skip
    write_json(file, content)
    data = opened(VQA(2, 0, str(vqa), size=16, min_count=1, min_answer_count=1))
    assert data.spec.answers == ("A", "Hot Dog", "st mary"), "no answer is empty"
    assert [row[0].item() for row in data.splits["train"].labels.flatten(0, 1)] == [0, 1, 1, 0, 2, 0]


# ---------------------------------------------------------------------------------------------- easy-VQA


@pytest.fixture
def easy(workplace: Path) -> Path:
    root = workplace / "easy"
    root.mkdir()
    (root / "answers.txt").write_text("circle\nyes\nno\n\nteal")
    for split, count in (("train", 10), ("test", 3)):
        questions = []
        for image in range(count):
            questions += [["what is the teal shape?", "circle", image], ["is there a circle?", "yes", image]]
            picture(root / split / "images" / f"{image}.png", 20 * image, (64, 64))
        write_json(root / split / "questions.json", questions)
    return root


def test_easy_vqa_is_read_as_published(easy: Path) -> None:
    data = opened(EasyVQA(2, 0, str(easy), validation=0.2))
    counts = {name: len(split) for name, split in data.splits.items()}
    assert counts["train"] + counts["val"] == 10 and counts["val"] and counts["test"] == 3
    assert data.spec.answers == ("circle", "yes", "no", "teal") and data.spec.kinds == ()
    assert asked(data, "test") == [[("what is the teal shape", 0), ("is there a circle", 1)]] * 3
    assert data.splits["test"].images.pixels[:, 0, 9, 9].tolist() == [0, 20, 40]


def test_images_of_training_that_are_held_out_are_counted_as_images_and_said(easy: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        picture(easy / "test" / "images" / f"{number}.png", 201 + number, (64, 64))
    data = opened(EasyVQA(2, 0, str(easy), validation=0.2, questions_per_sample=1))
    trained = data.splits["train"].files[0]
    facts = data.summarize()
    assert facts["test_images"] == 3 < facts["test_questions"] == len(data.splits["test"])
    assert facts["train_images"] + facts["val_images"] == 10
    (easy / "test" / "images" / "1.png").write_bytes(Path(trained).read_bytes())
    capsys.readouterr()
    data = opened(EasyVQA(2, 0, str(easy), validation=0.2, questions_per_sample=1))
    said = f"warning: {easy}: 1 of 3 images of test, such as test/images/1.png, are training images, too, by their content\n"
    assert said in capsys.readouterr().err
    assert data.exclude_from_test(set(data.splits["train"].content())) == (1, 3)
    assert len(data.splits["test"]) == 4 and all("1.png" not in file for file in data.splits["test"].files)


def test_images_that_were_added_can_be_left_out(easy: Path) -> None:
    before = opened(EasyVQA(2, 0, str(easy), validation=0.2))
    names = {name for files in before.files().values() for name, *_ in files}
    assert names == {path.relative_to(easy).as_posix() for path in easy.rglob("*.png")}
    picture(easy / "train" / "images" / "10.png", 250, (64, 64))
    questions = json.loads((easy / "train" / "questions.json").read_text())
    write_json(easy / "train" / "questions.json", [*questions, ["which new word?", "teal", 10]])
    data = EasyVQA(2, 0, str(easy), validation=0.2)
    data.keep_only(names)
    opened(data)
    assert data.added == ["train/images/10.png"] and data.spec == before.spec
    assert DataRecord.of(data).files == DataRecord.of(before).files


def test_no_picture_is_both_trained_on_and_held_out(easy: Path) -> None:
    data = opened(EasyVQA(2, 0, str(easy), validation=0.2, questions_per_sample=1))
    shades = {name: set(split.images.pixels[:, 0, 9, 9].tolist()) for name, split in data.splits.items()}
    assert len(data.splits["val"]) == 2 * len(shades["val"]) > 0 and not shades["train"] & shades["val"]


def test_a_tested_model_meets_its_own_words_and_answers(easy: Path) -> None:
    known = opened(EasyVQA(2, 0, str(easy))).spec
    write_json(easy / "test" / "questions.json", [["is there a huge circle?", "maybe", 0], ["is there a circle?", "no", 1]])
    (easy / "answers.txt").write_text("maybe\nno\nyes\ncircle")
    data = opened(EasyVQA(2, 0, str(easy)))
    data.require_compatible(known, "easy-vqa")
    assert data.spec == known
    assert data.splits["test"].labels.tolist() == [[UNKNOWN_ANSWER], [2]]
    assert data.summarize()["test_outside"] == 1
    assert known.decode(data.splits["test"].columns["questions"][0, 0].tolist()) == ["is", "there", "a", "<unknown>", "circle"]


def without(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def rewritten(path: str, content: Any) -> Callable[[Path], None]:
    return lambda root: (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (without("answers.txt"), "answers.txt: there is no such file"),
        (rewritten("answers.txt", "\n"), "answers.txt: is empty"),
        (without("train/questions.json"), "train/questions.json: no such file"),
        (rewritten("train/questions.json", '[["what'), "train/questions.json: is not valid JSON"),
        (rewritten("train/questions.json", [["what?", "yes"]]), "train/questions.json: is not laid out as published"),
        (rewritten("train/questions.json", {"what?": "yes"}), "train/questions.json: is not laid out as published"),
        (rewritten("test/questions.json", []), "has no questions for test"),
        (rewritten("test/questions.json", [["what?", "yes", 77]]), "none of their images is there, such as 77.png"),
        (rewritten("test/questions.json", [["what?", None, 0]]), "test/questions.json: is not laid out as published: None is no"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(easy: Path, break_it: Callable[[Path], None], named: str) -> None:
    break_it(easy)
    with pytest.raises(UserError) as error:
        opened(EasyVQA(2, 0, str(easy)))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_questions_without_words_or_a_readable_image_are_left_out_and_told(easy: Path, capsys) -> None:
    questions = json.loads((easy / "test" / "questions.json").read_text())
    write_json(easy / "test" / "questions.json", [*questions, ["?", "yes", 0], ["unseen?", "yes", 77]])
    (easy / "test" / "images" / "1.png").write_bytes(b"not a picture")
    data = opened(EasyVQA(2, 0, str(easy)))
    told = capsys.readouterr().err
    assert "skipped 1 missing images (77.png) and 1 questions without words" in told
    assert "1 of 3 images cannot be read" in told and "1.png" in told
    assert len(data.splits["test"]) == 2 and data.summarize()["test_questions"] == 4


def test_vqa_names_questions_without_answers(vqa: Path) -> None:
    file = vqa / "v2_mscoco_train2014_annotations.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    write_json(file, content)
    with pytest.raises(UserError, match="has no answers to questions 25002 of v2_OpenEnded"):
        opened(VQA(2, 0, str(vqa)))


def test_vqa_says_what_is_no_text(vqa: Path) -> None:
    file = vqa / "v2_mscoco_val2014_annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["answers"][3]["answer"] = None
    write_json(file, content)
    with pytest.raises(UserError, match="val2014_annotations.json: is not laid out as published: None is no text"):
        opened(VQA(2, 0, str(vqa)))


def test_an_answer_must_be_frequent_enough_for_some(vqa: Path) -> None:
    with pytest.raises(UserError, match="data.min_answer_count=9: no answer occurs that often, the most frequent one 2 times"):
        _ = VQA(2, 0, str(vqa), min_count=1).spec


def test_large_data_is_read_from_its_files(easy: Path) -> None:
    kept, read = (opened(EasyVQA(3, 0, str(easy), memory_gb=memory)) for memory in (2.0, 0.0))
    for one, other in zip(kept.test_dataloader(), read.test_dataloader(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
