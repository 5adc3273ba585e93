"""Which settings make a run another run, and the names of run folders."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

TOLD_FIRST = (
    "model.net.depth",
    "model.trainable_from",
    "data.protocol",
    "data.fold",
    "seed",
)  # in a folder's name
GRID = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SUBDIR = "${leukemia.slug:${hydra.overrides.task}}"
NOT_IDENTITY = (  # settings that do not make another run: where things lie, names, hardware
    "data.root",
    "data.max_gb",
    "data.keep_on_gpu",
    "name",
    "resume",
    "compile",
    "cache",
    "logger",
    "trainer",  # the choice of a hardware file
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "hydra",
)


def slug(overrides: Sequence[str]) -> str:
    """A folder's name for a run: its overrides in short, and a hash of them in full.

    What does not change the result (where the data lie, names, hardware) is left out. No `=` and no `/`.
    """
    last = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    kept = {key: value for key, value in last.items() if is_identity(key)}
    digest = hashlib.blake2b(repr(sorted(kept.items())).encode(), digest_size=4).hexdigest()
    told = [key for key in TOLD_FIRST if key in kept]
    told += sorted(key for key in kept if key not in (*told, "experiment"))
    words = [f"{key.rpartition('.')[2]}-{Path(kept[key]).name}" for key in told]
    clean = [
        re.sub(r"[^A-Za-z0-9.,]+", "-", word.replace("trainable_from", "from")).strip("-") for word in words
    ]
    while len("_".join(clean)) > 80:
        clean.pop()
    return f"{'_'.join(clean) or 'default'}-{digest}"


def grid_names(config: DictConfig) -> list[str]:
    """The names of the run folders of a multirun's grid; none where it is no grid, or names them in another way."""
    hydra_config = OmegaConf.to_container(config.hydra, resolve=False)
    assert isinstance(hydra_config, dict)
    if hydra_config["sweeper"]["_target_"] != GRID or hydra_config["sweep"]["subdir"] != SUBDIR:
        return []
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return list(dict.fromkeys(slug(job) for job in jobs))


def is_identity(key: str) -> bool:
    """Whether a setting, by its dotted name, makes a run another one."""
    return key not in NOT_IDENTITY and not key.startswith(("hydra/", "hydra.", "logger.", "cache."))


def network_name(node: Mapping[str, Any]) -> str:
    """A network's own name, from its node in a configuration: `name` where given, else resnet and its depth, else the
    last part of `_target_`.

    >>> network_name({"_target_": "mylab.Tiny", "width": 8})
    'Tiny'
    """
    if node.get("name"):
        return str(node["name"])
    if node.get("depth") is not None:
        return f"resnet{node['depth']}"
    return str(node["_target_"]).rpartition(".")[2]


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The settings in which two configurations describe different runs, as readable lines."""
    before, after = flatten(stored), flatten(wanted)
    keys = [key for key in {**before, **after} if is_identity(key)]
    changed = [key for key in keys if before.get(key) != after.get(key) and after.get(key) != "auto"]
    return [f"{key} is {before.get(key)} there and {after.get(key)} here" for key in changed]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration's leaves by dotted name."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        leaves |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return leaves
