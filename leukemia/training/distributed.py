"""The processes of one run on several devices: the first one decides, the others follow.

Lightning's launcher, torchrun and srun start them in different ways. Lightning's starts the others from the first,
when that has decided; torchrun and srun start all at once, and so does who starts a command on each of several nodes.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from lightning_fabric.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.plugins.environments.slurm import _is_srun_used
from lightning_fabric.utilities.rank_zero import _get_rank
from pytorch_lightning.plugins.environments import ClusterEnvironment
from torch.distributed import PrefixStore, TCPStore

from leukemia.errors import InputError

log = logging.getLogger(__name__)
INHERITED = "LEUKEMIA_DECISION"  # by the processes that Lightning's launcher starts
CONNECT = timedelta(minutes=15)  # until every node has started its processes
DECIDE = timedelta(days=2)  # the first one builds the caches before it speaks
ACKNOWLEDGE = 30.0  # seconds in which the others hear that there is nothing to do
LEAVE = 3.0  # seconds in which the first then says why


@contextmanager
def meeting(num_nodes: int) -> Iterator["Meeting"]:
    """The meeting of the processes of a run; where the first fails before it has decided, the others end too.

    Args:
        num_nodes: of the run.

    Raises:
        InputError: if several nodes are asked for and do not know of each other.
    """
    processes = Meeting(num_nodes)
    try:
        yield processes
    except BaseException:
        if processes.first and not processes.told:
            processes.tell({"state": "refused"}, await_others=True)
        raise


class Meeting:
    """Where the processes of a run hear what its first one decided.

    Attributes:
        first: whether this process decides.
        told: whether it has.
    """

    def __init__(self, num_nodes: int) -> None:
        self.first = is_first()
        self.told = False
        self._others = 0
        self._store: PrefixStore | None = None
        environment = _started_apart(num_nodes)
        if environment is None:
            return
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
        store = TCPStore(
            environment.main_address,
            environment.main_port,
            is_master=self.first and not hosted,
            timeout=CONNECT,
            wait_for_workers=False,
            multi_tenant=True,  # torch.distributed meets at the same port later
        )
        store.set_timeout(DECIDE)
        self._store = PrefixStore(f"leukemia/{attempt}", store)
        self._others = (environment.world_size() if num_nodes == 1 or hosted else num_nodes) - 1

    def tell(self, decision: dict[str, Any], await_others: bool = False) -> None:
        """Let the other processes know; with `await_others` return once they do, for this process will end."""
        self.told = True
        text = json.dumps(decision)
        os.environ[INHERITED] = text
        if self._store is None:
            return
        self._store.set("decision", text)
        end = time.monotonic() + ACKNOWLEDGE
        while await_others and self._store.add("heard", 0) < self._others and time.monotonic() < end:
            time.sleep(0.05)

    def hear(self) -> dict[str, Any]:
        """What the first process decided, as soon as it has."""
        if self._store is None:
            return json.loads(os.environ[INHERITED])
        decision = json.loads(self._store.get("decision"))
        self._store.add("heard", 1)
        return decision

    def end_after_first(self) -> NoReturn:
        """End with exit code 2, after the first process, which says why; torchrun and srun then end this one."""
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(2))
        time.sleep(LEAVE)
        sys.exit(2)


def is_first() -> bool:
    """Whether this process is the first of all that train one run."""
    node = os.environ.get("NODE_RANK", "0") if "RANK" not in os.environ else "0"
    return _get_rank() in (None, 0) and node == "0"


def cluster_plugins() -> list[ClusterEnvironment]:
    """What Lightning has to be told: under SLURM, that jobs are not queued again by it.

    It would write a checkpoint of its own into the run folder, and prefer it to last.ckpt.
    """
    return [SLURMEnvironment(auto_requeue=False)] if _is_srun_used() and not _by_torchrun() else []


def _started_apart(num_nodes: int) -> ClusterEnvironment | None:
    """The environment of processes that their first one has not started; None where it does, or is alone."""
    if _by_torchrun():
        return TorchElasticEnvironment() if int(os.environ["WORLD_SIZE"]) > 1 else None
    if _is_srun_used():
        return SLURMEnvironment(auto_requeue=False) if int(os.environ["SLURM_NTASKS"]) > 1 else None
    if not isinstance(num_nodes, int) or num_nodes <= 1:
        return None
    if lacking := [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]:
        raise InputError(
            f"trainer.num_nodes={num_nodes}, and {', '.join(lacking)} are not set: start the run with srun or "
            "torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
        )
    return LightningEnvironment()


def _by_torchrun() -> bool:
    return TorchElasticEnvironment.detect()
