"""The functions of ``import zoo`` do what the commands do, and give back what the annotations say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

import zoo as face

ROOT = Path(__file__).parents[2]
QUICK = {"trainer.accelerator": "cpu", "model.hidden_sizes": [16], "trainer.limit_train_batches": 3}
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def run() -> face.TrainedRun:
    return face.train("mlp", epochs=1, settings=QUICK, name="first", progress=False)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_names_are_those_of_the_commands(zoo) -> None:
    assert face.list_models() == [entry["name"] for entry in json.loads(zoo("list", "--json").out)]
    assert face.list_models("residual") == [entry["name"] for entry in json.loads(zoo("list", "residual", "--json").out)]
    assert face.list_data(task="captioning") == ["coco-captions", "flickr8k", "shapes-captions"]
    assert face.list_models("no such") == []
    assert "torchvision:resnet18.IMAGENET1K_V1" in face.list_models("resnet*", task="classification", pretrained=True)
    assert face.describe("resnet20").task == face.describe("digits").task == "classification"
    with pytest.raises(face.UserError, match="did you mean .*'resnet20'"):
        face.describe("resnet2")


def test_a_model_is_built_for_a_spec_for_numbers_or_for_its_default_data() -> None:
    model = face.create_model("resnet20", num_classes=7, image_size=(24, 32), width=4)
    assert model.spec == face.ImageSpec(3, 24, 32, classes=tuple("0123456")) and model(torch.zeros(2, 3, 24, 32)).shape == (2, 7)
    assert face.create_model("mlp").spec.classes == face.create_data("digits").spec.classes
    for given in ({"num_classes": 3}, {"image_size": 3}, {"num_classes": 3, "image_size": 8, "spec": model.spec}):
        with pytest.raises(face.UserError, match="num_classes and image_size"):
            face.create_model("mlp", **given)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("mlp", {"spec": "digits"}, r"spec='digits': a spec describes what the data is, as in zoo.create_data\('digits'\).spec"),
        ("mlp", {"spec": 10}, "spec=10: a spec describes"),
        ("mlp", {"num_classes": -1, "image_size": 8}, "num_classes=-1: must be a whole number, at least 1"),
        ("mlp", {"num_classes": "10", "image_size": 8}, "num_classes='10'"),
        ("mlp", {"num_classes": True, "image_size": 8}, "num_classes=True"),
        ("mlp", {"num_classes": 10**12, "image_size": 8}, "must be at most 1,000,000"),
        ("mlp", {"num_classes": 10.0, "image_size": 8}, r"num_classes=10\.0"),
        ("mlp", {"num_classes": 10, "image_size": (8, 8, 3)}, r"image_size=\(8, 8, 3\): must be a number of pixels, or height"),
        ("mlp", {"num_classes": 10, "image_size": 8.5}, r"image_size=8\.5"),
        ("mlp", {"num_classes": 10, "image_size": 8, "in_channels": 0}, "in_channels=0"),
        ("mlp", {"recipe": {"learning_rate": 0.1}}, "no recipe key 'learning_rate': did you mean 'lr'"),
        ("mlp", {"recipe": {"lr": "fast"}}, "recipe.lr=fast"),
        ("mlp", {"recipe": "sgd"}, "recipe='sgd': must be a Recipe or a dict"),
        ("vqa-attention", {"num_classes": 3, "image_size": 32}, r"vqa-attention needs a QuestionSpec, as in zoo.create_data\('"),
        ("vqa-attention", {"spec": face.create_data("digits")}, "needs a QuestionSpec.*, not this ImageSpec"),
        ("resnet20", {"spec": face.create_data("copy-memory")}, "resnet20 needs an ImageSpec"),
        ("char-gru", {"num_classes": 3, "image_size": 32}, "char-gru needs a TextSpec"),
    ],
)
def test_a_model_of_wrong_values_is_refused_in_words(name: str, given: dict[str, object], says: str) -> None:
    with pytest.raises(face.UserError, match=says):
        face.create_model(name, **given)


def test_a_model_takes_the_data_itself_any_integer_and_changes_of_its_recipe() -> None:
    data = face.create_data("digits")
    assert face.create_model("mlp", data).spec == data.spec
    assert face.create_model("mlp", num_classes=np.int64(3), image_size=np.int64(8)).spec.shape == (3, 8, 8)
    own = face.create_model("mlp").recipe
    assert face.create_model("mlp", recipe={"lr": 0.5}).recipe == own.model_copy(update={"lr": 0.5})
    changed = face.create_model("resnet20", recipe={"optimizer": "adamw", "optimizer_args.eps": 1e-6}).recipe
    assert changed.optimizer == "adamw" and changed.optimizer_args == {"eps": 1e-6}


def test_data_of_wrong_values_is_refused_and_a_root_may_be_a_path(tmp_path: Path) -> None:
    for batch_size in (0, None, "8"):
        with pytest.raises(face.UserError, match=f"batch_size={batch_size!r}: must be a whole number, at least 1"):
            face.create_data("digits", batch_size=batch_size)
    for seed in (-1, None, 0.5):
        with pytest.raises(face.UserError, match=f"seed={seed}: must be a whole number, at least 0"):
            face.create_data("digits", seed=seed)
    (tmp_path / "cat").mkdir()
    assert face.create_data("folder", root=tmp_path).root == tmp_path


def test_a_path_is_a_folder_of_images(tmp_path: Path, pixels: np.ndarray) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(np.roll(pixels, number + 20 * label)).save(tmp_path / "photos" / name / f"{number}.png")
    data = face.create_data(tmp_path / "photos", size=8, batch_size=4)
    data.setup("fit")
    assert data.spec.classes == ("cat", "dog") and data.spec.height == 8
    settings = {**QUICK, "data.size": 8, "recipe.batch_size": 4}
    run = face.train("mlp", f"{tmp_path}/photos", epochs=1, settings=settings, progress=False)
    assert run.name == "mlp-folder" and set(run.test(f"{tmp_path}/photos/")) >= {"test/accuracy", "test/loss"}


def test_a_run_says_what_its_commands_say(zoo, run: face.TrainedRun, pixels: np.ndarray) -> None:
    assert run.metrics == face.load("first").metrics == face.load("runs/first").metrics
    said = json.loads(zoo("test", "first", "--json").out)
    tested = run.test()
    assert tested == {name: value for name, value in said.items() if "/" in name}
    assert tested.details["confusion"] == said["confusion"]
    Image.fromarray(pixels).save("a.png")
    said = json.loads(zoo("predict", "first", "a.png", "--json", "--top", "2").out)
    (prediction,) = run.predict("a.png", top=2)
    assert (prediction.name, prediction.probability) == (said[0]["class"], said[0]["probability"])
    records = [json.loads(line) for line in Path("runs/first/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in run.history()] == [record["step"] for record in records]


def test_a_checkpoint_names_its_run(zoo, run: face.TrainedRun) -> None:
    Path("first").write_text("")  # a file of that name hides no run
    assert face.load("first").path == run.path
    says = "is a checkpoint of a run: name the run in its place:"
    with pytest.raises(face.UserError, match=f"^runs/first/checkpoints/best.ckpt {says} first$"):
        face.load("runs/first/checkpoints/best.ckpt")
    assert zoo("predict", "runs/first/checkpoints/last.ckpt", "a.png").is_one_line_error(f"{says} first --checkpoint last")
    last = "runs/first/checkpoints/last.ckpt"
    assert zoo("finetune", last, "--data", "digits").is_one_line_error(f"{says} first --weights {last}")


def test_files_of_other_runtimes_and_weights_alone_are_refused(zoo) -> None:
    for name in ("m.onnx", "m.pt2", "m.pth"):
        Path(name).write_bytes(b"")
    writes = "`zoo export --to safetensors` writes a file that can be loaded"
    with pytest.raises(face.UserError, match=f"^m.onnx is for ONNX Runtime: {writes}$"):
        face.load("m.onnx")
    assert zoo("predict", "m.pt2", "a.png").is_one_line_error(f"m.pt2 is for torch.export: {writes}")
    assert zoo("predict", "m.pth", "a.png").is_one_line_error("in its place: torchvision:resnet50 --weights m.pth")


def test_a_published_network_says_that_it_is_one() -> None:
    network = face.load("efficientnet-lite0")
    assert repr(network) == "<published network efficientnet-lite0>"
    assert network._repr_html_() == "<div><h4>efficientnet-lite0: a published network</h4></div>"
    with pytest.raises(face.UserError, match="^efficientnet-lite0 is a published network: history needs the records of a run$"):
        network.history()


def test_images_are_the_same_in_every_form(run: face.TrainedRun, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save("a.png")
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    forms = ["a.png", Path("a.png"), Image.open("a.png"), pixels, tensor, tensor / 255, pixels.transpose(2, 0, 1), tensor[None]]
    predictions = run.predict(forms, batch_size=3)
    assert len(predictions) == len(forms) and all(each.values == predictions[0].values for each in predictions)
    assert run.predict(torch.stack([tensor, tensor]))[1].values == predictions[0].values
    Path("folder").mkdir()
    Image.fromarray(pixels).save("folder/b.png")
    (alone,) = run.predict("folder")  # kernels of a batch of one may differ in the last digit
    assert alone.values == pytest.approx(predictions[0].values, abs=1e-6)
    gray = run.predict([pixels[..., 0], pixels[..., :1]])
    assert gray[0].values == gray[1].values


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((2, 3), dtype=np.int64), "pixels of type int64"),
        (np.full((2, 3), 1.5), "from 1.5 to 1.5: expected 0 to 1"),
        (np.full((2, 3), np.nan), "expected 0 to 1"),
        (np.zeros((2, 3, 5), dtype=np.uint8), r"shape \(2, 3, 5\)"),
        (np.zeros((0, 3), dtype=np.uint8), "is not an image"),
        (7, "int is not an image"),
        ("nothing.png", "no such file"),
    ],
)
def test_what_is_not_an_image_is_refused(run: face.TrainedRun, wrong: object, said: str) -> None:
    with pytest.raises(face.UserError, match=said):
        run.predict(wrong)


def test_runs_go_where_they_are_told(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    given = face.train("mlp", epochs=1, settings=QUICK, runs="elsewhere", progress=False)
    assert given.path == Path("elsewhere/mlp-digits") and not Path("runs").exists()
    assert face.load("mlp-digits", runs="elsewhere").metrics == face.load("elsewhere/mlp-digits").metrics == given.metrics
    flags = [word for key, value in QUICK.items() for word in ("--set", f"{key}={value}")]
    answer = zoo("train", "mlp", "--epochs", "1", *flags, "--runs-dir", "third")
    assert Path("third/mlp-digits/run.yaml").exists()
    shown = answer.out.splitlines()[-1].split("    ")[1].split()  # a command that finds it
    assert shown[:2] == ["zoo", "test"] and zoo(*shown[1:]).code == 0
    monkeypatch.setenv("ZOO_RUNS", "elsewhere")
    assert zoo("test", "mlp-digits").code == 0 and face.load("mlp-digits").path == given.path
    assert "no run 'mlp-digit'" in zoo("test", "mlp-digit").err and "mlp-digits" in zoo("test", "mlp-digit").err


def test_an_interrupted_run_goes_on_in_python(run: face.TrainedRun) -> None:
    assert run.resume(progress=False).outcome.was_finished
    with pytest.raises(face.UserError, match="--resume continues a run as it is"):
        run.resume(settings={"recipe.lr": 1.0})


def test_an_exported_file_has_no_records(run: face.TrainedRun, pixels: np.ndarray) -> None:
    exported = run.export("safetensors", "mine.safetensors", license="MIT")
    file = face.load(exported.file)
    assert file.predict(pixels)[0].values == run.predict(pixels)[0].values and file.metrics == {}
    for method in (file.history, file.report, file.resume):
        with pytest.raises(face.UserError, match="mine.safetensors is an exported file"):
            method()
    assert "mine.safetensors" in file._repr_html_()


def test_a_run_shows_itself(run: face.TrainedRun) -> None:
    html = run._repr_html_()
    assert "first: mlp on digits" in html and "test/accuracy" in html and "<svg" in html and "<script" not in html
    assert repr(run).startswith("<run first: mlp on digits, test/accuracy 0.")


def test_what_other_tasks_are_asked_is_refused_with_the_right_command(run: face.TrainedRun) -> None:
    for ask in (run.sample, run.episodes, lambda: run.chat("a.png")):
        with pytest.raises(face.UserError, match="mlp is for classification and .*: use it with zoo predict RUN IMAGE"):
            ask()


def test_a_language_model_continues_text() -> None:
    sizes = {"model.hidden_size": 8, "data.seq_len": 16, "recipe.batch_size": 8, "trainer.limit_train_batches": 2}
    run = face.train("char-rnn", epochs=1, settings=sizes, progress=False)
    texts = run.sample("The ", 5, samples=2, seed=3)
    assert [len(text) for text in texts] == [5, 5] and texts == run.sample("The ", 5, samples=2, seed=3)
    assert len(run.sample("The ", 5, greedy=True)) == 1 and len(run.sample("The ", 5, beams=2)) == 2


def test_a_search_ends_with_its_best_run() -> None:
    found = face.search("mlp", {"recipe.lr": "choice:0.001,0.01"}, trials=2, sampler="grid", epochs=1, settings=QUICK)
    assert sorted(trial["parameters"]["recipe.lr"] for trial in found.trials) == [0.001, 0.01]
    best = found.train(name="best", progress=False)
    assert best.config.recipe.lr == found.best["recipe.lr"]


def test_what_a_program_registers_itself_has_a_name(pixels: np.ndarray) -> None:
    from zoo.models.mlp import MLP

    @face.register_model("own", task="classification", data="digits", hidden_sizes=[8])
    class Own(MLP):
        """An MLP of this program."""

    assert "own" in face.list_models("ow") and face.describe("own").summary == "An MLP of this program."
    run = face.train("own", epochs=1, settings={"trainer.limit_train_batches": 2}, progress=False)
    assert isinstance(face.load("own-digits").model, Own) and run.predict(pixels)

    @face.register_model("own", task="classification", data="digits", hidden_sizes=[9])
    class Own(MLP):  # as when a cell of a notebook runs again
        """Another one."""

    assert face.describe("own").defaults["hidden_sizes"] == [9]
    with pytest.raises(face.UserError, match="registered twice"):

        @face.register_model("own", task="classification")
        class Third(MLP):
            """Has the same name."""


LINES = """
import lightning as L
import zoo

zoo.list_models("resnet*", task="classification", pretrained=True)
model = zoo.create_model("resnet20", num_classes=10, image_size=32)
data = zoo.create_data("digits", batch_size=64)
run = zoo.train("mlp", data="digits", epochs=5, settings={"model.hidden_sizes": [64]}, callbacks=[L.pytorch.callbacks.Timer()])
tuned = zoo.finetune("timm:resnet18.a1_in1k", data="photos/", freeze="backbone")
run = zoo.load("runs/mlp-digits")
run.test(); run.predict(["a.jpg", array]); run.history(); run.model; run.report(); run.export("onnx")
"""


@pytest.mark.slow
def test_the_lines_that_a_newcomer_writes_run_as_written(hub, pixels: np.ndarray) -> None:
    import timm
    from safetensors.torch import save

    hub("timm/resnet18.a1_in1k", model_safetensors=save(timm.create_model("resnet18").state_dict()))
    Image.fromarray(pixels).save("a.jpg")
    for first, name in ((0, "cat"), (20, "dog")):
        Path("photos", name).mkdir(parents=True)
        for number in range(first, first + 20):
            Image.fromarray(np.roll(pixels, number)).save(Path("photos", name, f"{number}.png"))
    names = {"array": pixels}
    exec(LINES, names)
    assert Path("mlp-digits.onnx").exists() and Path("runs/mlp-digits/report.html").exists()
    assert names["tuned"].config.data["root"] == "photos/" and names["tuned"].metrics.keys() >= {"test/accuracy"}


@pytest.mark.slow
def test_a_type_checker_knows_what_comes_back(tmp_path: Path) -> None:
    blocks = PYTHON.findall((ROOT / "docs" / "python.md").read_text())
    revealed = (
        "zoo.list_models()", "zoo.describe('mlp')", "run", "run.metrics", "run.history()", "run.findings", "report", "metrics",
        "exported", "run.predict(image)", "run.predict(image)[0].name", "run.model", "run.sample()", "run.chat('a.png')",
        "run.episodes()", "run.config", "data", "model", "model.normalize(images)", "model.predict_images(images)",
        "study", "study.best", "study.trials", "best",
    )  # fmt: skip
    lines = ("import torch", "images = torch.rand(2, 1, 8, 8)", "model(model.normalize(images))")
    program = "\n".join([*blocks, *lines, *(f"reveal_type({expression})" for expression in revealed)])
    (tmp_path / "snippets.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "snippets.py"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)})
    types = re.findall(r'Revealed type is "(.*)"', answer.stdout)
    assert answer.returncode == 0 and len(types) == len(revealed), answer.stdout
    assert not [kind for kind in types if "Any" in kind], types


SCRIPT = '''
import sys
import zoo
from zoo.models.mlp import MLP

@zoo.register_model("scripted", task="classification", data="digits", hidden_sizes=[8])
class Scripted(MLP):
    """An MLP of a script."""

if __name__ == "__main__":
    zoo.train("scripted", epochs=1, settings={"trainer.limit_train_batches": 2}, progress=False)
'''


@pytest.mark.slow
def test_the_model_of_a_script_is_found_through_the_script(zoo) -> None:
    Path("mine.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "mine.py"], check=True, capture_output=True)
    assert zoo("test", "scripted-digits").is_one_line_error("needs the plugin", "mine.py", "--plugin")
    assert zoo("--plugin", "mine.py", "test", "scripted-digits").code == 0


def test_callbacks_are_asked_for_again_when_a_run_goes_on(capfd: pytest.CaptureFixture) -> None:
    class Quarter(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            trainer.optimizers[0].param_groups[0]["lr"] = 0.25

    run = face.train("mlp", epochs=1, settings=QUICK, name="first", callbacks=Quarter(), progress=False)
    run.resume(progress=False)
    assert "warning: first was trained with callbacks that are missing now:" in capfd.readouterr().err
    run.resume(callbacks=[Quarter()], progress=False)
    assert "warning" not in capfd.readouterr().err


def test_an_interrupt_passes_except_exception() -> None:
    assert issubclass(face.Interrupted, KeyboardInterrupt) and not issubclass(face.Interrupted, Exception)


def test_slips_are_refused_in_words(run: face.TrainedRun, pixels: np.ndarray) -> None:
    def in_elsewhere() -> None:
        face.train("mlp", epochs=1, settings=QUICK, name="first", runs="elsewhere", progress=False)

    wrong = {
        "no task 'clasification': did you mean 'classification'": lambda: face.list_models(task="clasification"),
        "no checkpoint 'bset': did you mean 'best'": lambda: face.load("first", checkpoint="bset"),
        "no kind of record 'activation': did you mean 'activations'": lambda: run.monitor_records("activation"),
        "callbacks: 'x' is not a Lightning callback": lambda: face.train("mlp", callbacks=["x"]),
        "ModelCheckpoint: a run saves": lambda: face.train("mlp", callbacks=[L.pytorch.callbacks.ModelCheckpoint()]),
        "there is nothing to predict for": lambda: run.predict([]),
        "no such file": lambda: run.predict(""),
        "--top 0: must be at least 1": lambda: run.predict(pixels, top=0),
        "name what to search over": lambda: face.search("mlp", {}),
        "zoo train --resume elsewhere/first": lambda: [in_elsewhere(), in_elsewhere()],
    }  # fmt: skip
    for said, call in wrong.items():
        with pytest.raises(face.UserError, match=re.escape(said)):
            call()
    assert not Path("runs/mlp-digits").exists()
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    predictions = run.predict(each for each in (pixels, (tensor / 255).bfloat16()))
    assert len(predictions) == 2


def test_values_to_search_over_are_a_list() -> None:
    for values in ([0.001, 0.01], np.array([0.001, 0.01]), (0.001, 0.01)):
        found = face.search("mlp", {"recipe.lr": values}, trials=2, sampler="grid", epochs=1, settings=QUICK)
        assert sorted(trial["parameters"]["recipe.lr"] for trial in found.trials) == [0.001, 0.01]
    sizes = {key: value for key, value in QUICK.items() if not key.startswith("model")}
    over = {"model.hidden_sizes": [[8], [8, 8]]}
    found = face.search("mlp", over, sampler="grid", epochs=1, settings=sizes, name="sizes")
    assert found.best["model.hidden_sizes"] in ([8], [8, 8]) and repr(found) == "<search sizes: 2 trials by val/accuracy>"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": 5}, "no model 5: a name is text"),
        ({"model": Path("mlp")}, "a name is text"),
        ({"data": np.zeros((2, 3))}, "data=ndarray: must be a name or a folder"),
        ({"data": []}, "data=list: must be a name or a folder"),
        ({"settings": 5}, "settings=5: give a dict"),
        ({"settings": "recipe.lr=1"}, "give a dict"),
        ({"settings": [5]}, "settings: 5: write it as section.key=value"),
        ({"runs": 5}, "5 is no path"),
        ({"runs": "a\0b"}, "is no path"),
        ({"config": 5}, "5 is no path"),
        ({"callbacks": 5}, "callbacks=5: give a list"),
        ({"name": 5}, "name=5: must be text"),
        ({"name": 5, "resume_if_exists": True}, "name=5: must be text"),
    ],
)
def test_arguments_of_another_type_are_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(face.UserError) as error:
        face.train(**{"model": "mlp", "epochs": 1, "progress": False, **wrong})
    assert named in str(error.value) and "\n" not in str(error.value)
    assert not list(Path().iterdir())
    with pytest.raises(face.UserError, match="5 is no path"):
        face.load(5)
