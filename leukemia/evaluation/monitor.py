"""Watching a certified policy in use. Subjects are the independent units; cells of a subject may depend on each other.

Each test keeps the wealth of a player who bets against "as certified". While that is true, it is a nonnegative
martingale (or less), so it reaches 1 / error with probability `error` at most, at whatever time one looks (Ville 1939).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leukemia.evaluation.policy import REVIEW, Policy
from leukemia.evaluation.predictions import plain_subjects
from leukemia.evaluation.thresholds import NAMES as BOUNDS

Floats = NDArray[np.float64]
ERROR = 0.05  # the probability that any test fails while all is as certified
POWERS = np.linspace(0.1, 1, 10)
SLOPES = (-1.8, -1.2, -0.6, 0.6, 1.2, 1.8)
# Shares of the largest bet that cannot leave the player in debt.
BETS = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
AS_CERTIFIED, DRIFTING, BROKEN = "as certified", "drifting", "bound broken"


@dataclass(frozen=True)
class Test:
    """One test, after the last subject.

    Attributes:
        name: `missed`, `false_alarm` (of the bounds), `released`, `stopped` or `score` (of a drift).
        subjects: number of new subjects that count.
        value: mean over them; of a bound the estimated rate.
        certified: the bound, or the mean over the certified subjects.
        at_least: of a bound: the rate that is shown with the confidence of this test.
        wealth: the largest so far.
        needed: the wealth that rejects "as certified".
        found_at: the subject, counted from 1, at which it was reached; None where it was not.
    """

    name: str
    subjects: int
    value: float | None
    certified: float
    wealth: float
    needed: float
    found_at: int | None
    at_least: float | None = None

    @property
    def is_of_a_bound(self) -> bool:
        return self.at_least is not None


@dataclass(frozen=True)
class Monitoring:
    """All tests, and what follows."""

    tests: list[Test]

    @property
    def verdict(self) -> str:
        """`bound broken`, `drifting` or `as certified`. Only errors on labelled cells can break a bound."""
        found = [test for test in self.tests if test.found_at is not None]
        if any(test.is_of_a_bound for test in found):
            return BROKEN
        return DRIFTING if found else AS_CERTIFIED

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "tests": [asdict(test) for test in self.tests]}


def watch(certified: pd.DataFrame, cells: pd.DataFrame, policy: Policy) -> Monitoring:
    """Compare new subjects with those that certified a policy.

    Args:
        certified: the predictions that certified it: `subject, label, logit`, and `stopped` where a gate is known.
        cells: new cells in the order of time: `subject, logit, decision` (`0`, `1` or `review`), `label` (1, 0, or
            missing where unknown), `weight` of a known label (1 / its sampling probability), `checked` (whether any
            cell of its batch has a known label), and `stopped` where a gate is known.
        policy: certified with unit=subject.
    """
    drifts = {"released": _released(certified, policy), "score": certified["logit"]}
    now = {"released": _released(cells, policy), "score": cells["logit"]}
    if "stopped" in certified and "stopped" in cells:
        drifts["stopped"], now["stopped"] = certified["stopped"], cells["stopped"]
    checked = cells[cells["checked"].astype(bool)]
    bounds = [bound for bound in BOUNDS if 0 < getattr(policy, bound) < 1 and len(checked)]
    each = ERROR / (len(drifts) + len(bounds))
    tests = []
    pure = certified.groupby(plain_subjects(certified))["label"].nunique().max() == 1
    for bound in bounds:
        losses = losses_by_subject(checked, 1 if bound == BOUNDS[0] else 0, pure)
        tests.append(_bound_test(bound.removeprefix("max_"), losses, getattr(policy, bound), each))
    for name, values in drifts.items():
        before, after = _means(np.asarray(values), certified), _means(np.asarray(now[name]), cells)
        wealth = conformal_wealth(conformal_p_values(before, after))
        tests.append(_test(name, after, float(before.mean()), wealth, each))
    return Monitoring(tests)


def losses_by_subject(cells: pd.DataFrame, label: int, pure: bool) -> Floats:
    """An estimate of each subject's share of cells of a class that are released as the other class, in the order of the
    subjects: its mean is at most that share, over the draw of the spot-checks.

    It is the sum of the weights of the errors found (Horvitz and Thompson 1952), over the number of cells that may be
    of the class: all but those that are known not to be.

    Args:
        cells: as `watch` takes them.
        label: of the class.
        pure: whether a subject's cells are of one class, so that any known label tells it. A subject without a known
            label counts with a loss of 0.
    """
    known, weight = cells["label"].notna(), cells["weight"].to_numpy(dtype=float)
    own = known & (cells["label"] == label)
    found = pd.DataFrame({
        "error": np.where(own & (cells["decision"] == str(1 - label)), weight, 0.0),
        "possible": ~(known & ~own & (weight == 1)),
        "own": own,
        "known": known,
    }).groupby(plain_subjects(cells).to_numpy(), sort=False).sum()  # fmt: skip
    counts = found["possible"] > 0
    if pure:
        counts &= (found["own"] > 0) | (found["known"] == 0)
    found = found[counts]
    return (found["error"] / found["possible"]).to_numpy(dtype=float)


def spot_check_weights(subject: ArrayLike, released: ArrayLike, checked: ArrayLike) -> Floats:
    """1 / the probability that a released cell was checked, (n,), where the checked ones are a simple random sample of
    a batch's released cells. It is conditional on the subjects before it, so that it is valid for bets on one subject
    after the other; 1 where nothing was left to draw.

    Args:
        subject, released, checked: of each cell of the batch, (n,).
    """
    codes = pd.factorize(np.asarray(subject))[0]
    left = []
    for which in (checked, released):
        of_subject = np.bincount(codes, weights=np.asarray(which, dtype=float))
        left.append(of_subject.sum() - np.cumsum(of_subject) + of_subject)
    weight = np.divide(left[1], left[0], out=np.ones(len(left[0])), where=left[0] > 0)
    return np.asarray(weight[codes])


def bet_wealth(losses: ArrayLike, bound: float) -> Floats:
    """The wealth after each of n losses of 0 or more, (n,), of bets against "their mean is at most `bound`": the mean
    over BETS of prod (1 + bet (loss / bound - 1)). A bet of at most 1 cannot leave the player in debt, whatever the
    weights behind a loss (Waudby-Smith and Ramdas 2023, JRSS B 86; Waudby-Smith et al. 2024, for weighted losses).
    """
    relative = np.asarray(losses, dtype=float) / bound - 1
    return _mixture(np.cumsum(np.log1p(BETS[:, None] * relative), axis=1))


def conformal_p_values(before: ArrayLike, after: ArrayLike) -> Floats:
    """Of each new value its rank from above among all that came before it, ties broken at random, (n,). They are
    independent and uniform while all values are exchangeable (Vovk, Gammerman and Shafer 2005, Theorem 8.2)."""
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    sofar, found = np.concatenate([before, after]), np.empty(len(after))
    ties = np.random.default_rng(0).random(len(after))
    for number, (value, tie) in enumerate(zip(after, ties, strict=True)):
        past = sofar[: len(before) + number]
        found[number] = ((past > value).sum() + tie * ((past == value).sum() + 1)) / (len(past) + 1)
    return found


def conformal_wealth(p_values: ArrayLike) -> Floats:
    """The wealth after each conformal p-value, (n,).

    Half of it is bet on extreme values, by power martingales prod e p^(e - 1) (Vovk, Nouretdinov and Gammerman 2003).
    Half is bet on a moved mean, by prod (1 + s (p - 1/2)) (Vovk et al. 2021, PMLR 152). The bets are in equal parts for
    each e of POWERS and s of SLOPES, and for values that are too high, too low, and at either end.
    """
    p = np.clip(np.asarray(p_values, dtype=float), 1e-9, 1 - 1e-9)
    ends = 2 * np.minimum(p, 1 - p)
    powers = np.concatenate([np.log(e) + (e - 1) * np.log([p, 1 - p, ends]) for e in POWERS])
    slopes = np.concatenate([np.log1p(s * (np.stack([p, ends]) - 0.5)) for s in SLOPES])
    return (_mixture(np.cumsum(powers, axis=1)) + _mixture(np.cumsum(slopes, axis=1))) / 2


def _mixture(logs: Floats) -> Floats:
    """The mean of several wealths, (players, n), from their logarithms."""
    return np.asarray(np.exp(np.minimum(logs, 700)).mean(axis=0))


def _bound_test(name: str, losses: Floats, bound: float, error: float) -> Test:
    test = _test(name, losses, bound, bet_wealth(losses, bound), error)
    low, high = 0.0, max(1.0, bound)
    for _ in range(30):  # the wealth falls as the bound rises
        middle = (low + high) / 2
        if len(losses) and bet_wealth(losses, middle).max() >= 1 / error:
            low = middle
        else:
            high = middle
    return Test(**{**asdict(test), "at_least": low})


def _test(name: str, values: Floats, certified: float, wealth: Floats, error: float) -> Test:
    reached = np.flatnonzero(wealth >= 1 / error)
    return Test(
        name=name,
        subjects=len(values),
        value=float(values.mean()) if len(values) else None,
        certified=certified,
        wealth=float(wealth.max(initial=1.0)),
        needed=1 / error,
        found_at=int(reached[0]) + 1 if len(reached) else None,
    )


def _released(table: pd.DataFrame, policy: Policy) -> NDArray[np.bool_]:
    """Which cells the policy releases, a gate aside."""
    return np.asarray(policy.decide(table["logit"], ("0", "1")) != REVIEW)


def _means(values: ArrayLike, table: pd.DataFrame) -> Floats:
    """The mean over each subject's cells, in the order of the subjects."""
    by = pd.Series(np.asarray(values, dtype=float)).groupby(plain_subjects(table).to_numpy(), sort=False)
    return by.mean().to_numpy(dtype=float)
