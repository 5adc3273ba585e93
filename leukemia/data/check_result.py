"""The result of `leukemia data check`, as text and as plain data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from leukemia.data.duplicates import Duplicates
from leukemia.data.problems import Problem


@dataclass(frozen=True)
class Count:
    """The counts of one part of a set beside the known ones; None where a count is unknown.

    Both are (images, positive images, negative images, positive subjects, negative subjects).
    """

    part: str
    found: tuple[int | None, ...]
    known: tuple[int | None, ...] | None

    def differs(self, classes: tuple[str, str]) -> str:
        """The difference to the known counts, in words; empty where there is none."""
        if self.known is None:
            return ""
        images, positive, negative, *subjects = (
            0 if found is None or known is None else found - known
            for found, known in zip(self.found, self.known, strict=True)
        )
        named = [(images, "images"), (sum(subjects), "subjects")]
        if not images:  # as many as there should be, but not the right ones
            named = [
                (positive, classes[1]),
                (negative, classes[0]),
                *zip(subjects, _subjects(classes), strict=True),
            ]
        return ", ".join(
            f"{abs(n):,} {what.removesuffix('s') if abs(n) == 1 else what} {'missing' if n < 0 else 'too many'}"
            for n, what in named
            if n
        )


@dataclass(frozen=True)
class Check:
    """The result of a check. A set with problems is not whole; notes are for information.

    Attributes:
        root: of the data set.
        classes: the names of class 0 and class 1.
        counts: a row for each fold and split.
        sizes: how many pictures have each size, such as `450x450`.
        duplicates: identical pictures.
    """

    root: str
    classes: tuple[str, str]
    counts: tuple[Count, ...]
    sizes: dict[str, int]
    duplicates: Duplicates
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The result as lists, dicts, numbers and strings."""
        return {"ok": self.ok, **asdict(self)}

    def lines(self) -> list[str]:
        """The result as text. The verdict is last, where a terminal shows it."""
        kinds = len(self.problems)
        verdict = "No problem was found."
        if kinds:
            verdict = f"The set is not whole: {kinds} kind{'s' * (kinds > 1)} of problem."
        elif self.counts[0].known:
            verdict = "The set is whole."
        parts = [
            [self.root],
            _counts(self.counts, self.classes),
            _duplicates(self.duplicates, self.counts[0].known is not None),
            _sizes(self.sizes),
            *([f"Note: {head}", *rest] for head, *rest in (note.lines() for note in self.notes)),
            *([f"Problem: {head}", *rest] for head, *rest in (problem.lines() for problem in self.problems)),
            [verdict],
        ]
        return [line for part in parts for line in ("", *part)][1:]


def _counts(counts: Sequence[Count], classes: tuple[str, str]) -> list[str]:
    """A row for each part, with found and known counts side by side."""
    with_known = counts[0].known is not None
    columns = [["", "", *(count.part for count in counts)]]
    for place, head in enumerate(["images", classes[1], classes[0], *_subjects(classes)]):
        columns.append([head, "found", *(_number(count.found[place]) for count in counts)])
        if with_known:
            columns.append(["", "known", *(_number(count.known[place]) for count in counts if count.known)])
    widths = [max(map(len, column)) for column in columns]
    rows = [
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    return rows if with_known else [rows[0], *rows[2:]]


def _duplicates(found: Duplicates, cnmc: bool) -> list[str]:
    if not found.sets:
        return ["No two pictures are identical."]
    within = {f"within {split}": pairs for split, pairs in found.within.items()}
    between = {f"between {splits}": pairs for splits, pairs in found.between.items()}
    rows = [
        "Pairs of identical pictures (equal pixels, whatever the header of the file)",
        *_listed(within | between),
        *["    (known of C-NMC: 104 within train, 94 of them across folds, and 2 within final)"] * cnmc,
    ]
    if found.across_folds:
        pairs = sum(found.across_folds.values())
        rows += [f"  Official folds that share them ({pairs:,} of the pairs)", *_listed(found.across_folds)]
    if found.across_subjects:
        rows += ["  Subjects that share them", *_listed(found.across_subjects)]
        rows += [f"    within one subject: {found.within_subjects:,}"]
    if found.groups:
        rows += ["  Subjects that they join, in cells: no split may part them", *_listed(found.groups)]
    which = Problem("  Which they are", tuple(" = ".join(paths) for paths in found.sets))
    return rows + which.lines(limit=10)


def _sizes(sizes: dict[str, int]) -> list[str]:
    named = [f"{size} ({number:,})" for size, number in list(sizes.items())[:10]]
    return [f"Sizes: {', '.join(named) or 'none could be read'}{', ...' * (len(sizes) > 10)}"]


def _listed(numbers: dict[str, int], limit: int = 20) -> list[str]:
    width = max(map(len, numbers))
    rows = [f"    {name.ljust(width)}  {number:>6,}" for name, number in list(numbers.items())[:limit]]
    return rows + [f"    and {len(numbers) - limit:,} more"] * (len(numbers) > limit)


def _subjects(classes: tuple[str, str]) -> tuple[str, str]:
    return f"{classes[1]} subjects", f"{classes[0]} subjects"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
