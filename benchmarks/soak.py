"""Sweeps of short runs that are killed again and again, from the first import to the report. They may lose nothing.

    python benchmarks/soak.py                  half an hour; writes soak.json and soak.md
    python benchmarks/soak.py --runs 6 --minutes 10

First a sweep runs undisturbed: its time, its memory and its results are noted. Then the same sweep starts in an empty
folder, with an empty cache, and gets a signal at a random moment of a random phase: SIGINT, SIGTERM, SIGHUP, SIGKILL or
SIGSEGV. The same command is started again, and is left alone after some signals; then all results are compared. Until
the minutes are over, the next sweep follows.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SETTINGS = (
    "data=demo", "data.demo_images=40", "data.image_size=32", "data.batch_size=16", "model.net.weights=none",
    "model.trainable_from=head", "trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=2",
    "logger=none",
)  # fmt: skip
ANSWERS = {  # signal: the exit code; Python's own until our handlers are there
    signal.SIGINT: (130, -signal.SIGINT),
    signal.SIGTERM: (143, -signal.SIGTERM),
    **{number: (-number,) for number in (signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV)},
}
PHASES = {  # and the part of the time of a sweep within which the signal comes
    "start-up": 0.5,
    "run": 0.1,
    "between runs": 0.02,
    "report": 0.2,
}
SIGNALS = (4, 10)  # for one sweep, the least and the most
COMPARED = ("predictions.csv", "history.csv", "metrics.json")
PYTHON_STARTS = 0.5  # seconds, in which Ctrl-C is answered by Python itself


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, print its result as JSON, and return 0 if it passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=16, help="of a sweep")
    parser.add_argument("--minutes", type=float, default=30, help="a sweep that began is brought to its end")
    parser.add_argument("--folder", type=Path, default=Path("outputs/soak"), help="emptied first")
    parser.add_argument("--seed", type=int, default=0, help="of times and signals")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    result = soak(options.folder.absolute(), options.runs, options.minutes, options.seed)
    text = json.dumps(result, indent=2)
    (options.folder / "soak.json").write_text(text + "\n")
    (options.folder / "soak.md").write_text(table(result["kills"]))
    print(text)
    return 0 if result["passed"] else 1


def soak(folder: Path, runs: int, minutes: float, seed: int) -> dict[str, Any]:
    """Run a soak in an empty folder. The result holds `passed`."""
    rng, started = random.Random(seed), time.monotonic()
    whole = folder / "whole"
    process = _start(whole, runs)
    memory = _watch(process, whole)
    seconds = time.monotonic() - started
    assert process.returncode == 0, f"the undisturbed sweep fails: see {whole}.log"
    expected = _results(whole)
    megabytes = list({done: round(size, 1) for size, done in memory}.values())  # after each run
    shutil.rmtree(whole)
    kills: list[dict[str, Any]] = []
    sweeps, differing, left_over, left_running, starts = 0, [], [], 0, 0
    while sweeps == 0 or time.monotonic() - started < 60 * minutes:
        place = folder / f"sweep-{sweeps}"
        code, left = -1, rng.randint(*SIGNALS)
        while code != 0:
            process, begun = _start(place, runs), time.monotonic()
            starts += 1
            if left:
                _wait_for(process, rng.choice(list(PHASES)), rng, seconds, place, runs)
            else:
                process.wait()
            if process.poll() is None:
                left -= 1
                number = rng.choice(list(ANSWERS))
                kills.append(_kill(process, number, place, runs, time.monotonic() - begun))
            code = process.returncode
            left_running += len(_session(process.pid))
            if code not in (0, *(answer for answers in ANSWERS.values() for answer in answers)):
                break  # it failed: its results tell
        found = _results(place)
        differing += [f"{place.name}: {name}" for name in expected if found.get(name) != expected[name]]
        left_over += [str(path) for path in place.rglob(".*") if not _is_lock_of_a_cache(path)]
        if not (place / "sweep" / "report.html").is_file():
            left_over.append(f"{place.name} has no report")
        shutil.rmtree(place)
        sweeps += 1
    grown, per_run = _growth(megabytes)
    unanswered = [
        kill for kill in kills if kill["exit_code"] not in (0, *ANSWERS[signal.Signals[kill["signal"]]])
    ]
    tracebacks = [kill for kill in kills if kill["traceback"]]
    sound = not (differing or left_over or left_running or unanswered or tracebacks)
    return {
        "passed": sound and (per_run is None or per_run < 0.5),
        "sweeps": sweeps,
        "runs_of_a_sweep": runs,
        "starts": starts,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "undisturbed_seconds": round(seconds),
        "runs_compared": sweeps * runs,
        "differing": differing,
        "left_over": left_over,
        "left_running_processes": left_running,
        "signals_answered_otherwise": unanswered,
        "tracebacks": tracebacks,
        "memory": {"mb_after_each_run": megabytes, "grown_mb": grown, "mb_per_run": per_run},
        "kills": kills,
    }


def table(kills: Sequence[dict[str, Any]]) -> str:
    """The number of signals by kind and moment, in Markdown."""
    count = Counter((kill["signal"], kill["phase"]) for kill in kills)
    rows = [[name, *(count[name, phase] for phase in PHASES)] for name in (number.name for number in ANSWERS)]
    lines = [["signal", *PHASES, "all"], ["---"] * (len(PHASES) + 2), *([*row, sum(row[1:])] for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _start(place: Path, runs: int) -> subprocess.Popen[bytes]:
    place.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "LEUKEMIA_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "leukemia.train", "--multirun", *SETTINGS, f"seed=range({runs})"]
    with open(_log(place), "wb") as said:
        return subprocess.Popen(
            [*command, f"hydra.sweep.dir={place / 'sweep'}"], stdout=said, stderr=said, env=environment,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip


def _kill(
    process: subprocess.Popen[bytes], number: signal.Signals, place: Path, runs: int, after: float
) -> dict[str, Any]:
    phase = _phase(place, runs)
    process.send_signal(number)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:  # the signal was not answered
        process.kill()
        process.wait()
    said = _log(place).read_text(errors="replace")
    return {
        "signal": number.name,
        "phase": phase,
        "after_seconds": round(after, 1),
        "exit_code": process.returncode,
        "traceback": "Traceback" in said and after > PYTHON_STARTS,
    }


def _wait_for(
    process: subprocess.Popen[bytes], phase: str, rng: random.Random, seconds: float, place: Path, runs: int
) -> None:
    """Wait for a random moment of a phase, or for the end."""
    while process.poll() is None and _phase(place, runs) != phase:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, seconds * PHASES[phase]))


def _phase(place: Path, runs: int) -> str:
    if " of " not in _log(place).read_text(errors="replace"):
        return "start-up"
    if _done(place) == runs:
        return "report"
    if any(
        json.loads(path.read_text())["status"] == "running"
        for path in (place / "sweep").glob("*/status.json")
    ):
        return "run"
    return "between runs"


def _watch(process: subprocess.Popen[bytes], place: Path) -> list[tuple[float, int]]:
    """Wait for the end.

    Returns:
        The memory of the process in MB and the number of runs done, over time.
    """
    seen = []
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")]
        seen += [(size, _done(place)) for size in sizes]
        time.sleep(0.2)
    process.wait()
    return seen


def _results(place: Path) -> dict[str, bytes]:
    """The files of each run that are compared, byte for byte; the report's table without its times."""
    found = {
        f"{run.name}/{name}": (run / name).read_bytes()
        for run in (place / "sweep").iterdir()
        for name in COMPARED
        if (run / name).is_file()
    }
    results = place / "sweep" / "results.csv"
    if results.is_file():
        found["results.csv"] = (
            pd.read_csv(results).drop(columns=["seconds", "embed_seconds"]).to_csv().encode()
        )
    return found


def _log(place: Path) -> Path:
    return place.with_suffix(".log")


def _done(place: Path) -> int:
    return sum(1 for _ in (place / "sweep").glob("*/metrics.json"))


def _is_lock_of_a_cache(path: Path) -> bool:
    return path.parent.name == "cache" and path.suffix == ".lock"  # empty, one per entry


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


if __name__ == "__main__":
    sys.exit(main())
