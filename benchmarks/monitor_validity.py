"""Is monitoring valid where cells of a subject are alike, and how soon does it find a change? Writes docs/monitor.md.

`python benchmarks/monitor_validity.py [--repetitions 1000] [--output docs/monitor.md]`
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import norm

from leukemia.evaluation.monitor import AS_CERTIFIED, BROKEN, ERROR, watch
from leukemia.evaluation.policy import REVIEW, Policy

CORRELATIONS = (0.0, 0.1, 0.2, 0.4, 0.95)
CERTIFIED = (47, 26)  # positive and negative subjects, as C-NMC's training set
NEW = (90, 60)
BOUNDS = (0.10, 0.20)
SKILL = 0.8  # half of the distance of the class means, in standard deviations of a cell
CHECKED = 0.2  # of the released cells
LONG = (400, 260)  # new subjects of a stream in which the rate has doubled
DETECTIONS = 60  # streams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("docs/monitor.md"))
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        alarms = {
            correlation: list(
                pool.map(partial(verdict, correlation), range(options.repetitions), chunksize=20)
            )
            for correlation in CORRELATIONS
        }
        found = [
            {
                "correlation": f"{correlation:g}",
                "labels": name,
                **_when(list(pool.map(partial(doubled, correlation, share), range(DETECTIONS)))),
            }
            for correlation in CORRELATIONS
            for name, share in (("spot-checks", CHECKED), ("all cells", 1.0))
        ]
    rates = {
        correlation: np.mean([said != AS_CERTIFIED for said in of]) for correlation, of in alarms.items()
    }
    rows = [
        {
            "correlation": f"{correlation:g}",
            "alarms": f"{100 * rates[correlation]:.1f}",
            "broken": f"{100 * np.mean([said == BROKEN for said in of]):.1f}",
        }
        for correlation, of in alarms.items()
    ]
    tolerance = 3 * math.sqrt(ERROR * (1 - ERROR) / options.repetitions)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    text = templates.get_template("monitor.md.j2").render(
        rows=rows, found=found, repetitions=options.repetitions, tolerance=tolerance, certified=CERTIFIED, new=NEW,
        bounds=BOUNDS, checked=CHECKED, detections=DETECTIONS, long=LONG,
    )  # fmt: skip
    options.output.write_text(text)
    worst = max(rates.values())
    print(f"{options.output}: at most {worst:.3f} false alarms ({ERROR} + {tolerance:.3f} allowed)")
    raise SystemExit(int(worst > ERROR + tolerance))


def verdict(correlation: float, number: int) -> str:
    """Of a stream that is as certified, with the true rates at their bounds."""
    rng = np.random.default_rng([number, round(100 * correlation)])
    policy = policy_at(BOUNDS)
    certified, new = cells(CERTIFIED, correlation, rng), cells(NEW, correlation, rng)
    return watch(certified, spot_checked(new, policy, CHECKED, rng), policy).verdict


def doubled(correlation: float, share: float, number: int) -> tuple[float, float]:
    """How many new positive subjects until the bound of missed is found broken, and how many new subjects until a drift
    is found, where the rate of missed is twice its bound; inf where it is not found."""
    rng = np.random.default_rng([number, round(100 * correlation), 2])
    policy, moved = policy_at(BOUNDS), norm.isf(BOUNDS[0]) - norm.isf(2 * BOUNDS[0])
    new = cells(LONG, correlation, rng)
    new["logit"] -= moved * new["label"]
    tests = watch(cells(CERTIFIED, correlation, rng), spot_checked(new, policy, share, rng), policy).tests
    when = {test.name: test.found_at or math.inf for test in tests}
    drift = min(when["score"], when["released"])
    return when["missed"], drift


def policy_at(bounds: tuple[float, float]) -> Policy:
    """Thresholds at which the true rates are the bounds, for any correlation: a new cell is normal."""
    low, high = norm.ppf(bounds[0]) + SKILL, norm.isf(bounds[1]) - SKILL
    if low >= high:
        raise SystemExit("the bounds leave no cell to review")
    return Policy(low, high, None, None, *bounds, 0.95, "subject", certified=True)


def cells(subjects: tuple[int, int], correlation: float, rng: np.random.Generator) -> pd.DataFrame:
    """Cells in the order of time, 9 to 100 a subject, log-normal; a subject's cells share an effect."""
    label = rng.permutation(np.repeat([1, 0], subjects))
    sizes = np.clip(np.exp(rng.normal(3.4, 0.9, len(label))).round().astype(int), 9, 100)
    middle = SKILL * (2 * label - 1) + math.sqrt(correlation) * rng.standard_normal(len(label))
    logit = np.repeat(middle, sizes) + math.sqrt(1 - correlation) * rng.standard_normal(sizes.sum())
    subject = np.repeat(np.arange(len(label)), sizes)
    return pd.DataFrame({"subject": subject, "label": np.repeat(label, sizes), "logit": logit})


def spot_checked(table: pd.DataFrame, policy: Policy, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """The decisions on cells, with the labels of those under review and of a random sample of the released ones."""
    decision = policy.decide(table["logit"], ("0", "1"))
    known = (decision == REVIEW) | (rng.random(len(table)) < share)
    weight = np.where(decision == REVIEW, 1, 1 / share)
    return table.assign(decision=decision, label=table["label"].where(known), weight=weight, checked=True)


def _when(found: list[tuple[float, float]]) -> dict[str, Any]:
    broken, drift = (np.array(each) for each in zip(*found, strict=True))

    def said(numbers: np.ndarray, share: float) -> str:
        value = np.quantile(numbers, share, method="higher")
        return f"{value:.0f}" if math.isfinite(value) else "–"

    return {
        **{f"broken_{name}": said(broken, share) for name, share in (("half", 0.5), ("most", 0.9))},
        "drift_half": said(drift, 0.5),
    }


if __name__ == "__main__":
    main()
