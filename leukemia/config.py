"""Where the configuration lies, and the two ways to use it: compose it, and build what it names."""

import difflib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra.utils
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from leukemia.errors import InputError
from leukemia.identity import flatten, slug

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
WHOLE_NUMBERS = (  # key, least, most
    ("seed", 0, 2**32 - 1),
    ("data.split_seed", 0, 2**32 - 1),
    ("trainer.max_epochs", 1, 100_000),
    ("trainer.log_every_n_steps", 0, 1_000_000),
    ("trainer.num_nodes", 1, 10_000),
    ("callbacks.early_stopping.patience", 0, 100_000),
)
ALLOWED = ("leukemia.", "pytorch_lightning.", "torch.")


def conf_dir() -> str:
    """The folder of the YAML files: `conf` at the root of a source checkout, else inside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return str(checkout if (checkout / "train.yaml").is_file() else package / "conf")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a run, composed as the command line does; for notebooks.

    Raises:
        InputError: for an override that does not fit.
    """
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            return hydra_compose("train", overrides=list(overrides))
    except hydra.errors.HydraException as error:
        raise InputError(explain(error)) from None


def build(config: DictConfig, **arguments: Any) -> Any:
    """The object that a node's `_target_` names, made of the node's values and the arguments.

    Only classes of this package, Lightning and torch are built, and only with arguments that they have.

    Raises:
        InputError: for another target, an unknown argument, or a value that the constructor refuses.
    """
    target = str(config.get("_target_", ""))
    constructor = _allowed_class(target)
    known = inspect.signature(constructor).parameters
    for key in map(str, config):
        if key != "_target_" and (key.startswith("_") or (key not in known and "kwargs" not in known)):
            raise InputError(f"{target} has no setting {key}{_did_you_mean(key, list(known))}")
    try:
        return hydra.utils.instantiate(config, **arguments, _convert_="all", _recursive_=False)
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise cause from None
        if (
            isinstance(cause, ValueError | TypeError | AttributeError)
            or type(cause).__name__ == "MisconfigurationException"
        ):
            raise InputError(f"{target} refuses its settings: {cause}") from cause
        raise


def absolute_paths(config: DictConfig) -> DictConfig:
    """A copy whose paths hold wherever the run folder is read."""
    config = config.copy()
    if config.data.root is not None:
        config.data.root = str(Path(str(config.data.root)).expanduser().absolute())
    if config.model.net.weights not in ("imagenet", "none"):
        config.model.net.weights = str(Path(str(config.model.net.weights)).expanduser().absolute())
    return config


def resolve_auto(config: DictConfig) -> DictConfig:
    """A copy with every hardware `auto` replaced by what this machine offers.

    Raises:
        InputError: for a GPU that is not there, a monitored figure that does not exist, or a number out of range.
    """
    import torch

    from leukemia.models.classifier import metric_names
    from leukemia.precision import resolve_precision

    config = config.copy()
    for key, least, most in WHOLE_NUMBERS:
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"{key}={value} is out of range: use a whole number from {least} to {most}")
    if str(config.trainer.precision) not in PRECISIONS:
        raise InputError(
            f"trainer.precision={config.trainer.precision} is not supported: use one of {', '.join(PRECISIONS)}"
        )
    if config.cache.max_gb is not None and not isinstance(config.cache.max_gb, int | float):
        raise InputError(
            f"cache.max_gb={config.cache.max_gb} is no number of gigabytes: use a number, or null"
        )
    trainer, monitor = config.trainer, config.callbacks.early_stopping.monitor
    if monitor not in metric_names("val"):
        raise InputError(f"monitor={monitor} does not exist: use one of {', '.join(metric_names('val'))}")
    cuda = torch.cuda.is_available()
    if trainer.accelerator in ("gpu", "cuda") and not cuda:
        raise InputError(
            f"trainer.accelerator={trainer.accelerator} and this machine shows no CUDA device: "
            "use trainer=cpu, or check the driver with nvidia-smi"
        )
    if trainer.accelerator in ("auto", "gpu"):
        trainer.accelerator = "cuda" if cuda else "cpu"
    if trainer.devices == "auto":
        trainer.devices = torch.cuda.device_count() if trainer.accelerator == "cuda" else 1
    trainer.precision = resolve_precision(str(trainer.precision), trainer.accelerator)
    return config


def asks_for_several_devices(config: DictConfig) -> bool:
    """Whether a run would start several processes."""
    trainer = resolve_auto(config).trainer
    devices = trainer.devices
    if isinstance(devices, str):  # as Lightning reads it: a list of indices, or one index
        several = len([index for index in devices.split(",") if index.strip()]) > 1 or devices.strip() == "-1"
    else:
        several = devices not in (0, 1) if isinstance(devices, int) else len(devices) > 1
    return several or trainer.num_nodes > 1


def explain(error: Exception) -> str:
    """Hydra's message on one line, with the nearest names where an override names what is not there."""
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        reason = text.partition(" See ")[0]
        return f"{error.override} cannot be read as an override ({reason}); quote it, as 'KEY=\"VALUE\"'"
    found = re.search(r"Could not override '([^']+)'", text)
    if not found:
        return text
    key = found.group(1).lstrip("+~")
    settings = flatten(OmegaConf.to_container(compose(), resolve=False))  # type: ignore[arg-type]
    if key in settings or any(name.startswith(f"{key}.") for name in settings):
        return text
    return f"there is no setting {key}{_did_you_mean(key, list(settings))}"


def monitor_mode(monitor: str) -> str:
    """Whether a monitored figure is better when small or when large."""
    return "min" if monitor.endswith("loss") else "max"


def _allowed_class(target: str) -> type:
    """The class of that name, if it is a part of a run and defined, not merely reachable, where those come from.

    Raises:
        InputError: for anything else. Nothing outside of these packages is imported to find out, and of what lies in
            them a good deal would start processes or run what it is given.
    """
    refusal = (
        f"_target_={target} is not built: only modules, data modules, callbacks, loggers and the trainer of "
        f"{', '.join(name + '*' for name in ALLOWED)} are"
    )
    if not target.startswith(ALLOWED) or not all(part.isidentifier() for part in target.split(".")):
        raise InputError(refusal)
    try:
        found = hydra.utils.get_class(target)
    except Exception:  # a module of theirs that cannot be imported here raises what it likes
        raise InputError(refusal) from None
    if not f"{found.__module__}.".startswith(ALLOWED) or not issubclass(found, _parts_of_a_run()):
        raise InputError(refusal)
    return found


def _parts_of_a_run() -> tuple[type, ...]:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger
    from torch import nn

    return nn.Module, pl.LightningDataModule, pl.Callback, Logger, pl.Trainer


def _did_you_mean(name: str, known: list[str]) -> str:
    by_last = {key.rpartition(".")[2]: key for key in known}
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    near += [by_last[key] for key in difflib.get_close_matches(name.rpartition(".")[2], list(by_last), n=2)]
    unique = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(unique)}?" if unique else ""


OmegaConf.register_new_resolver("leukemia.slug", lambda overrides: slug(list(overrides)), replace=True)
OmegaConf.register_new_resolver("leukemia.monitor_mode", monitor_mode, replace=True)
OmegaConf.register_new_resolver(
    "leukemia.direction", lambda monitor: f"{monitor_mode(monitor)}imize", replace=True
)
