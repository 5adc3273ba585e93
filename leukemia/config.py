"""Compose a configuration, resolve it once into plain settings, and build the parts that it names.

From `resolve` on no configuration is passed on: parts are built from settings and handed down as objects.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leukemia.errors import InputError
from leukemia.evaluation.metrics import direction, monitored_names
from leukemia.identity import flatten, slug
from leukemia.models.targets import TARGET, check_settings, did_you_mean, locate, plain_settings
from leukemia.precision import resolve_precision

if TYPE_CHECKING:
    from leukemia.data.datamodule import CellDataModule
    from leukemia.models.classifier import CellClassifier

Settings = dict[str, Any]
ROOT_KEYS = (
    "seed", "name", "monitor", "mode", "resume", "compile", "cache", "data", "model", "trainer", "callbacks", "logger",
)  # fmt: skip
PARTS = ("net", "criterion", "optimizer", "scheduler")  # of the model
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
GIVEN_BY_GROUPS = {
    "callbacks": "use the group callbacks, as +callbacks.mine._target_=PACKAGE.CLASS",
    "logger": "use the group logger, as logger=csv or +logger.mine._target_=PACKAGE.CLASS",
    "plugins": "checkpoints and clusters need the project's own",
    "default_root_dir": "the run folder is hydra.run.dir=DIR",
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
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            return hydra_compose("train", with_appended(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(explain(error)) from None


def with_appended(overrides: Sequence[str]) -> list[str]:
    """The overrides, with each argument of Lightning's Trainer accepted without `+`.

    Raises:
        InputError: for an argument that a group gives.
    """
    found = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        name = key.removeprefix("trainer.").partition(".")[0]
        if key.startswith("trainer.") and name in GIVEN_BY_GROUPS:
            raise InputError(f"{key} is not a setting of its own: {GIVEN_BY_GROUPS[name]}")
        appended = key.startswith("trainer.") and name in TRAINER_ARGUMENTS and override[0] not in "+~"
        found.append(f"++{override}" if appended else override)
    return found


def resolve(config: DictConfig, stored: Mapping[str, Any] | None = None) -> Settings:
    """The plain settings of a run: paths absolute, each hardware `auto` replaced by what this machine offers.

    Every key, number and target is checked here; nothing is built and no picture is read.

    Args:
        config: as composed.
        stored: the settings of a run that may go on; `auto` then stands for what that run chose.

    Raises:
        InputError: for a setting that cannot be; the message names it and the near names.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(explain(error)) from None
    assert isinstance(settings, dict)
    settings = {str(key): value for key, value in settings.items()}
    _check_keys(settings)
    _check_numbers(settings)
    _check_parts(settings)
    _make_absolute(settings)
    for group, key in (("trainer", "precision"), ("data", "cache_features")):
        if settings[group][key] == "auto":
            settings[group][key] = (stored or {}).get(group, {}).get(key, "auto")
    _choose_hardware(settings["trainer"])
    return settings


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
    model = settings["model"]
    net = build(model["net"], "model.net")
    if getattr(net, "node", None) is None:
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
    found = _checked_target(node, key)
    settings = plain_settings(node, key)
    name = f"{key} ({node[TARGET]})"
    try:
        return found(**{**arguments, **settings})
    except (InputError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"{name} needs the package {error.name}: pip install {error.name}") from None
    except Exception as error:  # of a constructor that may be a user's own
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} refuses its settings: {text}") from error


def asks_for_several_devices(settings: Settings) -> bool:
    """Whether a run would start several processes."""
    devices = settings["trainer"]["devices"]
    if isinstance(devices, str):  # as Lightning reads it: a list of indices, or one index
        several = len([index for index in devices.split(",") if index.strip()]) > 1 or devices.strip() == "-1"
    else:
        several = devices not in (0, 1) if isinstance(devices, int) else len(devices) > 1
    return several or settings["trainer"]["num_nodes"] > 1


def explain(error: Exception) -> str:
    """Hydra's message on one line, with the nearest names where an override names an unknown setting."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        reason = text.partition(" See ")[0]
        return f"{error.override} cannot be read as an override ({reason}); quote it, as 'KEY=\"VALUE\"'"
    if missing := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{missing[1]} is not given: set {missing[1]}=VALUE"
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return text
    key = found.group(1).lstrip("+~")
    settings = _default_settings()
    if key in settings or any(name.startswith(f"{key}.") for name in settings):
        return text
    if key.startswith("trainer."):
        settings |= {f"trainer.{name}": None for name in TRAINER_ARGUMENTS}
    if key.startswith("model.scheduler."):
        return f"there is no setting {key}: choose a schedule first, as model/scheduler=cosine"
    return f"there is no setting {key}{did_you_mean(key, settings)}"


def kinds() -> dict[str, type]:
    """The class of each part that is built by `_target_` and must be a subclass of it."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger
    from torch.optim import Optimizer

    from leukemia.data.datamodule import CellDataModule
    from leukemia.models.classifier import CellClassifier

    return {
        "data": CellDataModule, "model": CellClassifier, "model.optimizer": Optimizer, "trainer": pl.Trainer,
        "callbacks": pl.Callback, "logger": Logger,
    }  # fmt: skip


def _checked_target(node: Mapping[str, Any], key: str) -> Callable[..., Any]:
    """The class or function of a node, if it is of the kind that belongs there and takes the node's settings."""
    if not isinstance(node, Mapping) or not node.get(TARGET):
        raise InputError(f"{key} has no {TARGET}: name a class or function, or leave {key} out with ~{key}")
    found = locate(node[TARGET], key)
    kind = kinds().get(key) or kinds().get(
        key.partition(".")[0] if key.startswith(("callbacks.", "logger.")) else ""
    )
    if kind is not None and not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(
            f"{key}.{TARGET}={node[TARGET]} is not built: it is not a subclass of {kind.__qualname__}"
        )
    check_settings(found, plain_settings(node, key), key)
    return found


def _part(node: Mapping[str, Any], key: str) -> Any:
    """A part that is called later: a class of parts is built, a function is bound to its settings.

    A criterion function that needs no more arguments than its settings gives the criterion; an optimizer is always
    bound, and so is a scheduler.
    """
    found = _checked_target(node, key)
    settings = plain_settings(node, key)
    if key in ("model.optimizer", "model.scheduler"):
        return partial(found, **settings)
    if isinstance(found, type) or (key == "model.criterion" and _needs(found, settings) == 0):
        part = build(node, key)
    else:
        part = partial(found, **settings) if settings else found
    if not callable(part):
        raise InputError(f"{key} ({node[TARGET]}) gives a {type(part).__name__}, which cannot be called")
    return part


def _needs(function: Callable[..., Any], settings: Mapping[str, Any]) -> int:
    """How many arguments a function needs beside its settings."""
    from inspect import Parameter, signature

    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return sum(
        parameter.default is Parameter.empty
        and parameter.kind not in variable
        and parameter.name not in settings
        for parameter in parameters
    )


def _check_keys(settings: Settings) -> None:
    known = list(ROOT_KEYS)
    for key in settings:
        if key not in known:
            raise InputError(f"there is no setting {key}{did_you_mean(key, [*known, *_default_settings()])}")
    for key in settings["cache"]:
        if key != "max_gb":
            raise InputError(f"there is no setting cache.{key}; did you mean cache.max_gb?")
    for key, remedy in GIVEN_BY_GROUPS.items():
        if key in settings["trainer"]:
            raise InputError(f"trainer.{key} is not a setting of its own: {remedy}")
    for group in ("callbacks", "logger"):
        settings[group] = {
            name: node for name, node in (settings.get(group) or {}).items() if node is not None
        }
        for name, node in settings[group].items():
            if not isinstance(node, Mapping):
                raise InputError(
                    f"{group}.{name}={node} is not a part: use {group}.{name}.{TARGET}=PACKAGE.CLASS"
                )
    for group in ("data", "model", "trainer"):
        if not isinstance(settings.get(group), Mapping):
            raise InputError(f"the group {group} is missing: every run has {group}")


def _check_numbers(settings: Settings) -> None:
    flat = flatten(settings)
    for key, least, most in WHOLE_NUMBERS:
        value = flat.get(key)
        if key in flat and (
            isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most
        ):
            raise InputError(f"{key}={value} is out of range: use a whole number from {least} to {most}")
    precision = str(settings["trainer"].get("precision"))
    if precision not in PRECISIONS:
        raise InputError(
            f"trainer.precision={precision} is not supported: use one of {', '.join(PRECISIONS)}"
        )
    max_gb = settings["cache"]["max_gb"]
    if max_gb is not None and not isinstance(max_gb, int | float):
        raise InputError(f"cache.max_gb={max_gb} is not a number of gigabytes: use a number, or null")
    if settings["monitor"] not in monitored_names():
        raise InputError(
            f"monitor={settings['monitor']} does not exist: use one of {', '.join(monitored_names())}"
        )


def _check_parts(settings: Settings) -> None:
    """Refuse unknown settings and targets of another kind, before anything is built."""
    model, data = settings["model"], settings["data"]
    nodes = {
        "data": {key: value for key, value in data.items() if key != "reader"},
        "model": {key: value for key, value in model.items() if key not in PARTS},
        "data.reader": data.get("reader"),
        **{f"model.{part}": model.get(part) for part in PARTS if part != "scheduler" or model.get(part)},
        "trainer": settings["trainer"],
        **{f"callbacks.{name}": node for name, node in settings["callbacks"].items()},
        **{
            f"logger.{name}": node
            for name, node in settings["logger"].items()
            if name not in ("mlflow", "wandb")
        },
    }
    for key, node in nodes.items():
        _checked_target(node, key)  # type: ignore[arg-type]


def _make_absolute(settings: Settings) -> None:
    """Paths that hold wherever the run folder is read."""
    data, net = settings["data"], settings["model"]["net"]
    if data.get("root") is not None:
        data["root"] = str(Path(str(data["root"])).expanduser().absolute())
    if isinstance(net.get("weights"), str) and (path := Path(net["weights"]).expanduser()).is_file():
        net["weights"] = str(path.absolute())


def _choose_hardware(trainer: Settings) -> None:
    import torch

    cuda = torch.cuda.is_available()
    if trainer["accelerator"] in ("gpu", "cuda") and not cuda:
        raise InputError(
            f"trainer.accelerator={trainer['accelerator']} and this machine shows no CUDA device: "
            "use trainer=cpu, or check the driver with nvidia-smi"
        )
    if trainer["accelerator"] in ("auto", "gpu"):
        trainer["accelerator"] = "cuda" if cuda else "cpu"
    if trainer["devices"] == "auto":
        trainer["devices"] = torch.cuda.device_count() if trainer["accelerator"] == "cuda" else 1
    trainer["precision"] = resolve_precision(str(trainer["precision"]), trainer["accelerator"])


def _default_settings() -> dict[str, Any]:
    config = OmegaConf.to_container(compose(), resolve=False)
    assert isinstance(config, dict)
    return flatten({str(key): value for key, value in config.items()})


def _register(name: str, function: Callable[..., Any]) -> None:
    OmegaConf.register_new_resolver(name, function, replace=True)


_register("leukemia.slug", lambda overrides: slug(list(overrides)))
_register("leukemia.mode", direction)
_register("leukemia.direction", lambda monitor: f"{direction(monitor)}imize")
