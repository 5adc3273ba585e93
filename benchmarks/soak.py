"""A long sweep of short runs that is killed again and again. It may lose nothing, leave nothing over and not grow.

    python benchmarks/soak.py                  200 runs; a quarter to half an hour
    python benchmarks/soak.py --runs 4 --kills 2 --every 2 4

The same command is started until it ends. In between it is killed at random: in three of four cases by SIGKILL, else
by SIGTERM. When enough runs are done, the last process runs undisturbed, and its memory is measured.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = (
    "data=demo", "data.demo_images=40", "data.image_size=32", "data.batch_size=16", "model.net.weights=none",
    "model.trainable_from=head", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1",
    "logger=none",
)  # fmt: skip
LEFT_ALONE = 0.6  # share of the runs that are done before the last process
COMPARED = 5  # interrupted runs that are trained again undisturbed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, print its result as JSON, and return 0 if it passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10**6, help="at most")
    parser.add_argument(
        "--every", type=float, nargs=2, default=(2.0, 12.0), metavar="SECONDS", help="least, most"
    )
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak"), help="emptied first")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    result = soak(options.folder.absolute(), options.runs, options.kills, *options.every, options.seed)
    text = json.dumps(result, indent=2)
    (options.folder / "soak.json").write_text(text + "\n")
    print(text)
    return 0 if result["passed"] else 1


def soak(folder: Path, runs: int, kills: int, least: float, most: float, seed: int) -> dict[str, Any]:
    """Run a soak in an empty folder. The result holds `passed`."""
    rng, started = random.Random(seed), time.monotonic()
    environment = {**os.environ, "LEUKEMIA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = _command(folder / "sweep", f"seed=range({runs})")
    killed = {"SIGKILL": 0, "SIGTERM": 0}
    cut_off: set[str] = set()
    left_running, unanswered, exits = 0, 0, []
    while True:
        with open(folder / "log.txt", "ab") as said:
            process = subprocess.Popen(
                command, stdout=said, stderr=said, env=environment, start_new_session=True
            )
        undisturbed = sum(killed.values()) >= kills or _done(folder) >= LEFT_ALONE * runs
        memory = _watch(process, folder, None if undisturbed else rng.uniform(least, most))
        if process.poll() is not None:
            exits.append(process.returncode)
            break
        number = signal.SIGTERM if rng.random() < 0.25 else signal.SIGKILL
        process.send_signal(number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # SIGTERM was not answered
            unanswered += 1
            process.kill()
            process.wait()
        killed[number.name] += 1
        left_running += len(_session(process.pid))
        cut_off |= {path.parent.name for path in (folder / "sweep").glob("*/status.json") if _cut(path)}
    megabytes = list({done: round(size, 1) for size, done in memory}.values())  # after each run
    grown, per_run = _growth(megabytes)
    other = _differing(folder, sorted(cut_off)[:COMPARED], environment)
    left_over = [
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if not (path.parent.name == "cache" and path.suffix == ".lock")  # empty, one per entry
    ]
    found = {
        "runs": runs,
        "done": _done(folder),
        "killed": killed,
        "signals_unanswered": unanswered,
        "runs_cut_off": len(cut_off),
        "exit_code": exits[-1],
        "minutes": round((time.monotonic() - started) / 60, 1),
        "left_over_files": left_over,
        "left_running_processes": left_running + len(_session(process.pid)),
        "compared_with_undisturbed": min(len(cut_off), COMPARED),
        "differing": other,
        "last_process": {
            "runs": memory[-1][1] - memory[0][1] if memory else 0,
            "peak_mb": round(max((size for size, _ in memory), default=0)),
            "grown_mb": grown,
            "mb_per_run": per_run,
            "mb_after_each_run": megabytes,
        },
    }
    whole = found["done"] == runs and found["exit_code"] == 0 and not other and not unanswered
    flat = per_run is None or per_run < 0.5
    return {**found, "passed": whole and flat and not left_over and not found["left_running_processes"]}


def _command(sweep: Path, *more: str) -> list[str]:
    train = [sys.executable, "-m", "leukemia.train", "--multirun", *SETTINGS]
    return [*train, *more, f"hydra.sweep.dir={sweep}"]


def _watch(process: subprocess.Popen[bytes], folder: Path, seconds: float | None) -> list[tuple[float, int]]:
    """Wait for so long after the first run starts, or for the end.

    Returns:
        The memory of the process in MB and the number of runs done, over time.
    """
    before, seen = _begun(folder), []
    end = float("inf")
    while process.poll() is None and time.monotonic() < end:
        if seconds is not None and end == float("inf") and _begun(folder) > before:
            end = time.monotonic() + seconds
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")]
        seen += [(size, _done(folder)) for size in sizes]
        _make_room(folder)
        time.sleep(0.2)
    return seen


def _done(folder: Path) -> int:
    return sum(1 for _ in (folder / "sweep").glob("*/metrics.json"))


def _make_room(folder: Path) -> None:
    """Remove the checkpoints of finished runs, 90 MB each. They are not read again."""
    for checkpoint in (folder / "sweep").glob("*/checkpoints/*.ckpt"):
        if not _cut(checkpoint.parents[1] / "status.json"):
            checkpoint.unlink(missing_ok=True)


def _begun(folder: Path) -> int:
    """How often a run started or continued, by the output of the sweeps."""
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return sum(line.endswith((" starts", " goes on")) for line in lines)


def _cut(status: Path) -> bool:
    return json.loads(status.read_text())["status"] in ("running", "interrupted")


def _session(leader: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found


def _growth(megabytes: Sequence[float]) -> tuple[float | None, float | None]:
    """The growth of the process in MB, in all and per run, from its tenth run on: by then everything was used once."""
    settled = megabytes[10:]
    if len(settled) < 5:
        return None, None
    slope = float(np.polyfit(range(len(settled)), settled, 1)[0])
    return round(settled[-1] - settled[0], 1), round(slope, 3)


def _differing(folder: Path, names: Sequence[str], environment: dict[str, str]) -> list[str]:
    """The runs whose result differs when they are trained undisturbed."""
    if not names:
        return []
    seeds = [name.partition("seed-")[2].partition("_")[0] for name in names]
    again = _command(folder / "again", f"seed={','.join(seeds)}")
    subprocess.run(again, env=environment, check=True, capture_output=True)

    def content(sweep: str, name: str) -> bytes:
        files = [folder / sweep / name / file for file in ("predictions.csv", "metrics.json", "history.csv")]
        return b"".join(file.read_bytes() for file in files)

    return [name for name in names if content("again", name) != content("sweep", name)]


if __name__ == "__main__":
    sys.exit(main())
