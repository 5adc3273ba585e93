"""The processes of one run on several devices: rank zero decides, the others follow.

Lightning's launcher starts the other processes when rank zero has decided, so they inherit its decision. torchrun and
srun start all at once: there the decision is broadcast by Lightning's strategy.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytorch_lightning as pl
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.plugins.environments.slurm import _is_srun_used
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.plugins.environments import ClusterEnvironment

from leukemia.errors import InputError

INHERITED = "LEUKEMIA_DECISION"  # by the processes that Lightning's launcher starts
LEAVE = 3.0  # seconds in which rank zero says why nothing is trained


def is_rank_zero() -> bool:
    """Whether this process is the first of all that train one run."""
    return _get_rank() in (None, 0)


def rank_zero_decision(trainer: pl.Trainer, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The decision of rank zero, in every process of a run.

    Args:
        trainer: of the run; its processes meet here where torchrun or srun started them.
        decide: called in rank zero alone; gives plain values.

    Raises:
        Whatever `decide` raises, in rank zero; the other processes then end with exit code 2.
    """
    if not _started_apart() or trainer.world_size == 1:
        if not is_rank_zero():
            return json.loads(os.environ[INHERITED])
        decision = decide()
        os.environ[INHERITED] = json.dumps(decision)
        return decision
    trainer.strategy.setup_environment()
    failure: BaseException | None = None
    found: dict[str, Any] | None = None
    if trainer.is_global_zero:
        try:
            found = decide()
        except BaseException as error:
            failure = error
    found = trainer.strategy.broadcast(found)
    if failure is not None:
        raise failure
    return end_after_rank_zero() if found is None else found


def end_after_rank_zero() -> NoReturn:
    """End with exit code 2, after rank zero, which says why; torchrun and srun then end this process."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(2))
    time.sleep(LEAVE)
    sys.exit(2)


def cluster_plugins(num_nodes: int) -> list[ClusterEnvironment]:
    """Under SLURM: Lightning must not queue a job again, for it would write and prefer a checkpoint of its own.

    Raises:
        InputError: if several nodes are asked for and neither torchrun nor srun started the run.
    """
    if num_nodes > 1 and not _started_apart():
        raise InputError(f"trainer.num_nodes={num_nodes}: start a run on several nodes with torchrun or srun")
    return [SLURMEnvironment(auto_requeue=False)] if _is_srun_used() and not _by_torchrun() else []


def _started_apart() -> bool:
    return _by_torchrun() or _is_srun_used()


def _by_torchrun() -> bool:
    return TorchElasticEnvironment.detect()
