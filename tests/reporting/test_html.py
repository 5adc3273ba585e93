import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from leukemia.errors import InputError
from leukemia.reporting import sections
from leukemia.reporting.html import write_report
from leukemia.reporting.results import GONE
from leukemia.runs import Sweep

Maker = Callable[..., Any]


class Page(HTMLParser):
    """Tables by id as rows of cell texts, the text of the page, its tags and its addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.images: list[str] = []
        self.text = ""
        self._table: list[list[str]] | None = None
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [values[name] or "" for name in ("src", "href", "srcset", "data") if name in values]
        self.alts += [values.get("alt") or ""] * (tag == "img")
        self.images += [values.get("src") or ""] * (tag == "img")
        self.ids += [values[name] or "" for name in ("id",) if name in values]
        if tag == "table":
            self._table = self.tables.setdefault(values["id"] or "", [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag == "br":
            self.handle_data(" ")
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = None
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell and self._table:
            self._table[-1][-1] += data

    def rows(self, table: str) -> list[dict[str, str]]:
        header, *rows = self.tables[table]
        names = [" ".join(name.split()) for name in header]
        return [dict(zip(names, map(str.strip, row), strict=True)) for row in rows]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def signed(points: float) -> str:
    return f"{100 * points:+.2f}".replace("-", "−")


def spread(values: pd.Series, scale: float, digits: int) -> str:
    sd = np.std(values.to_numpy(float), ddof=1)
    return f"{scale * values.mean():.{digits}f} ± {scale * sd:.{digits}f}"


def test_every_metric_in_the_tables_is_that_of_results_csv(tmp_path: Path, make_sweep: Maker) -> None:
    make_sweep(tmp_path)
    page = page_of(tmp_path)
    results = pd.read_csv(tmp_path / "results.csv")
    by_name = results.set_index("run")
    percent = {
        "Accuracy %": "accuracy", "Balanced accuracy %": "balanced_accuracy", "Weighted F1 %": "f1_weighted",
        "Sensitivity %": "sensitivity", "Specificity %": "specificity", "Train accuracy %": "train_accuracy",
        "Vote accuracy %": "subjects.accuracy", "Vote balanced accuracy %": "subjects.balanced_accuracy",
        "Vote sensitivity %": "subjects.sensitivity", "Vote specificity %": "subjects.specificity",
        "Mean share of correct cells %": "subjects.mean_cell_accuracy",
    }  # fmt: skip
    fraction = {"AUROC": "auroc", "ECE": "ece", "Loss": "loss", "AUROC of the mean logit": "subjects.auroc"}
    whole = {"Cells": "n_images", "Subjects": "subjects.n", "Best epoch": "best_epoch"}
    checked = set()
    for table in ("runs", "training", "subjects"):
        assert len(page.rows(table)) == 12
        for row in page.rows(table):
            run = by_name.loc[next(name for name in by_name.index if name in row["Run"])]
            for column, text in row.items():
                if column in percent:
                    assert text == f"{100 * run[percent[column]]:.2f}"
                elif column in fraction:
                    assert text == f"{run[fraction[column]]:.3f}"
                elif column in whole:
                    assert text == f"{run[whole[column]]:.0f}"
                elif column == "Above majority, points":
                    assert text == signed(run["accuracy"] - run["majority_accuracy"])
                elif column == "Train–validation gap, points":
                    assert text == signed(run["train_val_gap"])
                else:
                    assert column in ("Run", "Time")
                checked.add(column)
    assert checked >= percent.keys() | fraction.keys() | whole.keys()

    for row, others in zip(page.rows("grid"), page.rows("grid-metrics"), strict=True):
        network, stage = row["Network"].split()[0], row["Trains from"]
        runs = results[(results["network"] == network.lower()) & (results["trainable_from"] == stage)]
        study = {
            ("ResNet18", "head"): 0.6577, ("ResNet18", "layer4"): 0.7622, ("ResNet50", "layer4"): 0.7841,
        }.get((network, stage))  # fmt: skip
        accuracy, majority = runs["accuracy"].mean(), runs["majority_accuracy"].mean()
        assert row["n"] == "2"
        assert row["Accuracy %"] == spread(runs["accuracy"], 100, 2)
        assert row["Majority class %"] == f"{100 * majority:.2f}"
        assert row["Above it, points"] == signed(accuracy - majority)
        assert row["Seed study %"] == ("–" if study is None else f"{100 * study:.2f}")
        assert row["Difference to it, points"] == ("–" if study is None else signed(accuracy - study))
        assert row["Train–validation gap, points"] == spread(runs["train_val_gap"], 100, 2)
        for column in ("Balanced accuracy %", "Weighted F1 %", "Sensitivity %", "Specificity %"):
            assert others[column] == spread(runs[percent[column]], 100, 2)
        for column in ("AUROC", "ECE", "Loss"):
            assert others[column] == spread(runs[fraction[column]], 1, 3)


def test_names_from_data_are_never_markup_nor_formulas(tmp_path: Path, make_run: Maker) -> None:
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    make_run(folder, name=evil.replace("/", "_"), classes=(evil, "$x$"), settings={"model.net.weights": evil})
    make_run(folder, name="=failed()", status="failed", error=f"no file {evil}", trainable_from=evil)
    run = make_run(folder, name="cut", status="interrupted")
    run.write_json("status.json", {**run.status, "machine": evil, "versions": {evil: evil}, "status": evil})
    bad = make_run(folder, name="unread")
    bad.write_table("predictions.csv", bad.predictions.assign(path=evil))
    page = page_of(folder)
    assert "script" not in page.tags
    assert page.text.count(evil) >= 6
    assert page.tags.count("img") == len(page.alts) == sum(a.startswith("data:") for a in page.addresses)
    assert "<script" not in (folder / "results.md").read_text()
    assert sorted(pd.read_csv(folder / "results.csv")["run"])[0] == "'=failed()"


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path, make_sweep: Maker) -> None:
    make_sweep(tmp_path, seeds=1)
    text = write_report(tmp_path).read_text()
    page = Page(text)
    assert all(a.startswith(("#", "data:image/svg+xml;base64,")) for a in page.addresses)
    assert all(a[1:] in page.ids for a in page.addresses if a.startswith("#"))
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text
    assert "url(" not in text
    assert all(page.alts)


def test_the_marks_are_on_the_page(tmp_path: Path, make_run: Maker) -> None:
    make_run(tmp_path, name="a", trainable_from="head", skill=0.0)
    make_run(tmp_path, name="b", trainable_from="layer4", skill=2.0)
    page = page_of(tmp_path)
    assert "Epoch chosen on these cells" in page.text
    marked = [name for name in page.tables if name not in ("study", "differences", "settings")]
    assert page.text.count("All rows: epoch chosen on these cells") == len(marked) + 1  # the seed study's too
    assert "not shown to be better than the majority class" in page.tables["grid"][1][0]
    assert "not shown" not in page.tables["grid"][2][0]
    assert "No leak" in page.text
    assert all("epoch chosen on these cells" in alt for alt in page.alts)


@pytest.mark.parametrize(("protocol", "leaks"), [("image", 240), ("image", 0), ("official", 3)])
def test_a_leak_is_on_top_in_every_table_and_on_every_picture(
    tmp_path: Path, protocol: str, leaks: int, make_run: Maker
) -> None:
    for stage in ("head", "layer4"):
        make_run(tmp_path, trainable_from=stage, protocol=protocol, leaks=leaks, subjects=leaks == 3)
    page = page_of(tmp_path)
    assert page.text.index("LEAKS") < page.text.index("Best setting")
    own = [table for table in page.tables if table != "study"]
    assert len(re.findall("All rows:\\s+LEAKS", page.text)) == len(own)
    assert page.alts
    assert all("LEAKS" in alt for alt in page.alts)


def test_runs_without_metrics_are_listed_with_their_error(tmp_path: Path, make_run: Maker) -> None:
    make_run(tmp_path, name="a")
    make_run(tmp_path, name="b", status="failed", error="out of memory")
    make_run(tmp_path, name="c", status="running")
    make_run(tmp_path, name="d", status="running")
    Sweep(tmp_path).plan(["a", "b", "c", "d", "e", "f"], total=6)
    with FileLock(tmp_path / ".c.lock"):  # somebody trains in c; the process of d was killed
        page = page_of(tmp_path)
    assert "6 runs: 1 done, 1 failed, 1 running, 1 interrupted, 2 pending." in page.text
    assert [list(row.values()) for row in page.rows("failures")] == [
        ["b", "failed", "out of memory"],
        ["c", "running", "–"],
        ["d", "interrupted", GONE],
        ["e", "pending", "–"],
        ["f", "pending", "–"],
    ]
    assert "c (running)" in " ".join(page.alts)


@pytest.mark.parametrize(
    "settings",
    [
        {"status": "failed", "error": "boom"},
        {"subjects": False, "protocol": "image"},
        {"positive_share": 1.0},
        {"epochs": 1},
        {"cells": 1},
    ],
)
def test_one_run_of_any_kind_makes_a_page_without_empty_parts(
    tmp_path: Path, settings: dict[str, Any], make_run: Maker
) -> None:
    run = make_run(tmp_path / "sweep", **settings)
    page = page_of(run.folder)
    assert all(len(rows) > 1 for rows in page.tables.values())
    assert "NaN" not in page.text
    assert "nan" not in re.findall(r"\w+", page.text)
    assert "None" not in page.text


def test_files_that_are_gone_leave_a_page(tmp_path: Path, make_run: Maker) -> None:
    run = make_run(tmp_path, name="a")
    for name in ("history.csv", "predictions.csv", "config.yaml"):
        (run.folder / name).unlink()
    page = page_of(tmp_path)
    assert "has no predictions.csv" in page.text
    assert page.tags.count("img") == 0
    (run.folder / "predictions.csv").write_text("")
    (run.folder / "history.csv").write_text("")
    assert "predictions.csv" in page_of(tmp_path).text


@pytest.mark.parametrize("settings", [{"classes": ("lymphocyte", "ig")}, {"synthetic": True}])
def test_other_cells_than_those_of_cnmc_are_not_held_against_the_seed_study(
    tmp_path: Path, settings: dict[str, Any], make_run: Maker
) -> None:
    for seed in (0, 1):
        make_run(tmp_path, seed=seed, **settings)
    page = page_of(tmp_path)
    assert "Seed study %" not in page.tables["grid"][0]
    assert "study" not in page.tables


@pytest.mark.parametrize(("cells", "compared"), [(1867, True), (240, False)])
def test_a_single_run_has_no_grid_and_the_seed_study_only_on_as_many_cells(
    tmp_path: Path, cells: int, compared: bool, make_run: Maker
) -> None:
    page = page_of(make_run(tmp_path / "sweep", cells=cells).folder)
    assert ("study" in page.tables) == compared
    assert "grid" not in page.tables
    assert "one run" in page.text
    assert {"intervals", "training", "runs"} <= page.tables.keys()


def test_settings_and_versions_are_listed(tmp_path: Path, make_run: Maker) -> None:
    make_run(tmp_path, seed=0)
    other = make_run(tmp_path, seed=1)
    other.write_json("status.json", {**other.status, "versions": {"torch": "2.11.0"}})
    text = page_of(tmp_path).text
    assert "seed0, 1" in text
    assert "data.image_size224" in text
    assert "torch2.10.0 (1 run); 2.11.0 (1 run)" in text


@pytest.mark.slow
def test_many_runs_keep_the_page_small_and_say_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sweep: Maker
) -> None:
    monkeypatch.setattr(sections, "MOST_CURVES", 6)
    make_sweep(tmp_path, seeds=2, epochs=3)
    page = page_of(tmp_path)
    shown = [alt for alt in page.alts if alt.startswith("Learning curves")]
    assert len(shown) == 6
    assert all("seed 0" in alt for alt in shown)
    assert "Curves of 6 more runs are left out" in " ".join(page.text.split())


@pytest.mark.slow
def test_thirty_runs_of_many_subjects_make_a_page_under_three_megabytes(thirty_runs: Path) -> None:
    page = Page(thirty_runs.read_text(encoding="utf-8"))
    assert thirty_runs.stat().st_size < 3e6
    assert len(page.tables["differences"]) - 1 == 6
    assert "5 more differences: see leukemia evaluate" in page.text


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
