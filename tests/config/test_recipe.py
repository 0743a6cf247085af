"""A Run is resolved from all that was said, in order, and what is wrong with it is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from zoo.config.recipe import Recipe
from zoo.config.resolution import recipe_with, resolve, resolve_test
from zoo.config.run import Run, differences
from zoo.config.settings import parse_setting, parse_settings, read_config
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


@pytest.mark.parametrize(
    "text", ["2024_01", "010", "no", "photos #1", "null", "1e3", '"quoted"', "a: b", "[1", "2024-01-01", "~"]
)
def test_where_a_key_is_text_the_value_is_the_text(text: str) -> None:
    run = resolve(REGISTRY, "mlp", {}, [{"data": {"name": "folder"}}, parse_setting(f"data.root={text}")])
    assert run.data["root"] == text
    tagged = resolve(REGISTRY, "mlp", {}, [parse_setting("wandb.tags=[010, no, '[']"), parse_setting(f"recipe.weights={text}")])
    assert tagged.wandb.tags == ("010", "no", "[") and tagged.recipe.weights == text


def test_two_places_of_the_same_data_are_refused() -> None:
    for name, text in (("photos/", "data.root=other"), ("a.csv", "data.path=b.csv")):
        for settings in ([{"data": {"name": name}}, parse_setting(text)], [parse_setting(text), {"data": {"name": name}}]):
            with pytest.raises(UserError, match=f"^{text}: the data is {name}: omit one of the two$"):
                resolve(REGISTRY, "mlp", {}, settings)
    run = resolve(REGISTRY, "mlp", {}, [{"data": {"name": "a.csv"}}, parse_setting("data.root=other")])
    assert (run.data["path"], run.data["root"]) == ("a.csv", "other")


def test_a_value_is_interpreted_by_the_type_of_its_key() -> None:
    texts = ("wandb.project=2024_01", "wandb.entity=null", "recipe.precision=16", "recipe.gradient_clip_val=null",
             "recipe.milestones=[0.3, 6e-1]", "recipe.compile=yes", "trainer.devices=[0, 1]", "data.validation=2/5")  # fmt: skip
    run = resolve(REGISTRY, "mlp", {}, [parse_setting(text) for text in texts])
    assert (run.wandb.project, run.wandb.entity, run.recipe.precision) == ("2024_01", None, "16")
    assert (run.recipe.gradient_clip_val, run.recipe.milestones, run.recipe.compile) == (None, (0.3, 0.6), True)
    assert run.trainer.devices == [0, 1] and run.data["validation"] == "2/5"
    assert resolve(REGISTRY, "mlp", {}, [parse_setting("trainer.devices=auto")]).trainer.devices == "auto"
    assert resolve(REGISTRY, "mlp", {}, parse_settings({"recipe.lr": 0.5, "trainer.devices": "2"})).recipe.lr == 0.5
    library = resolve(REGISTRY, "timm", {}, [parse_setting("model.network=010"), parse_setting("model.drop_rate=0.1")])
    assert library.model["network"] == "010" and library.model["network_args"] == {"drop_rate": 0.1}


def test_the_options_of_a_plugin_are_text_where_they_say_so_in_any_way(tmp_path: Path) -> None:
    path = tmp_path / "texts.py"
    path.write_text(
        "from zoo import register_data\n"
        "@register_data('own', task='classification')\n"
        "class Own:\n    'Own.'\n"
        "    def __init__(self, batch_size, seed, a: Path, b: Optional[str] = None, c='', d: os.PathLike = '',\n"
        "                 e: Union[int, str] = 0, f=0): ...\n"
    )
    texts = [parse_setting(f"data.{key}=010") for key in "abcdef"]
    data = resolve(scan([str(path)]), "softmax", {}, [{"data": {"name": "own"}}, *texts]).options("data")
    assert data == {**dict.fromkeys("abcd", "010"), "e": 8, "f": 8}


def test_the_model_may_be_named_in_a_setting() -> None:
    assert resolve(REGISTRY, None, {}, [parse_setting("model.name=softmax")]).model["name"] == "softmax"


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


def test_a_weight_decay_is_left_behind_with_its_optimizer() -> None:
    def decay(*texts: str, **config: object) -> float:
        settings = [parse_setting(text) for text in texts]
        return resolve(REGISTRY, "mlp", {"recipe": config} if config else {}, settings).recipe.weight_decay

    assert decay() == decay("recipe.optimizer=adamw") == decay("recipe.lr=0.1") == 0.3, "the model's own"
    assert decay("recipe.optimizer=sgd") == decay("recipe.optimizer=adam") == decay(optimizer="sgd") == 0
    assert decay("recipe.optimizer=sgd", "recipe.weight_decay=1e-4") == decay("recipe.optimizer=sgd", weight_decay=0) + 1e-4
    assert decay("recipe.weight_decay=1e-4", "recipe.optimizer=sgd") == decay(optimizer="sgd", weight_decay=1e-4) == 1e-4
    assert decay("recipe.optimizer=rmsprop", optimizer="sgd", weight_decay=1e-4) == 0, "which is sgd's"
    assert recipe_with(REGISTRY.model("mlp"), {"optimizer": "sgd"}).weight_decay == 0


def test_former_names_of_options_are_known() -> None:
    for name, former, present in (("char-lstm", "data.chunk", "seq_len"), ("vit", "model.width", "embed_dim")):
        with pytest.raises(UserError, match=f"did you mean '{present}'"):
            resolve(REGISTRY, name, {}, [parse_setting(f"{former}=8")])


def test_a_decay_asks_for_its_average() -> None:
    def averages(*texts: str) -> tuple[str | None, float]:
        recipe = resolve(REGISTRY, "mlp", {}, [parse_setting(f"recipe.{text}") for text in texts]).recipe
        return recipe.average, recipe.decay_of_average

    assert averages() == averages("average=none") == averages("average=null") == (None, 0.999)
    assert averages("ema_decay=0.9") == averages("average=ema", "ema_decay=0.9") == ("ema", 0.9)
    assert averages("average=none", "ema_decay=0.9", "ema_decay=null") == (None, 0.999)
    assert averages("average=ema") == ("ema", 0.999) and averages("average=swa")[0] == "swa"
    lengths = ({"epochs": 1}, {"epochs": 20}, {"epochs": 100, "swa_start": 0.29}, {"epochs": 3, "swa_start": 0})
    assert [Recipe(average="swa", **length).first_averaged_epoch for length in lengths] == [0, 15, 29, 0]


def test_a_loss_is_for_a_task() -> None:
    recipe = resolve(REGISTRY, "svm", {}, [parse_setting("recipe.loss_args.margin=2")]).recipe
    assert (recipe.loss, recipe.loss_args) == ("hinge", {"margin": 2.0})
    with pytest.raises(UserError, match="recipe.loss=hinge: is for classification, and adding-problem for sequence-memory"):
        resolve(REGISTRY, "lstm", {}, [parse_setting("recipe.loss=hinge")])


def test_a_recipe_of_fine_tuning_says_nothing_of_the_loss_of_another_task() -> None:
    smoothed = {"label_smoothing": 0.1, "epochs": 3}
    on = {data: resolve(scan(), "mlp", {}, [{"data": {"name": data}}], smoothed).recipe for data in ("digits", "shapes-numbers")}
    assert (on["digits"].label_smoothing, on["shapes-numbers"].label_smoothing) == (0.1, 0.0)
    assert on["shapes-numbers"].epochs == 3


def test_off_is_a_mode_although_yaml_reads_it_as_false() -> None:
    assert resolve(REGISTRY, "mlp", {}, [parse_setting("wandb.mode=off")]).wandb.mode == "off"


def test_the_default_data_comes_with_its_options_and_other_data_without() -> None:
    expected = {"name": "digits", "size": 32, "augment": "standard", "validation": 0.1, "sampling": "natural"}
    assert resolve(REGISTRY, "vgg11", {}, []).data == expected
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
        (["recipe.optimizer=adamWR"], ["no optimizer 'adamWR': did you mean"]),
        (["recipe.optimizer=lbfgs", "recipe.optimizer_args.line_search_fn=wolfe"], ["line_search_fn=wolfe", "'strong_wolfe'"]),
        (["recipe.average=sma"], ["recipe.average=sma", "did you mean 'swa'?"]),
        (["recipe.average=swa", "recipe.ema_decay=0.9"], ["recipe.ema_decay=0.9 is for average=ema", "ema_decay=null"]),
        (["recipe.ema_decay=0.9", "recipe.average=none"], ["recipe.ema_decay=0.9 is for average=ema", "ema_decay=null"]),
        (["recipe.optimizer=adam", "recipe.optimizer_args.betas=[0.9]"], ["betas=[0.9]: too few values", "[0.9, 0.999]"]),
        (["recipe.optimizer=adam", "recipe.optimizer_args.betas=0.9"], ["betas=0.9", "as in", "=[0.9, 0.999]"]),
        (["model.lr=0.1"], ["no option of resnet20 'lr': write recipe.lr"]),
        (["recipe.width=8"], ["no recipe key 'width': write model.width"]),
        (["data.batch_size=8"], ["no option of digits 'batch_size': write recipe.batch_size"]),
        (["trainer.optimizer_args.momentum=0.5"], ["no trainer key 'optimizer_args': write recipe.optimizer_args"]),
        (["recipe.swa_start=1"], ["recipe.swa_start=1", "less than 1"]),
        (["recipe.loss=bce"], ["recipe.loss=bce: is for multilabel", "bce-one-vs-all"]),
        (["recipe.loss=hing"], ["no loss 'hing': did you mean 'hinge'?"]),
        (["recipe.loss_args.margin=2"], ["recipe.loss_args: name the loss, too", "hinge"]),
        (["wandb.tags=first"], ["wandb.tags=first", "as in wandb.tags=[first]"]),
        (["recipe.loss=hinge", "recipe.loss_args.margn=2"], ["no option of hinge 'margn': did you mean 'margin'?"]),
        (["data.augment=crop:4,hflp"], ["no augmentation 'hflp': did you mean", "'hflip'"]),
        (["data.augment=crop:0"], ["augmentation 'crop:0': the argument must be a positive int, as in crop:4"]),
        (["model.dept=3"], ["no option of resnet20 'dept'", "'depth'"]),
        (["model.depth=deep"], ["model.depth=deep", "integer"]),
        (["data.augmnt=x"], ["no option of digits 'augmnt'", "'augment'"]),
        (["trainer.device=2"], ["no trainer key 'device'", "'devices'"]),
        (["wandb.mode=onlin"], ["wandb.mode=onlin"]),
        (["wandb.project=team/flowers"], ["wandb.project=team/flowers", "no '/' is allowed"]),
        (["wandb.layers=[conv*]"], ["wandb.layers", "need wandb.inside=full"]),
        (["recipes.lr=1"], ["no section 'recipes'", "'recipe'"]),
        (["lr=1"], ["name its section, too: --set recipe.lr=1"]),
        (["size=1"], ["section.key=value"]),
        (["recipe.lr"], ["section.key=value"]),
        (["data.name=nothing"], ["no data set 'nothing'"]),
        (["data.name=3"], ["no data set '3'"]),
        (["model.name=mlp"], ["model.name=mlp", "the model is 'resnet20'"]),
        (["recipe.lr=2001-99-99"], ["recipe.lr=2001-99-99", "number"]),
        (["recipe.lr=0x_"], ["recipe.lr=0x_", "not YAML"]),
        (["recipe.lr=!!int abc"], ["recipe.lr=!!int abc", "not YAML"]),
        (["recipe.lr=1:" + "59:" * 300 + "1.5"], ["recipe.lr=1:59", "not YAML"]),
        (["recipe.lr=" + "9" * 5000], ["recipe.lr=999", "4300 digits"]),
        (["recipe.lr=" + "9" * 4000], ["recipe.lr=999", "number"]),
        (["recipe.epochs=" + "9" * 30], ["recipe.epochs=999", "too large"]),
        (["model.activation=" + "[" * 3000], ["model.activation=[[[", "should be"]),
        (["recipe.milestones=" + "[" * 3000], ["recipe.milestones=[[[", "deeper than 20 levels"]),
        (["recipe.milestones=[" + "0.1," * 50_000], ["recipe.milestones=[0.1", "characters are more than"]),
        (["recipe.milestones=[&a [1, 1], *a, *a]"], ["recipe.milestones=[&a", "an alias is not allowed"]),
        (["recipe.optimizer_args={momentum: 1, momentum: 2}"], ["the key momentum is repeated"]),
        (["recipe.optimizer_args={1: 2}"], ["the key 1 is no text"]),
        (["recipe.lr=true"], ["recipe.lr=true", "a truth value is no number"]),
        (["recipe.milestones=[true]"], ["recipe.milestones=[true]", "a truth value is no number"]),
        (["recipe.optimizer_args.momentum=true"], ["momentum=true", "a truth value is no number"]),
        (["trainer.limit_train_batches=true"], ["limit_train_batches=true", "a truth value is no number"]),
        (["model.dropout=.nan"], ["model.dropout=nan", "finite"]),
        (["recipe.weights=M\udce4dchen"], ["recipe.weights=M", "not UTF-8"]),
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
        ("model: mlp", "model must hold keys and values, not 'mlp': the name is model.name"),
        ("data: digits", "data must hold keys"),
        ("recipe: 0", "recipe must hold keys"),
        ("recipe: {1: 2}", "the key 1 is no text"),
        ("recipe: {lr: 1, lr: 2}", "the key lr is repeated"),
        ("recipe: {lr: true}", "a truth value is no number"),
        ("data: {name: 3}", "data.name=3: must be a name"),
        ("model: {name: [mlp]}", "must be a name"),
        ("plugins: 5", "plugins must be a list"),
        ("a: &a [1, 1]\nb: *a", "an alias is not allowed here"),
        ("recipe: {lr: 2001-99-99}", "recipe.lr=2001-99-99: .*number"),
        ("[" * 3000, "deeper than 20 levels"),
        ("recipe: {lr: !!int abc}", "not YAML"),
        ("# " + "x" * 100_000, "characters are more than"),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        resolve(REGISTRY, "mlp", read_config(path), [])


def test_a_configuration_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=f"--config {path}: is {kind}, not a regular file"):
            read_config(path)


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
    [
        ("int", int),
        ("int | None", int | None),
        ("list[int]", list[int]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("Optional[int]", int | None),
        ("Union[int, str]", int | str),
        ("Path", str),
    ],
)
def test_annotations_are_read_without_evaluating_them(text: str, type_: type) -> None:
    assert parse_annotation(text) == type_


def test_an_annotation_that_is_code_is_not_run() -> None:
    parse_annotation("__import__('os').mkdir('made')")
    assert not Path("made").exists()


def test_data_of_your_own_are_named_with_their_path() -> None:
    titles = [resolve(REGISTRY, "softmax", {}, [{"data": data}]).data_title for data in (
        {"name": "digits"}, {"name": "folder", "root": "photos"}, {"name": "hf", "path": "zoo/cats", "root": "elsewhere"},
    )]  # fmt: skip
    assert titles == ["digits", "folder (photos)", "hf (zoo/cats)"]
