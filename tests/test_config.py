from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from snnrun import cli, data, declared, kernels
from snnrun.commands import arguments
from snnrun.config import check, options, paths, schemas, source
from snnrun.config.overrides import overridden
from snnrun.encoders import ENCODERS
from snnrun.errors import UsageError
from snnrun.models import MODELS
from snnrun.rules import RULES
from snnrun.train.engine import Options

GROUPS = options.groups()
# A pair of model and corpus takes its tuned settings by itself: the pairs stand for the group `tuned`, and for their
# models and corpora.
TUNED = [
    (model, corpus)
    for model in GROUPS["model"].options
    for corpus in GROUPS["data"].options
    if f"{model}_{corpus}" in GROUPS["tuned"].options
]
COMPOSED = [
    f"{group}={option}"
    for group, entry in GROUPS.items()
    if group not in ("tuned", "input")
    for option in entry.options
    if option not in {"model": {model for model, _ in TUNED}, "data": {corpus for _, corpus in TUNED}}.get(group, ())
]


@pytest.fixture(autouse=True)
def hydra_is_ready(request: pytest.FixtureRequest) -> Iterator[None]:
    if "run" in request.fixturenames:  # these start Hydra by themselves
        yield
        return
    check.register()
    with initialize_config_module("snnrun.conf", version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("train", list(overrides))


# ---- the files in conf/ ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("choice", COMPOSED)
def test_every_option_composes_by_its_schema_with_a_value_for_each_key(choice: str) -> None:
    group, option = choice.split("=")
    # The default corpus may have tuned settings of another encoder.
    cfg = composed(choice, *(["tuned=none"] if group == "encoder" else []))
    assert not OmegaConf.missing_keys(cfg)
    if group in schemas.SCHEMAS:
        assert OmegaConf.get_type(cfg[group]) is schemas.SCHEMAS[group][option]
    if choice != "hardware=gpu":
        check.check(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "corpus"), TUNED)
def test_every_pair_passes_the_checks_with_its_tuned_settings(model: str, corpus: str) -> None:
    cfg = composed(f"model={model}", f"data={corpus}")
    assert not OmegaConf.missing_keys(cfg)
    assert OmegaConf.get_type(cfg.model) is schemas.SCHEMAS["model"][model]
    assert OmegaConf.get_type(cfg.data) is schemas.SCHEMAS["data"][corpus]
    check.check(cfg)


def test_every_option_says_what_it_is() -> None:
    for group, entry in GROUPS.items():
        assert entry.about, group
        for option, about in entry.options.items():
            assert len(about) > 8, f"{group}={option}"
            assert (options.text(f"{group}/{option}") or "").startswith("# "), f"{group}={option}"


def test_no_file_sets_hydra_s_mode() -> None:
    """The command composes once, since it knows that."""
    files = Path(str(resources.files("snnrun.conf"))).rglob("*.yaml")
    assert not [
        file for file in files if "mode" in ((yaml.safe_load(file.read_text("utf-8")) or {}).get("hydra") or {})
    ]


def test_every_option_has_a_schema() -> None:
    for group, known in schemas.SCHEMAS.items():
        assert set(known) == set(GROUPS[group].options), group


def names(schema: type) -> set[str]:
    return {entry.name for entry in fields(schema)}


@pytest.mark.parametrize(
    ("module", "name", "table"),
    [
        ("rules", "RULES", RULES),
        ("models", "MODELS", MODELS),
        ("encoders", "ENCODERS", ENCODERS),
        ("data", "DATASETS", data.DATASETS),
    ],
)
def test_what_is_read_from_the_source_is_what_the_code_declares(module: str, name: str, table: dict[str, Any]) -> None:
    read = source.table(f"snnrun.{module}", name)
    assert list(read) == list(table)
    for entry, thing in table.items():
        assert read[entry] == declared.options(thing), entry
        assert list(read[entry]) == list(declared.options(thing)), entry
    assert schemas.SHARED.items() <= declared.options(data.load).items()


def test_every_option_s_file_has_every_key_with_the_default_that_the_code_has() -> None:
    """But for what `data.load` has for all corpora: whether files may be downloaded is each corpus's own."""
    for group, known in {"model": RULES | MODELS, "encoder": ENCODERS, "data": data.DATASETS}.items():
        for option, thing in known.items():
            file = yaml.safe_load(options.text(f"{group}/{option}") or "")
            schema = schemas.SCHEMAS[group][option]
            assert {"name", *names(schema)} == set(file) - {"defaults"}, option
            for key, entry in declared.options(thing).items():
                default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
                assert key == "seed" or default in (declared.REQUIRED, file[key]), f"{group}/{option}: {key}"
    train = yaml.safe_load(resources.files("snnrun.conf").joinpath("train.yaml").read_text("utf-8"))["train"]
    assert {key: entry.default for key, entry in declared.options(Options).items()} | {
        "epochs": train["epochs"],
        "lr": "${scaled_lr:0.004,16}",
        "schedule_milestones": (40, 80),
    } == train | {"schedule_milestones": tuple(train["schedule_milestones"])}


def test_the_kernels_that_can_be_chosen_are_those_there_are() -> None:
    choices = next(entry.metadata["choices"] for entry in fields(schemas.Hardware) if entry.name == "kernels")
    assert choices == ("auto", *kernels.NAMES)


def test_the_cpu_kernels_do_not_go_with_a_gpu() -> None:
    with pytest.raises(UsageError, match=r"hardware\.kernels: the cpu kernels need hardware\.device=cpu"):
        check.check(composed("hardware=gpu", "hardware.kernels=cpu"))


@pytest.mark.parametrize(("triton", "remedy"), [(True, "need hardware.device=cuda"), (False, "need Triton")])
def test_the_gpu_kernels_need_triton_and_a_gpu(triton: bool, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: triton or None)
    with pytest.raises(UsageError, match=rf"hardware\.kernels: the gpu kernels {remedy}"):
        check.check(composed("hardware=cpu", "hardware.kernels=gpu"))


def test_the_config_is_in_the_order_of_the_data_flow() -> None:
    flow = ["seed", "outputs", "plugin", "data", "encoder", "model", "train", "checkpoint", "hardware", "tracking"]
    assert list(composed()) == [*flow, "search", "sweep", "tuning"]


def test_stbp_brings_its_encoder_which_the_command_line_overrides() -> None:
    assert composed().encoder.name == "poisson"
    assert composed("model=stbp").encoder.name == "bernoulli"
    assert composed("model=stbp", "encoder=poisson").encoder.name == "poisson"
    assert composed("model=stbp", "tuned=none").encoder.name == "bernoulli"


def test_tuned_settings_give_way_to_the_command_line_and_can_be_left_out() -> None:
    assert composed("data=fashion_mnist").model.v_th == [20.0, 20.0, 15.0]
    assert composed("data=fashion_mnist", "model.v_th=[7]").model.v_th == [7.0]
    assert composed("data=fashion_mnist", "tuned=none").model.v_th == [20.0]


def test_an_experiment_sets_data_encoder_and_model_whatever_the_pair_has_tuned() -> None:
    cfg = composed("experiment=fashion_mnist_strsbp_paper")
    assert (cfg.data.name, cfg.encoder.name, cfg.model.name) == ("fashion_mnist", "poisson", "strsbp")
    assert (cfg.train.batch_size, cfg.train.lr, cfg.train.schedule) == (1, 0.001, "inverse_sqrt_late")
    assert composed("experiment=mnist_stbp_paper").encoder.name == "bernoulli"
    assert composed("experiment=mnist_hm2bp_paper", "train.epochs=3").train.epochs == 3


# ---- plain values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "wanted"), [("5", [5.0]), ("[5]", [5.0]), ("[20,8.5]", [20.0, 8.5])])
def test_thresholds_become_a_list_of_floats(given: str, wanted: list[float]) -> None:
    cfg = composed(f"model.v_th={given}")
    check.check(cfg)
    thresholds = check.plain(cfg)["model"]["v_th"]
    assert thresholds == wanted
    assert all(type(value) is float for value in thresholds)


def test_plain_values_are_resolved_dictionaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEWHERE", "/corpora")
    values = check.plain(composed("data.root=${oc.env:SOMEWHERE}"))
    assert values["data"]["root"] == "/corpora"
    assert type(values["train"]["schedule_milestones"]) is list


# ---- every wrong request is one message -----------------------------------------------------------------------------

WRONG = {
    "sed=1": ["sed: the config has no such key", "seed, outputs, plugin, data", "Did you mean seed?"],
    "epochs=3": ["epochs: ", "Did you mean train.epochs?"],
    "model.tau_mm=3": ["model.tau_mm: model=strsbp has no such key", "tau_m, tau_s", "Did you mean model.tau_m?"],
    "model.slope=none model=stbp": ["model.slope: model=stbp has no such key", "decay", "a key of model=strsbp."],
    "+train.epohcs=3": ["train.epohcs: no such key", "Did you mean epochs?"],
    "+nonsense=3": ["nonsense: no such key", "seed, outputs"],
    "modle=stbp": ["modle: ", "Did you mean model?"],
    "model=strsbq": ["model: there is no 'strsbq'", "stbp, strsbp.", "Did you mean strsbp?"],
    "data=mnits": ["data: there is no 'mnits'", "audio_folder, cifar10, digits, fashion_mnist", "Did you mean mnist?"],
    "tuned=strsbp_mnits": ["tuned: there is no 'strsbp_mnits'", "Did you mean strsbp_mnist?"],
    "tuned=null": ["tuned: 'null' is not an option's name", "none"],
    "experiment=nothing": ["experiment: there is no 'nothing'", "mnist_stbp_paper"],
    "~model": ["model, data, encoder: each must name one option"],
    "~data": ["model, data, encoder: each must name one option"],
    "~encoder": ["model, data, encoder: each must name one option"],
    "hydra/launcher=joblb": ["hydra/launcher: there is no 'joblb'", "basic", "snnrun[sweep]"],
    "train.epochs=abc": ["train.epochs: 'abc' is not allowed. Allowed: a whole number."],
    "train.epochs=2.5": ["train.epochs: 2.5 is not allowed. Allowed: a whole number."],
    "train.epochs=null": ["train.epochs: null is not allowed"],
    "train.epochs.x=1": ["train.epochs: is one value, not a section"],
    "train=3": ["train: is a section", "train.epochs=VALUE"],
    "train.clip_norm=x": ["train.clip_norm: 'x' is not allowed. Allowed: a number or null."],
    "train.schedule_milestones=3": ["a list of whole numbers, such as [40,80]"],
    "data.download=maybe": ["data.download: 'maybe' is not allowed. Allowed: true or false."],
    "train.epochs=0": ["train.epochs: 0 is out of range. Allowed: at least 1."],
    "train.lr=-1": ["train.lr: -1 is out of range. Allowed: greater than 0."],
    "train.lr=nan": ["train.lr: nan is out of range"],
    "encoder.steps=1": ["encoder.steps: 1 is out of range. Allowed: at least 2."],
    "data.validation=1.5": ["data.validation: 1.5 is out of range. Allowed: at least 0 and less than 1."],
    "data.limit=0": ["data.limit: 0 is out of range. Allowed: at least 1."],
    "train.schedule_milestones=[40,0]": ["train.schedule_milestones: 0 is out of range"],
    "train.schedule=cosin": ["train.schedule: 'cosin'", "constant, cosine, inverse_sqrt", "Did you mean cosine?"],
    "model.temperature=4": ["model.temperature: model.loss=count has none", "model.loss=softmax"],
    "train.epochs=10 train.warmup_epochs=11": ["train.warmup_epochs: 11 is more than the 10 of train.epochs"],
    "train.momentum=0.9": ["train.momentum: train.optimizer=adam has none", "sgd or rmsprop"],
    "model.network=400-R40x": ["model.network: ", "'R40x'", "400-R400"],
    "model.v_th=[1,2,3]": ["model.v_th: 3 thresholds for the 2 layers"],
    "model.v_th=[a,b]": ["model.v_th: 'a' is not a number"],
    "model.undesired=35": ["model.undesired: 35 is not less than model.desired"],
    "model=hm2bp model.tau_m=8": ["model.tau_s: 8 equals model.tau_m"],
    "model.name=stbp": ["model.name: 'stbp'", "model=stbp"],
    "hardware.threads=1000000000": ["hardware.threads: 1e+09 is out of range. Allowed: at least 1 and less than 1025."],
    "hardware.processes=0": ["hardware.processes: 0 is out of range. Allowed: at least 1."],
    "hardware.processes=9 train.batch_size=8": ["hardware.processes: 9 processes share every batch", "is 8."],
    "train.lr=[1": ["train.lr: the value '[1' cannot be read"],
    "train.lr": ["train.lr: no value is given. Write train.lr=VALUE."],
    "=3": ["an argument has no key before its '='"],
    "train.lr=1,2": ["train.lr: several values (1,2) make a sweep, which needs -m"],
    "-m --cfg job": ["Only one of --run, --multirun, --cfg"],
    "train.lr=~no_such_user/x": ["train.lr: the value '~no_such_user/x' cannot be read: no home folder has that name"],
    "tracking.experiment='a": ['tracking.experiment: the value "\'a" cannot be read: a quote is not closed'],
    "outputs='~/runs'": ["outputs: '~/runs' would be a folder of this very name", "outputs=$HOME/FOLDER"],
    "outputs=$HOME/runs": ["outputs: '$HOME/runs' would be a folder of this very name"],
    "data.root='a/~/b'": ["data.root: 'a/~/b' would be a folder of this very name"],
    "tracking.uri='sqlite:///~/x.db'": ["tracking.uri: 'sqlite:///~/x.db' would be a folder"],
    "hydra.run.dir='~/x'": ["hydra.run.dir: '~/x' would be a folder of this very name"],
    "~train.clip_norm": ["train.clip_norm: a key cannot be taken out with ~. Set it, such as train.clip_norm=null"],
    "~train.lr": ["train.lr: a key cannot be taken out with ~."],
    "~train.lr=3": ["train.lr: a key cannot be taken out with ~."],
    "+experiment=none": ["experiment: is there already. Write experiment=VALUE, without the +."],
    "+model=stbp": ["model: is there already. Write model=VALUE, without the +."],
    "+seed=3": ["seed: is there already. Write seed=VALUE, without the +."],
    "--cfg hydra --resolve": ["--resolve: Hydra's own settings refer to the run's. Write --cfg all --resolve"],
    "hydra.job.chdir=true": ["hydra.job.chdir: is false. Paths on the command line mean the folder they were typed in"],
    "outputs=${nowhere}": ["outputs: Interpolation key 'nowhere' not found"],
    "--config-dir /nonexistent": ["'/nonexistent' not found"],
    "--config-name nothing": ["Cannot find primary config 'nothing'"],
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `snnrun train` in an empty folder: the exit code and what it wrote to stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(["train", *arguments])
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("request_", WRONG)
def test_a_wrong_request_is_one_message_and_leaves_nothing(request_: str, run: Any, tmp_path: Path) -> None:
    code, message = run(*request_.split(" "))
    assert code == 2
    assert message.startswith("snnrun: ")
    assert message.count("\n") == 1
    for part in WRONG[request_]:
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_absent_is_named_with_the_remedy(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, message = run("hardware=gpu")
    assert code == 2
    assert "hardware" in message
    assert f"{torch.__version__}" in message
    assert "hardware=cpu" in message


def test_fewer_gpus_than_processes_are_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, message = run("hardware.processes=2", "hardware.kernels=reference")
    assert code == 2
    assert "hardware.processes: 2 processes need a GPU each, and PyTorch sees 1" in message


def test_a_misspelt_key_in_a_file_of_the_users_own_is_found_there(run: Any, tmp_path: Path) -> None:
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ntrain:\n  epohcs: 3\n")
    (own / "torn.yaml").write_text("# @package _global_\ntrain: [3\n")
    code, message = run("--config-dir", "own", "experiment=mine")
    assert code == 2
    assert "train.epohcs: " in message
    assert "Did you mean train.epochs?" in message
    assert "experiment/mine.yaml" in message
    code, message = run("--config-dir", "own", "experiment=torn")
    assert code == 2
    assert "torn.yaml, line" in message
    assert message.count("\n") == 1


def test_a_file_of_the_users_own_adds_an_option(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own" / "model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [strsbp, _self_]\ntau_m: 32\n")
    assert cli.main(["train", "--config-dir", "own", "model=mine", "--cfg", "job"]) == 0
    assert "tau_m: 32.0" in capsys.readouterr().out


def test_an_option_without_schema_is_refused(run: Any, tmp_path: Path) -> None:
    own = tmp_path / "own" / "model"
    own.mkdir(parents=True)
    (own / "loose.yaml").write_text("name: strsbp\ntau_mm: 3\n")
    code, message = run("--config-dir", "own", "model=loose")
    assert code == 2
    assert "model: this option has no schema" in message


def test_a_home_folder_that_no_shell_has_put_in_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/o'neil")
    overrides = arguments.ordered(["data.root=~/corpora", "outputs=~", "--info", "seed=1"])
    assert overrides[:2] == ["--info", "all"]
    cfg = composed(*overrides[2:])
    assert (cfg.data.root, cfg.outputs, cfg.seed) == ("/home/o'neil/corpora", "/home/o'neil", 1)
    assert paths.at_home("data.root=~/a,~/b") == "data.root='/home/o\\'neil/a','/home/o\\'neil/b'"
    assert paths.folder("~/runs") == Path("/home/o'neil/runs")
    assert paths.folder("~no_such_user/runs") == Path("~no_such_user/runs")
    values = overridden(check.plain(cfg), ["data.root=~/other"])
    assert values["data"]["root"] == "/home/o'neil/other"
    with pytest.raises(UsageError, match=r"data\.root: 'a/~/b' would be a folder of this very name"):
        overridden(check.plain(cfg), ["data.root=a/~/b"])


def test_a_schema_is_the_same_class_in_the_processes_of_a_launcher() -> None:
    """They get it pickled, and compare what they get with the schemas of their own."""
    for kinds in schemas.SCHEMAS.values():
        assert [kind.__name__ for kind in kinds.values() if pickle.loads(pickle.dumps(kind)) is not kind] == []
