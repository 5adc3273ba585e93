"""Measures engines for frozen stages, and threads that wait on a shared machine; writes results-engines.md.

`make bench-engines` starts it; it takes about eight minutes on two cores. Nothing else may run meanwhile. With a task
as JSON it is a contender: it measures the task in a process of its own and prints a line of JSON.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch  # before leukemia, which would set WAIT
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
DEPTHS, PRECISIONS, BATCHES = (18, 50), ("bf16-mixed", "32-true"), (16, 32)
SECONDS, ROUNDS = 0.5, 3  # of each measurement
CELLS = 400  # of the whole run
WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
Engine = Callable[[Tensor], Tensor]
Row = dict[str, Any]


def main() -> None:
    if len(sys.argv) > 1:
        task = json.loads(sys.argv[1])
        return print(json.dumps(CONTENDERS[task.pop("what")](**task)))
    text = page(engine_rows(), shared_rows(), whole_runs())
    (HERE / "results-engines.md").write_text(text, encoding="utf-8")
    print(text)


def page(engines: list[Row], shared: list[Row], runs: list[Row]) -> str:
    templates = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True
    )
    names = ("torch", "openvino", "onnxruntime")
    return templates.get_template("engines.md.j2").render(
        engines=engines, shared=shared, runs=runs, seconds=SECONDS, rounds=ROUNDS, cells=CELLS, cores=os.cpu_count(),
        versions=", ".join(f"{name} {version(name)}" for name in names), real=SHARED.is_dir(),
    )  # fmt: skip


def contender(wait: str = "unset", **task: Any) -> Any:
    """What a process prints about a task; `wait` is how its threads wait, `unset` or as `leukemia` sets it."""
    environment = waiting_by_default()
    if wait == "leukemia":
        code = "import json, os, leukemia; print(json.dumps(dict(os.environ)))"
        environment = json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment))
    command = [sys.executable, __file__, json.dumps(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def waiting_by_default() -> dict[str, str]:
    """The environment, but for how threads wait."""
    return {name: value for name, value in os.environ.items() if name not in WAIT}


# Engines


def engine_rows() -> list[Row]:
    return [row for depth in DEPTHS for row in contender(what="engines", depth=depth)]


def engines(depth: int) -> list[Row]:
    """Each engine and precision: images a second by batch, start-up in seconds, and its relative error."""
    warnings.simplefilter("ignore")
    body, images = frozen_body(depth)
    with torch.inference_mode():
        expected = body(images)
    found = []
    for precision in PRECISIONS:
        rows, made = [], []
        for name, make in MAKERS.items():
            if name == "ONNX Runtime" and precision != "32-true":  # has no bf16 for a processor
                continue
            start = time.perf_counter()
            engine = make(body, images, precision)
            engine(images[: BATCHES[0]])
            row = {
                "depth": depth,
                "precision": precision,
                "engine": name,
                "start": time.perf_counter() - start,
            }
            error = float((engine(images) - expected).abs().max() / expected.abs().max())
            rows.append(row | {"error": error})
            made.append(engine)
        for row, rates in zip(rows, best_rates(made, images), strict=True):
            found.append(row | {"rates": rates})
        eager = max(found[-len(rows)]["rates"])
        for row in found[-len(rows) :]:
            row["times"] = max(row["rates"]) / eager
    return found


def best_rates(
    engines: Sequence[Engine], images: Tensor, batches: Sequence[int] = BATCHES
) -> list[list[float]]:
    """Images a second of each engine and batch: the best of ROUNDS, because others may disturb one."""
    rounds = [[[rate(each, images[:batch]) for batch in batches] for each in engines] for _ in range(ROUNDS)]
    return torch.tensor(rounds).amax(dim=0).tolist()


def frozen_body(depth: int) -> tuple[nn.Module, Tensor]:
    """All stages but the head, and normalised pictures: real cells and weights where they lie beside the checkout."""
    from leukemia.data.pixels import decode, fit
    from leukemia.data.transforms import normalise
    from leukemia.models import freezing
    from leukemia.models.resnet import resnet
    from leukemia.storage.memory import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    weights = SHARED / "weights" / f"resnet{depth}_pbc6.pth"
    net = resnet(depth, weights=str(weights) if weights.is_file() else "none").eval()
    freezing.freeze(net, "head")
    files = sorted((SHARED / "data" / "pbc_cells").glob("*/*.jpg"))[:: 3288 // max(BATCHES)]
    pixels = torch.randint(256, (max(BATCHES), 224, 224, 3), dtype=torch.uint8)
    for number, file in enumerate(files[: len(pixels)]):
        pixels[number] = torch.tensor(fit(decode(file), 224, "squash", None))
    return freezing.prefix(net), normalise(pixels, *net.normalisation)


def in_torch(body: nn.Module, precision: str) -> Engine:
    from leukemia.precision import autocast

    def compute(images: Tensor) -> Tensor:
        with torch.no_grad(), autocast("cpu", precision):
            return body(images).float()

    return compute


def frozen(engine: str, body: nn.Module, images: Tensor, precision: str) -> Engine:
    """As the package computes them."""
    from leukemia.models.engine import Frozen

    return in_torch(Frozen(body, engine), precision)  # type: ignore[arg-type]


def inductor(body: nn.Module, images: Tensor, precision: str) -> Engine:
    import torch._inductor.config

    torch._inductor.config.freezing = True
    torch.compiler.reset()
    return in_torch(torch.compile(nn.Sequential(*body), dynamic=False), precision)  # type: ignore[misc]


def onnx_runtime(body: nn.Module, images: Tensor, precision: str) -> Engine:
    import onnxruntime

    file = io.BytesIO()
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        nn.Sequential(*body), (images[:2],), file, input_names=["x"], dynamic_shapes=shapes, verbose=False
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"x": images.contiguous().numpy()})[0])


MAKERS = {
    "eager, channels-last": lambda body, images, precision: in_torch(body, precision),
    "torch, BatchNorm folded": partial(frozen, "torch"),
    "OpenVINO": partial(frozen, "openvino"),
    "ONNX Runtime": onnx_runtime,
    "inductor, freezing": inductor,
}


def rate(engine: Engine, images: Tensor) -> float:
    """Images a second."""
    engine(images)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        engine(images)
        calls += 1
    return calls * len(images) / (time.perf_counter() - start)


# A shared machine


def shared_rows() -> list[Row]:
    """ResNet50 by the number of busy processes, as threads wait by default and as this package lets them wait."""
    rows = []
    for busy in (0, 1, 2):
        with busy_processes(busy):
            for wait in ("unset", "leukemia"):
                found = contender(wait, what="forward", depth=50)
                rows.append({"busy": busy, "wait": wait, **found})
    return rows


def forward(depth: int) -> Row:
    """Images a second of eager and folded stages in bf16 and batches of 16."""
    body, images = frozen_body(depth)
    images = images[: BATCHES[0]]
    made = {name: MAKERS[name](body, images, "bf16-mixed") for name in (*MAKERS,)[:3]}
    return {"rates": [rates[0] for rates in best_rates(list(made.values()), images, BATCHES[:1])]}


def whole_runs() -> list[Row]:
    """Seconds of a whole frozen baseline of ResNet50, quiet and beside one busy process."""
    from leukemia.data.demo import plan, write_demo

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table = plan(round(CELLS * 15_114 / 12_528))
        table = table[table["published_split"] != "final"].reset_index(drop=True)
        write_demo(Path(folder) / "cells", structure=table)
        for busy in (0, 1):
            settings = [
                f'data.root="{folder}/cells"', "model.net.depth=50", "model.net.weights=none",
                "model.trainable_from=head", "trainer.max_epochs=12", f'hydra.run.dir="{folder}/run{busy}"',
            ]  # fmt: skip
            environment = {**waiting_by_default(), "LEUKEMIA_CACHE": f"{folder}/cache{busy}"}
            with busy_processes(busy):
                start = time.perf_counter()
                command = [sys.executable, "-m", "leukemia.train", *settings]
                subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, check=True)
                rows.append({"busy": busy, "seconds": time.perf_counter() - start})
    return rows


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


CONTENDERS: dict[str, Callable[..., Any]] = {"engines": engines, "forward": forward}

if __name__ == "__main__":
    main()
