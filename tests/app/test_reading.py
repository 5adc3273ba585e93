"""The reading study: figures of reader, model and hybrid against an independent count."""

import numpy as np
import pandas as pd
import pytest

from leukemia.app.dashboard import dashboard_metrics
from leukemia.app.decisions import Decision
from leukemia.app.reading import labelled_cells, reading
from leukemia.evaluation.bootstrap import compare, evaluate

CLASSES = ("HEM", "ALL")


def rates(truth, called):
    truth, called = np.array(truth), np.array(called)
    right = {of: float((called[truth == of] == of).mean()) for of in CLASSES}
    return {"sensitivity": right["ALL"], "specificity": right["HEM"]}


def values(summary):
    return {name: summary[name]["value"] for name in ("sensitivity", "specificity")}


def test_reader_model_and_hybrid_are_compared_on_the_same_cells(review, decide):
    to_review, released = review.queues["review"], review.queues["check"]
    for place, cell_id in enumerate(to_review[:-2]):  # two stay open
        label = "unsure" if place == 0 else review.cells[cell_id].label if place % 3 else CLASSES[place % 2]
        decide(review, "Ann", cell_id, label, blind=place == 1)
    for cell_id in released[:4]:
        decide(review, "Ann", cell_id, "ALL", "check", blind=True)
    decide(
        review, "Ann", to_review[1], "HEM" if review.cells[to_review[1]].label == "ALL" else "ALL"
    )  # a change of mind
    (found,) = dashboard_metrics(review).readings
    assert (found.left_out, found.open, found.blind) == (1, 3, 5)

    given = {}
    for row in review.store.history():
        given.setdefault(row.cell, row.new_label)
    read = [cell_id for cell_id, label in given.items() if label in CLASSES]
    opinions = {cell_id: review.opinion(cell) for cell_id, cell in review.cells.items()}
    triage = {cell_id: opinion.triage for cell_id, opinion in opinions.items()}
    for cells, part, names in (
        (read, found.read, ("reader", "model", "hybrid")),
        ({*read, *released}, found.done, ("model", "hybrid")),
    ):
        final = {
            cell_id: given.get(cell_id) if triage[cell_id] == "review" else triage[cell_id]
            for cell_id in cells
        }
        called = {
            "reader": given,
            "model": {cell_id: opinion.label for cell_id, opinion in opinions.items()},
            "hybrid": final,
        }  # fmt: skip
        truth = [review.cells[cell_id].label for cell_id in cells]
        assert (part.positive, part.negative) == (truth.count("ALL"), truth.count("HEM"))
        expected = {name: rates(truth, [called[name][cell_id] for cell_id in cells]) for name in names}
        for name in names:
            assert values(part.rates[name]) == pytest.approx(expected[name])
        for name, apart in part.apart.items():
            assert values(apart) == pytest.approx(
                {of: expected[name][of] - expected["model"][of] for of in ("sensitivity", "specificity")}
            )


def test_intervals_are_those_of_the_clustered_paired_bootstrap():
    random = np.random.default_rng(0)
    label = np.repeat([0, 1], 60)
    table = pd.DataFrame({
        "path": [f"c{row}" for row in range(120)],
        "subject": [f"S{row // 6}" for row in range(120)],
        "label": label,
        "model": np.array(CLASSES)[label ^ (random.random(120) < 0.3)],
        "triage": "review",
    })  # fmt: skip
    given = np.array(CLASSES)[label ^ (random.random(120) < 0.1)]
    first = {path: decision_on(path, name) for path, name in zip(table["path"], given, strict=True)}
    found = reading("Ann", first, table, CLASSES)
    assert found.done is None  # nothing is released
    model, reader = (table.assign(logit=(names == "ALL") * 2.0 - 1) for names in (table["model"], given))
    expected, apart = evaluate([reader])["cells"], compare([model], [reader])
    for name in ("sensitivity", "specificity"):
        assert found.read.rates["reader"][name] == pytest.approx(expected[name])
        low_high = {end: found.read.apart["reader"][name][end] for end in ("low", "high")}
        assert low_high == pytest.approx({end: apart[name][end] for end in ("low", "high")})


def decision_on(path, label):
    return Decision(path, path, None, None, "", "", 0.0, 0.5, "review", "review", False, new_label=label)


def test_a_reader_of_unlabelled_cells_has_no_reading(review):
    table = labelled_cells(review)
    assert reading("Ann", {"elsewhere": decision_on("elsewhere", "ALL")}, table, CLASSES) is None
    assert reading("Ann", {}, table.iloc[:0], CLASSES) is None
