"""A Run is resolved from all that was said, in order, and what is wrong with it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from zoo.config.recipe import Run, differences, parse_setting, read_config, resolve, resolve_test
from zoo.core.errors import UserError
from zoo.registry.annotations import parse_annotation
from zoo.registry.registry import scan

REGISTRY = scan()


def test_later_settings_win_over_earlier_ones() -> None:
    config = {"recipe": {"lr": 0.5, "epochs": 7, "optimizer_args": {"momentum": 0.5}}}
    run = resolve(REGISTRY, "resnet20", config, [{"recipe": {"lr": 0.3, "epochs": 8}}, {"recipe": {"epochs": 9}}])
    recipe = run.recipe
    assert (recipe.epochs, recipe.lr, recipe.optimizer_args["momentum"]) == (9, 0.3, 0.5)
    assert recipe.optimizer == "sgd", "the model's own recipe is under the configuration"
    assert recipe.accumulate_grad_batches == 1, "defaults are under all"


def test_numbers_that_yaml_reads_as_text_are_converted_by_the_type_of_their_key() -> None:
    assert yaml.safe_load("1e-3") == "1e-3"
    run = resolve(REGISTRY, "mlp", {}, [parse_setting("recipe.lr=1e-3"), parse_setting("model.hidden_sizes=[8,4]")])
    assert run.recipe.lr == 0.001 and run.model["hidden_sizes"] == [8, 4]


def test_arguments_of_an_optimizer_are_set_one_by_one_and_left_behind_with_it() -> None:
    def args(*texts: str, model: str = "char-transformer") -> dict:
        return resolve(REGISTRY, model, {}, [parse_setting(text) for text in texts]).recipe.optimizer_args

    own = {"betas": [0.9, 0.99], "eps": 1e-8, "amsgrad": False}
    assert args() == own, "the model's own"
    assert args("recipe.optimizer_args.eps=1e-6") == {**own, "eps": 1e-6}
    assert args("recipe.optimizer_args={eps: 1e-6}") == {**own, "betas": [0.9, 0.999], "eps": 1e-6}
    assert args("recipe.optimizer=adam")["betas"] == [0.9, 0.999], "which belongs to adamw"
    assert args("recipe.optimizer=sgd") == {"momentum": 0.9, "nesterov": True, "dampening": 0.0}
    assert args("recipe.optimizer_args.momentum=0.5", "recipe.optimizer=sgd")["momentum"] == 0.5


def test_former_names_of_options_are_known() -> None:
    for name, former, present in (("char-lstm", "data.chunk", "seq_len"), ("vit", "model.width", "embed_dim")):
        with pytest.raises(UserError, match=f"did you mean '{present}'"):
            resolve(REGISTRY, name, {}, [parse_setting(f"{former}=8")])


def test_a_loss_is_for_a_task() -> None:
    recipe = resolve(REGISTRY, "svm", {}, [parse_setting("recipe.loss_args.margin=2")]).recipe
    assert (recipe.loss, recipe.loss_args) == ("hinge", {"margin": 2.0})
    with pytest.raises(UserError, match="recipe.loss=hinge: is for classification, and lstm for"):
        resolve(REGISTRY, "lstm", {}, [parse_setting("recipe.loss=hinge")])


def test_off_is_a_mode_although_yaml_reads_it_as_false() -> None:
    assert resolve(REGISTRY, "mlp", {}, [parse_setting("wandb.mode=off")]).wandb.mode == "off"


def test_the_default_data_comes_with_its_options_and_other_data_without() -> None:
    assert resolve(REGISTRY, "vgg11", {}, []).data == {"name": "digits", "size": 32, "augment": "standard", "validation": 0.1}
    assert resolve(REGISTRY, "vgg11", {}, [{"data": {"name": "cifar10"}}]).data["size"] == 0


def test_the_augmentation_that_suits_a_model_goes_with_it_to_any_data() -> None:
    assert resolve(REGISTRY, "softmax", {}, [{"data": {"name": "cifar10"}}]).data["augment"] == "none"
    told = [{"data": {"name": "cifar10", "augment": "strong"}}]
    assert resolve(REGISTRY, "softmax", {}, told).data["augment"] == "strong"


def test_a_written_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = resolve(REGISTRY, "mlp", {}, [parse_setting("recipe.milestones=[0.3,0.6]"), parse_setting("wandb.tags=[a,b]")])
    path = tmp_path / "run.yaml"
    path.write_text(run.to_yaml())
    assert resolve(REGISTRY, None, read_config(path), []) == run == Run(**read_config(path))
    assert differences(run, run) == []


def test_options_of_other_data_in_a_configuration_are_dropped() -> None:
    config = resolve(REGISTRY, "vgg11", {}, []).model_dump()
    assert resolve(REGISTRY, None, config, [{"data": {"name": "cifar10"}}]).data["size"] == 0


def test_differences_name_the_new_value_and_the_old() -> None:
    old, new = (resolve(REGISTRY, "mlp", {}, [{"recipe": {"lr": lr}}]) for lr in (0.1, 0.2))
    assert differences(old, new) == ["recipe.lr=0.2 (was 0.1)"]


def test_testing_keeps_the_options_of_the_runs_own_data_and_no_others() -> None:
    run = resolve(REGISTRY, "vgg11", {}, [])
    data, _ = resolve_test(REGISTRY, run, None, [parse_setting("data.validation=0.2")])
    assert (data["size"], data["validation"]) == (32, 0.2)
    data, trainer = resolve_test(REGISTRY, run, "cifar10", [{"trainer": {"devices": "2"}}])
    assert data["size"] == 0 and trainer.devices == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["recipe.lrr=1"], ["no recipe key 'lrr'", "'lr'"]),
        (["recipe.clip=1"], ["no recipe key 'clip': did you mean 'gradient_clip_val'?"]),
        (["trainer.nodes=2"], ["did you mean 'num_nodes'"]),
        (["recipe.lr=fast"], ["recipe.lr=fast", "number"]),
        (["recipe.lr=-1"], ["recipe.lr=-1", "greater than 0"]),
        (["recipe.lr=.nan"], ["recipe.lr=nan"]),
        (["recipe.epochs=0"], ["recipe.epochs=0"]),
        (["recipe.batch_size=-4"], ["recipe.batch_size=-4"]),
        (["recipe.optimizer=sdg"], ["no optimizer 'sdg': did you mean 'sgd'"]),
        (["recipe.momentum=0.5"], ["did you mean 'optimizer_args.momentum'?"]),
        (["recipe.optimizer_args.momentun=0.5"], ["no option of sgd 'momentun': did you mean 'momentum'?"]),
        (["recipe.optimizer_args.momentum=much"], ["recipe.optimizer_args.momentum=much", "number"]),
        (["recipe.optimizer_args=3"], ["recipe.optimizer_args=3", "dictionary"]),
        (["recipe.lr.peak=1"], ["recipe.lr={'peak': 1}", "number"]),
        (["recipe.loss=hing"], ["no loss 'hing': did you mean 'hinge'?"]),
        (["recipe.loss_args.margin=2"], ["recipe.loss_args: name the loss, too"]),
        (["recipe.loss=hinge", "recipe.loss_args.margn=2"], ["no option of hinge 'margn': did you mean 'margin'?"]),
        (["data.augment=crop:4,hflp"], ["no augmentation 'hflp': did you mean", "'hflip'"]),
        (["data.augment=crop:0"], ["augmentation 'crop:0': the argument must be a positive int, as in crop:4"]),
        (["model.dept=3"], ["no option of resnet20 'dept'", "'depth'"]),
        (["model.depth=deep"], ["model.depth=deep", "integer"]),
        (["data.augmnt=x"], ["no option of digits 'augmnt'", "'augment'"]),
        (["trainer.device=2"], ["no trainer key 'device'", "'devices'"]),
        (["wandb.mode=onlin"], ["wandb.mode=onlin"]),
        (["recipes.lr=1"], ["no section 'recipes'", "'recipe'"]),
        (["lr=1"], ["section.key=value"]),
        (["recipe.lr"], ["section.key=value"]),
        (["data.name=nothing"], ["no data set 'nothing'"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_right_one(settings: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        resolve(REGISTRY, "resnet20", {}, [parse_setting(text) for text in settings])
    assert "\n" not in str(raised.value) and all(word in str(raised.value) for word in words), raised.value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("recipe: [1", "not YAML"),
        ("- 1", "holds no sections"),
        ("recpe: {}", "no section 'recpe'"),
        ("recipe: 3", "must hold keys"),
        ("model: mlp", "model must hold keys"),
        ("data: digits", "data must hold keys"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        resolve(REGISTRY, "mlp", read_config(path), [])


def test_a_configuration_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("recipe: !!python/object/apply:os.mkdir [made]")
    with pytest.raises(UserError, match="not YAML"):
        read_config(path)
    assert not Path("made").exists()


def test_a_configuration_for_another_model_is_refused() -> None:
    with pytest.raises(UserError, match="is for 'mlp', not 'softmax'"):
        resolve(REGISTRY, "softmax", {"model": {"name": "mlp"}}, [])


def test_data_of_another_task_is_refused_with_data_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text(
        "from zoo import register_data\n"
        "@register_data('verses', task='language-modeling')\n"
        "class Verses:\n    'Verses.'\n    def __init__(self, batch_size, seed): ...\n"
    )
    with pytest.raises(UserError, match="cannot take verses, which is for language-modeling: data that fits: .*digits"):
        resolve(scan([str(path)]), "softmax", {}, [{"data": {"name": "verses"}}])


@pytest.mark.parametrize(
    ("text", "type_"),
    [("int", int), ("int | None", int | None), ("list[int]", list[int]), ("tuple[int, ...]", tuple[int, ...])],
)
def test_annotations_are_read_without_evaluating_them(text: str, type_: type) -> None:
    assert parse_annotation(text) == type_


def test_an_annotation_that_is_code_is_not_run() -> None:
    parse_annotation("__import__('os').mkdir('made')")
    assert not Path("made").exists()
