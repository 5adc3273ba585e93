"""The engine of the frozen stages, which are inference alone.

Training, the feature cache, `predict`, `stress` and the page compute frozen stages here, so that a cell has the same
activations wherever they are computed.
"""

import logging
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from leukemia.data.run_files import ENGINES
from leukemia.data.threads import side_by_side
from leukemia.errors import InputError, check_one_of
from leukemia.models.freezing import Prefix, own_classes

Engine = Callable[[Tensor], Tensor]


class Frozen:
    """Frozen stages as an engine computes them: normalised images (N, 3, H, W) to the activations at the boundary.

    It follows its network: where a tensor of the stages has changed, the next call prepares them anew. A processor
    computes the images of a batch side by side, if `many_threads` holds.

    Args:
        prefix: the stages as they are.
        engine: `torch` folds their BatchNorm, see `folded`. `openvino` compiles them, see `compiled`; on a GPU it is
            `torch`.

    Attributes:
        many_threads: whether several threads may call it at once. PyTorch does not with a user's own code, which may
            keep values; OpenVINO does not run that code.
    """

    def __init__(self, prefix: Prefix, engine: str = "torch") -> None:
        self.prefix, self.engine = prefix, check_engine(engine)
        hooked = any(each._forward_hooks or each._forward_pre_hooks for each in prefix.modules())
        own = hooked or own_classes(prefix)
        self.many_threads = len(prefix) > 0 and (engine == "openvino" or not own)
        self._compute: Engine = prefix
        self._state: Any = None
        self._prepares = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        with self._prepares:
            self._prepare(images)
            compute = self._compute
        threads = torch.get_num_threads()
        alone = threads == 1 or len(images) < 2 or images.device.type != "cpu" or not self.many_threads
        if alone or (len(images) < threads and self.engine == "torch"):
            return compute(images)
        dtype, inference = _precision(images), torch.is_inference_mode_enabled()

        def part(images: Tensor) -> Tensor:
            bf16 = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
            with torch.inference_mode(inference), torch.no_grad(), bf16:
                return compute(images)

        return torch.cat(list(side_by_side(part, images.chunk(threads))))

    def _prepare(self, images: Tensor) -> None:
        tensors = (*self.prefix.parameters(), *self.prefix.buffers())
        written = [(each.data_ptr(), 0 if each.is_inference() else each._version) for each in tensors]
        state = (written, _precision(images), images.shape[1:])
        if state != self._state and len(images):
            on_processor = self.engine == "openvino" and images.device.type == "cpu" and len(self.prefix) > 0
            prepare = compiled if on_processor else folded
            with torch.inference_mode(False), torch.no_grad():
                self._compute, self._state = prepare(self.prefix, images[:1].clone()), state

    def __getstate__(self) -> dict[str, Any]:
        return {"prefix": self.prefix, "engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:  # a copy prepares its own
        self.__init__(**state)  # type: ignore[misc]


def check_engine(engine: str) -> str:
    """The engine, if it is known and installed.

    Raises:
        InputError: if not.
    """
    check_one_of("model.engine", engine, ENGINES)
    if find_spec(engine) is None:
        raise InputError(f"model.engine={engine} is not installed: pip install 'leukemia[{engine}]'")
    return engine


def engine_name(engine: str) -> str:
    """The engine and its version, for the feature cache and the run folder."""
    return f"{engine} {version(engine)}"


def folded(prefix: Prefix, image: Tensor) -> Prefix:
    """The stages with BatchNorm folded into the convolutions before it (Jacob et al., CVPR 2018, eq. 14).

    Stages whose code cannot be traced, or without such a pair, stay as they are. So do all where the activations of
    `image`, (1, 3, H, W), would differ.
    """
    found = Prefix(*map(_folded, prefix))
    with torch.autocast(image.device.type, enabled=False):
        return found if _difference(prefix, found, image) <= 1e-3 else prefix  # it is about 1e-6


def compiled(prefix: Prefix, image: Tensor) -> Engine:
    """The stages as OpenVINO compiles them for this processor, for pictures of the size of `image`, (1, 3, H, W).

    It computes in the precision of autocast, and gives the type and layout that the stages themselves would give.

    Raises:
        InputError: if it cannot convert the stages, or gives other activations.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # reports each import to its maker
    import openvino

    dtype = _precision(image)
    settings = {
        "INFERENCE_PRECISION_HINT": {torch.bfloat16: "bf16", torch.float16: "f16"}.get(dtype, "f32"),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": torch.get_num_threads(),
    }
    try:
        with (
            torch.autocast("cpu", enabled=False),
            warnings.catch_warnings(action="ignore"),
            _same_root_logger(),
        ):
            example = image.permute(0, 2, 3, 1)
            shape = (-1, *example.shape[1:])
            model = openvino.convert_model(_ChannelsLast(prefix), example_input=example, input=[shape])
        network = openvino.Core().compile_model(model, "CPU", settings)
        request = threading.local()

        def compute(images: Tensor) -> Tensor:
            if not hasattr(request, "own"):
                request.own = network.create_infer_request()
            found = request.own.infer(images.permute(0, 2, 3, 1).contiguous().numpy(), share_inputs=True)[0]
            values = torch.from_numpy(found).to(dtype)
            return values.permute(0, 3, 1, 2) if values.ndim == 4 else values

        difference = _difference(prefix, compute, image)
    except Exception as error:  # of its own, or of the stages' code
        reason = " ".join(str(error).split())[:300]
    else:
        if difference <= (1e-3 if dtype == torch.float32 else 0.1):  # it is about 1e-6, and 1e-2
            return compute
        reason = f"its activations differ by {difference:.2g} of the largest"
    raise InputError(
        f"model.engine=openvino cannot compute the frozen stages ({reason}): use model.engine=torch"
    )


@contextmanager
def _same_root_logger() -> Iterator[None]:
    """OpenVINO's conversion sets the level and the filters of all loggers, and may add a handler."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


class _ChannelsLast(nn.Module):
    """Stages from and to the layout in memory of this package, (N, H, W, C)."""

    def __init__(self, prefix: Prefix) -> None:
        super().__init__()
        self.stages = nn.Sequential(*prefix)

    def forward(self, images: Tensor) -> Tensor:
        values = self.stages(images.permute(0, 3, 1, 2))
        return values.permute(0, 2, 3, 1) if values.ndim == 4 else values


def _folded(stage: nn.Module) -> nn.Module:
    try:
        graph = fuse(stage)
    except Exception:  # of a user's own code, or code that branches on its values
        return stage
    return graph if _norms(graph) < _norms(stage) else stage


def _norms(stage: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in stage.modules())


def _difference(prefix: Prefix, engine: Engine, image: Tensor) -> float:
    """The largest difference of an engine's activations, as a share of the largest activation."""
    expected, values = prefix(image).float(), engine(image).float()
    if values.shape != expected.shape:
        return math.inf
    return float((values - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _precision(images: Tensor) -> torch.dtype:
    device = images.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
