"""Compose a configuration, resolve it once into plain settings, and build the parts that it names.

From `resolve` on no configuration is passed on: parts are built from settings and handed down as objects.
PyTorch is imported where a part is looked at, so that a mistyped setting is answered without it.
"""

import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leukemia.errors import InputError, is_number, is_whole
from leukemia.evaluation.metrics import direction, monitored_names
from leukemia.identity import flatten, number_of_devices, slug
from leukemia.models.targets import (
    FAMILIES,
    NAMED,
    TARGET,
    check_names,
    check_settings,
    did_you_mean,
    locate,
    parameters_of,
    plain_settings,
)
from leukemia.storage.contents import content_hashes

if TYPE_CHECKING:
    from leukemia.data.datamodule import CellDataModule
    from leukemia.models.classifier import CellClassifier

Settings = dict[str, Any]
ON_HYDRA_13 = hydra.__version__.startswith("1.3.")
# Hydra 1.4 has one behaviour and warns of a version.
VERSION_BASE: Settings = {"version_base": "1.3"} if ON_HYDRA_13 else {}
ROOT_KEYS = (
    "seed", "name", "monitor", "mode", "resume", "compile", "cache", "data", "model", "trainer", "callbacks", "logger",
)  # fmt: skip
TRAINER_DEFAULTS = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "precision": "auto"}
PARTS = ("net", "criterion", "optimizer", "scheduler")  # of the model
KINDS = {  # of parts by `_target_`: subclasses only
    "data": "leukemia.data.datamodule.CellDataModule",
    "model": "leukemia.models.classifier.CellClassifier",
    "model.optimizer": "torch.optim.Optimizer",
    "trainer": "pytorch_lightning.Trainer",
    "callbacks": "pytorch_lightning.Callback",
    "logger": "pytorch_lightning.loggers.Logger",
}
GROUPS = {f"model.{part}": f"model/{part}" for part in PARTS}
LARGEST_FILE = 2**40  # bytes of weights
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
WHOLE_NUMBERS = (  # key, least, most
    ("seed", 0, 2**32 - 1),
    ("data.split_seed", 0, 2**32 - 1),
    ("trainer.max_epochs", 1, 100_000),
    ("trainer.log_every_n_steps", 0, 1_000_000),
    ("trainer.num_nodes", 1, 10_000),
    ("callbacks.early_stopping.patience", 0, 100_000),
)
TRAINER_ARGUMENTS = (  # of Lightning's Trainer, stored so that a mistyped one is found without importing it
    "accelerator", "strategy", "devices", "num_nodes", "precision", "fast_dev_run", "max_epochs", "min_epochs",
    "max_steps", "min_steps", "max_time", "limit_train_batches", "limit_val_batches", "limit_test_batches",
    "limit_predict_batches", "overfit_batches", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing", "enable_progress_bar",
    "enable_model_summary", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "deterministic", "benchmark", "inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly",
    "barebones", "sync_batchnorm", "reload_dataloaders_every_n_epochs", "enable_autolog_hparams", "model_registry",
)  # fmt: skip
GIVEN_ELSEWHERE = {  # settings that a constructor takes and code gives it
    "trainer.callbacks": "use the group callbacks, as +callbacks.mine._target_=PACKAGE.CLASS",
    "trainer.logger": "use the group logger, as logger=csv or +logger.mine._target_=PACKAGE.CLASS",
    "trainer.plugins": "checkpoints and clusters need the project's own",
    "trainer.default_root_dir": "the run folder is hydra.run.dir=DIR",
    "data.seed": "use seed",
    "data.max_gb": "use cache.max_gb",
    "model.classes": "the reader names the classes",
}


def conf_dir() -> str:
    """The folder of the YAML files: `conf` at the root of a source checkout, else inside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


def compose(overrides: Sequence[str] = (), with_hydra: bool = False) -> DictConfig:
    """The configuration of a run, composed as the command line does; for notebooks.

    Args:
        overrides: as on the command line.
        with_hydra: keep Hydra's own settings in it, as the folder of the run.

    Raises:
        InputError: for an override that does not fit.
    """
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None  # of a job that composes another configuration
    try:
        with clear_about_overrides(), initialize_config_dir(conf_dir(), **VERSION_BASE):
            return hydra_compose("train", with_appended(overrides), return_hydra_config=with_hydra)
    finally:
        hydra.hydra = running


@contextmanager
def clear_about_overrides() -> Iterator[None]:
    """Turn Hydra's errors while it composes into an InputError of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error)) from None
    except ValueError as error:
        if not str(error).startswith("Config group override"):
            raise  # else Hydra's own, of a group that is set to null or a number
        raise InputError(
            "a group takes the name of a YAML file; leave it out with ~GROUP, as ~logger"
        ) from None


def with_appended(overrides: Sequence[str]) -> list[str]:
    """The overrides, with each argument of Lightning's Trainer accepted without `+`.

    Raises:
        InputError: for an argument that a group gives, a group that is added although it is chosen, or a setting that
            Hydra does not have.
    """
    found = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        # Hydra leaves out a file of a group that is added beside another.
        if override.startswith("+") and (Path(conf_dir()) / key).is_dir():
            raise InputError(f"{override}: a file of {key} is chosen already; write {override.lstrip('+')}")
        group, name = [*key.split("."), ""][:2]
        if group == "hydra":
            _check_hydra_key(key)
        if remedy := GIVEN_ELSEWHERE.get(f"{group}.{name}"):
            raise InputError(f"{group}.{name} is not a setting of its own: {remedy}")
        appended = group == "trainer" and name in TRAINER_ARGUMENTS and not override.startswith("~")
        found.append(f"++{override.lstrip('+')}" if appended else override)
    return found


def _check_hydra_key(key: str) -> None:
    """Refuse a key that Hydra would take with `+` and ignore."""
    kind: Any = HydraConf
    for name in key.split(".")[1:]:
        if not is_dataclass(kind):
            return  # a plugin's settings, which its constructor checks
        known = {field.name: field.type for field in fields(kind)}
        if name not in known:
            raise InputError(f"there is no setting {key}{did_you_mean(name, known)}")
        kind = known[name]


def resolve(config: DictConfig, stored: Mapping[str, Any] | None = None) -> Settings:
    """The plain settings of a run: paths absolute, each hardware `auto` replaced by what this machine offers.

    Every key, number and target is checked here; nothing is built and no picture is read.

    Args:
        config: as composed.
        stored: the settings of a run that may go on; `auto` then stands for what that run chose.

    Raises:
        InputError: for a setting that cannot be; the message names it and the near names.
    """
    settings = checked(config)
    _check_parts(settings)
    _make_absolute(settings)
    if files := _files_of(settings["model"]):
        settings["files"] = files
    for group, key in (("trainer", "precision"), ("data", "cache_features")):
        if settings[group][key] == "auto":
            settings[group][key] = ((stored or {}).get(group) or {}).get(key, "auto")
    _choose_hardware(settings["trainer"])
    return settings


def checked(config: DictConfig) -> Settings:
    """The plain settings as they are composed, their keys and numbers checked. PyTorch is not imported.

    Raises:
        InputError: see `resolve`.
    """
    try:
        settings = as_composed(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from None
    _check_keys(settings)
    settings["trainer"] = {**TRAINER_DEFAULTS, **settings["trainer"]}
    _check_values(settings)
    return settings


def as_composed(config: DictConfig, **options: bool) -> Settings:
    """A configuration without Hydra's own settings, as plain values; options of `OmegaConf.to_container`."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain = OmegaConf.to_container(own, **options)  # type: ignore[arg-type]
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def build_data(settings: Settings) -> "CellDataModule":
    """The data module; it reads nothing before it is asked for cells.

    Raises:
        InputError: for values that it refuses.
    """
    data = settings["data"]
    reader = _part(data["reader"], "data.reader")
    given = {key: value for key, value in data.items() if key not in ("reader", "classes", "native_size")}
    return build(given, "data", reader=reader, seed=settings["seed"], max_gb=settings["cache"]["max_gb"])


def build_model(settings: Settings, classes: Sequence[str] = ("HEM", "ALL")) -> "CellClassifier":
    """The network and the LightningModule around it.

    Raises:
        InputError: for values that a part refuses.
    """
    from leukemia.models.network import check_input, check_network

    model = settings["model"]
    net: Any = check_network(build(model["net"], "model.net"))
    check_input(net, settings["data"]["image_size"])
    if model["net"][TARGET] not in FAMILIES:  # a family records a node that needs no weights
        net.node = dict(model["net"])
    criterion = _part(model["criterion"], "model.criterion")
    makers = {key: _part(model[key], f"model.{key}") for key in ("optimizer", "scheduler") if model.get(key)}
    given = {key: value for key, value in model.items() if key not in PARTS}
    return build(given, "model", net=net, criterion=criterion, **makers, classes=list(classes))


def build(node: Mapping[str, Any], key: str, **arguments: Any) -> Any:
    """The object that a node's `_target_` names, made of the node's settings and the arguments.

    Args:
        node: `_target_` and plain settings.
        key: where it stands in the configuration; it decides which classes may be built, see `KINDS`.
        arguments: given by code; the node's own settings go before them.

    Raises:
        InputError: for a target of another kind, an unknown setting, or a value that the constructor refuses.
    """
    found, settings = _checked_target(node, key)
    name = f"{key} ({node[TARGET]})"
    try:
        return found(**{**arguments, **settings})
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of a constructor that may be a user's own
        if isinstance(error, ModuleNotFoundError) and error.name:  # a library may raise it without a name
            raise InputError(f"{name} needs the package {error.name}: pip install {error.name}") from None
        text = " ".join(str(error).split()) or type(error).__name__
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if last.filename == __file__ else f" ({Path(last.filename).name}, line {last.lineno})"
        raise InputError(f"{name} refuses its settings: {type(error).__name__}: {text}{place}") from error


def asks_for_several_devices(settings: Settings) -> bool:
    """Whether a run would start several processes."""
    trainer = settings["trainer"]
    return number_of_devices(trainer["devices"]) != 1 or trainer["num_nodes"] > 1


def explain(error: Exception) -> str:
    """Hydra's message on one line, with the nearest names where an override names an unknown setting."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        reason = text.partition(" See ")[0]
        return f"{error.override} cannot be read as an override ({reason}); quote it, as 'KEY=\"VALUE\"'"
    if refused := re.search(r"InputError raised while resolving interpolation: (.*?)( full_key: |$)", text):
        return refused[1]
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        key = getattr(error, "full_key", None) or missing[1]
        return f"{key} is not given: set {key}=VALUE"
    unknown_file = r"Could not find '([^']+)/([^'/]+)' Available options in '[^']+': (.*?) Config search"
    if missing := re.search(unknown_file, text):
        group, name, known = missing[1], missing[2], missing[3].split()
        return f"there is no {group}={name}: use one of {', '.join(known)}{did_you_mean(name, known)}"
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return text
    key = found.group(1).lstrip("+~")
    settings = _known_settings()
    parts = ("model.net.", "model.criterion.", "model.optimizer.", "callbacks.", "logger.")
    own = f"; a class of your own takes it as +{key}=VALUE" * key.startswith(parts)
    if key.startswith("model.scheduler."):
        return f"there is no setting {key}: choose a schedule first, as model/scheduler=cosine"
    if key in settings or any(name.startswith(f"{key}.") for name in settings):
        return f"the chosen {key.rpartition('.')[0]} has no setting {key}: leave it out{own}"
    near = did_you_mean(key, [name for name in settings if "._" not in name])
    return f"there is no setting {key}{near}{own}"


def kind_of(key: str) -> type | None:
    """The class of which a part at this place must be a subclass; None where functions are taken too."""
    group = key.partition(".")[0]
    name = KINDS.get(group if group in ("callbacks", "logger") else key)
    return None if name is None else locate(name, key)


def _checked_target(node: Mapping[str, Any], key: str) -> tuple[Callable[..., Any], Settings]:
    """The class or function of a node, if it is of the kind that belongs there, and its settings, if it takes them."""
    if not isinstance(node, Mapping) or not node.get(TARGET):
        remedy = (
            f"choose a file of conf/{GROUPS[key]}, as {GROUPS[key]}=own" if key in GROUPS else
            f"name a class or function, or leave {key} out with ~{key}"
        )  # fmt: skip
        raise InputError(f"{key} has no {TARGET}: {remedy}")
    found = locate(node[TARGET], key)
    kind = kind_of(key)
    if kind is not None and not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(
            f"{key}.{TARGET}={node[TARGET]} is not built: it is not a subclass of {kind.__qualname__}"
        )
    settings = plain_settings(node, key)
    check_settings(found, settings, key)
    return found, settings


def _part(node: Mapping[str, Any], key: str) -> Any:
    """A part that is called later: a class of parts is built, a function is bound to its settings.

    A criterion function that needs no more arguments than its settings gives the criterion; an optimizer is always
    bound, and so is a scheduler.
    """
    found, settings = _checked_target(node, key)
    if key in ("model.optimizer", "model.scheduler"):
        return partial(found, **settings)
    if isinstance(found, type) or (key == "model.criterion" and _makes_the_criterion(found, settings)):
        part = build(node, key)
    else:
        part = partial(found, **settings) if settings else found
    if not callable(part):
        raise InputError(f"{key} ({node[TARGET]}) gives a {type(part).__name__}, which cannot be called")
    return part


def _makes_the_criterion(function: Callable[..., Any], settings: Mapping[str, Any]) -> bool:
    """Whether a function needs nothing beside its settings, as one that makes a criterion; else it is the criterion."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):  # a compiled function
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    required = [name for name, parameter in parameters.items() if parameter.default is Parameter.empty]
    return kinds <= {*NAMED, Parameter.VAR_KEYWORD} and not {*required} - {*settings, "kwargs"}


def _check_keys(settings: Settings) -> None:
    """Refuse unknown keys at the root and missing groups, and leave out callbacks and loggers that are null."""
    for key in settings:
        if key not in ROOT_KEYS:
            raise InputError(
                f"there is no setting {key}{did_you_mean(key, [*ROOT_KEYS, *_known_settings()])}"
            )
    for key in ROOT_KEYS:
        if key not in settings and key not in ("callbacks", "logger"):
            raise InputError(f"{key} is missing: every run has {key}")
    for group in ("data", "model", "trainer", "cache"):
        if not isinstance(settings[group], Mapping):
            raise InputError(
                f"{group}={settings[group]} is not a group of settings: leave it out of the command"
            )
    for key in settings["cache"]:
        if key != "max_gb":
            raise InputError(f"there is no setting cache.{key}; did you mean cache.max_gb?")
    for key, remedy in GIVEN_ELSEWHERE.items():
        group, name = key.split(".")
        if name in settings[group]:
            raise InputError(f"{key} is not a setting of its own: {remedy}")
    # Names of our own classes and Lightning's; other classes are asked in `_check_parts`.
    for group in ("data", "model", "trainer"):
        name = str(settings[group].get(TARGET))
        if name == KINDS[group]:
            known = [key.split(".")[1] for key in _known_settings() if key.startswith(f"{group}.")]
            own = {key: value for key, value in settings[group].items() if key not in ("reader", *PARTS)}
            check_names(name, plain_settings(own, group), known, group)
    for group in ("callbacks", "logger"):
        parts = settings.get(group) or {}
        if not isinstance(parts, Mapping) or TARGET in parts:
            raise InputError(f"{group} holds named parts: use +{group}.NAME.{TARGET}=PACKAGE.CLASS")
        settings[group] = {name: node for name, node in parts.items() if node is not None}
    for part in ("net", "criterion", "optimizer"):
        if not settings["model"].get(part):
            raise InputError(
                f"model.{part} is missing: choose one, as model/{part}=own model.{part}.{TARGET}=..."
            )


def _check_values(settings: Settings) -> None:
    flat = flatten(settings)
    for key, least, most in WHOLE_NUMBERS:
        value = flat.get(key)
        if key in flat and not is_whole(value, least, most):
            raise InputError(f"{key}={value} is out of range: use a whole number from {least} to {most}")
    name = settings["name"]
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError(f"name={name} is not the name of a folder: use letters and digits")
    if not isinstance(settings["compile"], bool):
        raise InputError(f"compile={settings['compile']} is unknown: use true or false")
    precision = str(settings["trainer"].get("precision"))
    if precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision={precision} is not supported: use one of {', '.join(PRECISIONS)}"
        )
    max_gb = settings["cache"].setdefault("max_gb", None)
    if max_gb is not None and not (is_number(max_gb) and max_gb >= 0):
        raise InputError(
            f"cache.max_gb={max_gb} is not a number of gigabytes: use a number from 0 up, or null"
        )
    if settings["mode"] != (mode := direction(settings["monitor"])):
        raise InputError(
            f"mode={settings['mode']}: {settings['monitor']} is best at its {mode}; leave mode out"
        )
    for name, node in settings["callbacks"].items():
        _check_callback(f"callbacks.{name}", node, name)


def _check_callback(key: str, node: Any, name: str) -> None:
    """Refuse settings with which best.ckpt would hold another epoch than the best, or would not be written."""
    if not isinstance(node, Mapping):
        return
    monitor = str(node.get("monitor")).replace("train/", "val/")
    if monitor in monitored_names() and node.get("mode", direction(monitor)) != direction(monitor):
        mode = direction(monitor)
        raise InputError(
            f"{key}.mode={node['mode']}: {node['monitor']} is best at its {mode}; set {key}.mode={mode}, or monitor="
            "METRIC for all parts at once"
        )
    fixed = {"filename": name, "save_top_k": 1} if name in ("best", "last") else {}
    for setting, value in fixed.items():
        if node.get(setting, value) != value:
            raise InputError(
                f"{key}.{setting}={node[setting]}: this callback writes checkpoints/{name}.ckpt alone; add another "
                f"as +callbacks.mine._target_=pytorch_lightning.callbacks.ModelCheckpoint"
            )


def _check_parts(settings: Settings) -> None:
    """Refuse unknown settings and targets of another kind, before anything is built."""
    model, data = settings["model"], settings["data"]
    model.setdefault("monitor", settings["monitor"])
    data.setdefault("reader", {TARGET: "leukemia.data.cnmc.cnmc"})
    nodes = {
        "data": {key: value for key, value in data.items() if key != "reader"},
        "model": {key: value for key, value in model.items() if key not in PARTS},
        "data.reader": data.get("reader"),
        **{f"model.{part}": model.get(part) for part in PARTS if part != "scheduler" or model.get(part)},
        "trainer": settings["trainer"],
        **{f"callbacks.{name}": node for name, node in settings["callbacks"].items()},
        **{f"logger.{name}": node for name, node in settings["logger"].items()},
    }
    found = {key: _checked_target(node, key)[0] for key, node in nodes.items()}
    for group in ("data", "model"):  # defaults, for a YAML file of the user's own that does not repeat them
        for name, parameter in parameters_of(found[group]).items():
            given = name in PARTS or f"{group}.{name}" in GIVEN_ELSEWHERE
            if not given and isinstance(parameter.default, str | int | float | None):
                settings[group].setdefault(name, parameter.default)


def _make_absolute(settings: Settings) -> None:
    """Make paths absolute, so that they hold wherever the run folder is read."""
    data, net = settings["data"], settings["model"]["net"]
    if data.get("root") is not None:
        data["root"] = str(Path(str(data["root"])).expanduser().absolute())
    weights = net.get("weights")
    named = weights in ("imagenet", "none")  # whatever file of that name lies here
    if isinstance(weights, str) and not named and (path := Path(weights).expanduser()).is_file():
        net["weights"] = str(path.absolute())


def _files_of(model: Settings) -> dict[str, str]:
    """The hash of each file that a part of the model names by its path, as its weights, by the setting's name."""
    files = {}
    for key, value in flatten(model, "model.").items():
        if isinstance(value, str) and os.sep in value and (path := Path(value).expanduser()).is_file():
            files[key] = content_hashes(path.parent, [path.name], LARGEST_FILE)[0]
    return files


def _choose_hardware(trainer: Settings) -> None:
    import torch

    from leukemia.precision import resolve_precision

    cuda = torch.cuda.is_available()
    if trainer["accelerator"] in ("gpu", "cuda") and not cuda:
        raise InputError(
            f"trainer.accelerator={trainer['accelerator']} and this machine shows no CUDA device: "
            "use trainer=cpu, or check the driver with nvidia-smi"
        )
    if trainer["accelerator"] in ("auto", "gpu"):
        trainer["accelerator"] = "cuda" if cuda else "cpu"
    if trainer["devices"] in ("auto", -1, "-1"):  # a number, so that a later start can compare it
        everything = trainer["devices"] if trainer["devices"] != "auto" else 1
        trainer["devices"] = torch.cuda.device_count() if trainer["accelerator"] == "cuda" else everything
    trainer["precision"] = resolve_precision(str(trainer["precision"]), trainer["accelerator"])


@cache
def _known_settings() -> dict[str, Any]:
    """The default settings by dotted name, and each argument of Lightning's Trainer."""
    trainer = {f"trainer.{name}": None for name in TRAINER_ARGUMENTS}
    return trainer | flatten(as_composed(compose(), resolve=False))


def _register(name: str, function: Callable[..., Any]) -> None:
    register = getattr(OmegaConf, "register_new_resolver" if ON_HYDRA_13 else "register_resolver")
    register(name, function, replace=True)


def as_written(overrides: Any) -> list[str]:
    """Overrides with interpolations as written, so that a run has one name before and after it is composed."""
    if OmegaConf.is_list(overrides):
        overrides = OmegaConf.to_container(overrides, resolve=False)
    return list(map(str, overrides))


# Without annotations, which OmegaConf 2.4 checks.
_register("leukemia.slug", lambda overrides: slug(as_written(overrides)))
_register("leukemia.mode", lambda monitor: direction(monitor))
