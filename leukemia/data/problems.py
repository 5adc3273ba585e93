"""Problems of a data set: collected while it is read, listed by the check, raised by the readers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from leukemia.errors import InputError


class Kind(NamedTuple):
    """A kind of problem, and its remedy."""

    what: str
    remedy: str


NOT_UTF8 = Kind("names that are not UTF-8", "rename these files, so that tables can name them")


@dataclass(frozen=True)
class Problem:
    """One kind of problem and every place where it was found."""

    what: str
    where: tuple[str, ...] = ()
    remedy: str = ""

    def lines(self, limit: int = 20) -> list[str]:
        """A headline, the first `limit` places and how many more there are, and the remedy."""
        count = f" ({len(self.where):,})" if len(self.where) > 1 else ""
        places = [*self.where[:limit], *[f"and {len(self.where) - limit:,} more"] * (len(self.where) > limit)]
        remedy = [f"  -> {self.remedy}"] if self.remedy else []
        return [self.what + count, *(f"    {place}" for place in places), *remedy]


class Problems:
    """Problems in the order in which they are found, by kind."""

    def __init__(self) -> None:
        self._places: dict[Kind, list[str]] = {}

    def add(self, kind: Kind, *places: str) -> None:
        if places:
            self._places.setdefault(kind, []).extend(places)

    def found(self) -> tuple[Problem, ...]:
        return tuple(Problem(kind.what, tuple(where), kind.remedy) for kind, where in self._places.items())

    def __contains__(self, kind: Kind) -> bool:
        return kind in self._places


def refuse(root: Path | str, problems: Sequence[Problem]) -> None:
    """Raise the first few problems as one message, if there are any.

    Raises:
        InputError: with each problem, its places and its remedy.
    """
    if not problems:
        return
    lines = [line for problem in problems[:3] for line in problem.lines(limit=3)]
    lines += [f"and {len(problems) - 3} more kinds of problem"] * (len(problems) > 3)
    head = f"{root} cannot be used as it is (`leukemia data check` lists everything):"
    raise InputError("\n  ".join([head, *lines]))
