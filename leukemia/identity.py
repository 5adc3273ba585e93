"""Which settings make a run another run, and the names of networks and run folders."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukemia.errors import in_a_line

TOLD_FIRST = (  # in a folder's name
    "model/net", "model.net.name", "model.net.depth", "model.trainable_from", "data.protocol", "data.fold", "seed",
)  # fmt: skip
LONGEST = 80  # characters of a folder's name before its hash
NOT_IDENTITY = (  # settings that do not make another run: places, names, hardware, and what only shows or records
    "data.root",
    "data.classes",  # found in the data, whose cells are compared
    "data.native_size",
    "data.max_gb",
    "data.keep_on_gpu",
    "name",
    "resume",
    "compile",
    "cache",
    "logger",
    "debug",
    "trainer",  # the choice of a hardware file
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_autolog_hparams",
    "callbacks.progress",
    "callbacks.learning_rate",
    "hydra",
)
SUFFIXES = tuple(
    f"{key}." for key in ("hydra", "logger", "cache", "callbacks.progress", "callbacks.learning_rate")
)


def is_identity(key: str) -> bool:
    """Whether a setting, by its dotted name, makes a run another one."""
    return key not in NOT_IDENTITY and not key.startswith(("hydra/", *SUFFIXES))


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings in which two configurations describe different runs, as readable lines; `auto` fits any value."""
    before, after = flatten(stored), flatten(wanted)
    keys = [key for key in {**before, **after} if is_identity(key)]
    changed = [key for key in keys if before.get(key) != after.get(key) and after.get(key) != "auto"]
    there, here = _global_batch(stored), _global_batch(wanted)
    batch = [] if there == here else [f"the global batch is {there} there and {here} here"]
    pairs = ([in_a_line(str(part)) for part in (key, before.get(key), after.get(key))] for key in changed)
    return [f"{key} is {there} there and {here} here" for key, there, here in pairs] + batch


def number_of_devices(devices: Any) -> int:
    """The devices of a node that `trainer.devices` asks for; -1 stands for all."""
    if isinstance(devices, str):  # as Lightning reads it: a list of indices, or one index
        devices = -1 if devices.strip() == "-1" else [index for index in devices.split(",") if index.strip()]
    return len(devices) if isinstance(devices, list | tuple) else int(devices or 1)


def flatten(config: Mapping[str, Any], prefix: str = "", whole: Sequence[str] = ()) -> dict[str, Any]:
    """A nested configuration's leaves by dotted name; a mapping that `whole` names is a leaf too."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        inner = isinstance(value, Mapping) and value and name not in whole
        leaves |= flatten(value, f"{name}.", whole) if inner else {name: value}
    return leaves


def _global_batch(config: Mapping[str, Any]) -> str:
    """The cells of one step, in words. With an equal data.batch_size they change with the number of devices."""
    trainer, data = ({**(config.get(group) or {})} for group in ("trainer", "data"))
    devices = number_of_devices(trainer.get("devices")) * int(trainer.get("num_nodes") or 1)
    return f"{devices} x data.batch_size={in_a_line(str(data.get('batch_size')))}"


def network_name(node: Any) -> str:
    """A network's name by its node: its `name`, else its depth for a ResNet, else the last part of its `_target_`."""
    node = node if isinstance(node, Mapping) else {}
    target = str(node.get("_target_") or "network")
    if node.get("name"):
        return str(node["name"])
    if node.get("depth") and target.endswith("resnet.resnet"):
        return f"resnet{node['depth']}"
    return target.rpartition(".")[2]


def slug(overrides: Sequence[str]) -> str:
    """A folder's name for a run: its overrides in short, and a hash of them in full.

    Settings that do not change the result are left out. No `=` and no `/`.
    """
    last = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    kept = {key: value for key, value in last.items() if is_identity(key)}
    digest = hashlib.blake2b(repr(sorted(kept.items())).encode(), digest_size=4).hexdigest()
    told = [key for key in TOLD_FIRST if key in kept]
    told += sorted(key for key in kept if key not in (*told, "experiment"))
    words = [f"{re.split('[./]', key)[-1]}-{Path(kept[key]).name}" for key in told]
    plain = [re.sub(r"[^A-Za-z0-9.,]+", "-", word.replace("trainable_from", "from")) for word in words]
    clean = [word for word in (word.strip("-") for word in plain) if word]
    while len("_".join(clean)) > LONGEST:
        clean.remove(max(clean, key=len))
    return f"{'_'.join(clean) or 'default'}-{digest}"
