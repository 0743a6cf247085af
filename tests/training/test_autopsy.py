"""A run whose numbers break names the layer and the operation in its one line, and ``zoo autopsy`` does the step again."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from zoo.training.checkpoints import read_checkpoint

WILD = ["--set", "recipe.optimizer=sgd", "--set", "recipe.schedule=constant", "--set", "recipe.lr=1e9"]
MODEL = '''
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier


class Length(nn.Module):
    def forward(self, x):
        return x + (0 * x).sqrt()


@register_model("lengths", task="classification", recipe={"epochs": 1, "batch_size": 100})
class Lengths(Classifier):
    """Takes a root of nothing, which is nothing, but infinitely steep."""

    def __init__(self, spec, recipe):
        super().__init__(spec, recipe)
        size = spec.channels * spec.height * spec.width
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.Dropout(0.5), Length())
        self.head = nn.Linear(16, len(spec.classes))

    def stages(self):
        return {"body": self.body, "head": self.head}

    def forward(self, images):
        return self.head(self.body(images))
'''


def test_the_line_names_the_layer_and_the_command_that_repeats_it(zoo) -> None:
    answer = zoo("train", "mlp", "--name", "wild", *WILD)
    *found, last = answer.err.splitlines()
    assert answer.code == 2 and found and all(line.startswith("step ") for line in found), "what monitors saw before it"
    assert all(
        word in last for word in ("at step 3", "addmm in hidden.1.0 (Linear)", "recipe.gradient_clip_val", "zoo autopsy wild")
    )
    content = torch.load("runs/wild/autopsy.pt", weights_only=True)
    assert all(value.isfinite().all() for value in content["state_dict"].values()), "the optimizer has not stepped"

    again = zoo("autopsy", "wild")
    assert again.code == 1 and "addmm in hidden.1.0 (Linear)" in again.out and again.out.endswith("the same fault occurs\n")
    given = json.loads(zoo("autopsy", "runs/wild/autopsy.pt", "--json").out)
    assert given["found"] == given["again"] == content["anomaly"] and given["step"] == 3
    # torch itself says the same of the linear layer, with these weights and the numbers that it was given
    anomaly = given["again"]
    assert [each["shape"] for each in anomaly["inputs"]] == [[256], [128, 512], [512, 256]]


def test_a_file_that_does_not_go_wrong_again_ends_with_0(zoo) -> None:
    zoo("train", "mlp", "--name", "wild", *WILD)
    content = torch.load("runs/wild/autopsy.pt", weights_only=True)
    content["state_dict"] = {name: value * 0 for name, value in content["state_dict"].items()}
    torch.save(content, "mended.pt")
    answer = zoo("autopsy", "mended.pt")
    assert answer.code == 0 and answer.out.endswith("repeated: the fault does not occur\n")


def test_a_layer_of_a_plugin_that_breaks_the_backward_pass_is_named(zoo) -> None:
    Path("lengths.py").write_text(MODEL)
    answer = zoo("--plugin", "lengths.py", "train", "lengths", "--data", "digits", "--name", "roots")
    assert answer.is_one_line_error("at step 1:", "div in the backward pass of Sqrt in body.3 (Length) returned")
    again = zoo("--plugin", "lengths.py", "autopsy", "roots")
    assert again.code == 1 and again.out.endswith("the same fault occurs\n")


def test_a_state_carried_along_a_text_is_part_of_the_step(zoo) -> None:
    wild = ["--set", "recipe.lr=1e20", "--set", "recipe.gradient_clip_val=1e30", "--set", "recipe.warmup_epochs=0"]
    answer = zoo("train", "char-lstm", "--name", "text", "--set", "model.hidden_size=8", *wild)
    assert answer.code == 2 and "zoo autopsy text" in answer.err
    content = read_checkpoint(Path("runs/text/autopsy.pt"))
    assert content["step"] > 1 and all(part.isfinite().all() for part in content["state"]["stream_state"])
    again = zoo("autopsy", "text")
    assert again.code == 1 and again.out.endswith("the same fault occurs\n")


def test_what_is_no_autopsy_is_refused_in_one_line(zoo) -> None:
    zoo("train", "softmax", "--name", "sound", "--epochs", "1")
    assert not Path("runs/sound/autopsy.pt").exists()
    assert zoo("autopsy", "sound").is_one_line_error("run sound has no autopsy.pt")
    assert zoo("autopsy", "soundd").is_one_line_error("no run 'soundd': did you mean 'sound'?")
    assert zoo("autopsy", "autopsi.pt").is_one_line_error("autopsi.pt: no such file")
    Path("checkpoint.pt").write_bytes(Path("runs/sound/checkpoints/best.ckpt").read_bytes())
    assert zoo("autopsy", "checkpoint.pt").is_one_line_error("checkpoint.pt is not an autopsy file")
    Path("broken.pt").write_text("nonsense")
    assert zoo("autopsy", "broken.pt").is_one_line_error("broken.pt is damaged or not a checkpoint")
