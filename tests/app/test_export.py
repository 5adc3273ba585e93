import csv
import html
import inspect
import io
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leukemia.app.export import consensus, decisions_csv, manifest, manifest_csv, train_command
from leukemia.config import compose
from leukemia.data.datamodule import CellDataModule
from leukemia.errors import InputError
from leukemia.runs import Run


def test_the_csv_holds_the_whole_history(review, decide):
    first, second = review.queues["review"][:2]
    decide(review, 'Ann, "the" first', first, "ALL")
    decide(review, 'Ann, "the" first', second, "unsure")
    review.store.undo('Ann, "the" first', "undo-it")
    rows = list(csv.DictReader(io.StringIO(decisions_csv(review.store))))
    assert [(row["cell"], row["old_label"], row["new_label"]) for row in rows] == [
        (first, "", "ALL"), (second, "", "unsure"), (second, "unsure", ""),
    ]  # fmt: skip
    assert rows[2]["undoes"] == rows[1]["id"]
    assert rows[0]["reviewer"] == 'Ann, "the" first'
    assert rows[0]["model"].startswith("run@")
    assert '"low": -2.0' in rows[0]["policy"]


@pytest.mark.parametrize("begin", list("=+-@\t\r"))
def test_no_name_in_the_csv_is_a_formula_and_numbers_stay_numbers(review, begin):
    first = review.queues["review"][0]
    name = f"{begin}HYPERLINK(1)"
    cell = replace(review.cells[first], path=f"{name}/a.png", subject=name, logit=-0.5)
    context = review.context(cell, "review", False, 1.0, comment=name)
    review.store.decide(name, context, "ALL", "request-formula")
    (row,) = csv.DictReader(io.StringIO(decisions_csv(review.store), newline=""))
    assert (row["path"], row["subject"], row["reviewer"]) == (f"'{name}/a.png", f"'{name}", f"'{name}")
    assert row["comment"] == f"'{name}"
    assert (row["logit"], row["new_label"]) == ("-0.5", "ALL")


def test_the_consensus_leaves_out_cells_on_which_reviewers_differ(review, decide):
    same, differ, unsure, one = review.queues["review"][:4]
    for reviewer, labels in (
        ("Ann", ("ALL", "ALL", "unsure", "HEM")),
        ("Bob", ("ALL", "HEM", "unsure", "unsure")),
    ):
        for cell_id, label in zip((same, differ, unsure, one), labels, strict=True):
            decide(review, reviewer, cell_id, label)
    found = consensus(review.store)
    assert found.labels == {same: "ALL", one: "HEM"}
    assert (found.differ, found.unsure) == (1, 1)


def test_the_manifest_trains_with_the_reviewed_labels(review, read_manifest, tmp_path):
    reviewed = review.queues["review"][:8]
    labels = {cell_id: ("ALL", "HEM")[place % 2] for place, cell_id in enumerate(reviewed)}
    (tmp_path / "manifest.csv").write_text(manifest_csv(labels, review.cells))
    data = read_manifest(tmp_path / "manifest.csv", "data.protocol=image")
    assert tuple(data.classes) == ("HEM", "ALL")
    assert len(data.cells) == 8
    of_path = {str(review.cells[cell_id].file): int(label == "ALL") for cell_id, label in labels.items()}
    assert dict(zip(data.cells["path"], data.cells["label"], strict=True)) == of_path
    assert set(data.cells["subject"]) == {review.cells[cell_id].subject for cell_id in reviewed}


def test_no_manifest_holds_artefacts_or_cells_of_poor_quality(review, decide):
    artefact, poor, *others = review.queues["review"][:6]
    for cell_id, label in zip(
        (artefact, poor, *others), ("artefact", "poor quality", *["ALL", "HEM"] * 2), strict=True
    ):
        decide(review, "Ann", cell_id, label, comment="smudge" if label == "artefact" else "")
    paths = set(pd.read_csv(io.StringIO(manifest(review, with_training=False)))["path"])
    assert paths == {str(review.cells[cell_id].file) for cell_id in others}
    trained = review.run.cells[review.run.cells["split"] == "train"].iloc[0]
    labels, unusable = consensus(review.store).labels, {trained["pixel_hash"]}
    text = manifest_csv(labels, review.cells, review.run, review.root, review.classes, unusable)
    assert trained["path"] not in text
    assert len(text.splitlines()) == 1 + review.run.cells["split"].isin(["train", "val"]).sum() - 1 + len(
        others
    )
    rows = list(csv.DictReader(io.StringIO(decisions_csv(review.store))))
    assert [(row["new_label"], row["comment"]) for row in rows[:2]] == [
        ("artefact", "smudge"),
        ("poor quality", ""),
    ]


def test_a_manifest_with_training_cells_is_the_data_of_a_next_run(review, read_manifest, tmp_path):
    reviewed = review.queues["review"][:4]
    labels = dict.fromkeys(reviewed, "ALL")
    trained = review.run.cells[review.run.cells["split"] == "train"].iloc[0]
    labels[trained["pixel_hash"]] = ("ALL", "HEM")[int(trained["label"])]  # the reviewed label counts
    text = manifest_csv(labels, review.cells, review.run, review.root, review.classes)
    (tmp_path / "manifest.csv").write_text(text)
    data = read_manifest(tmp_path / "manifest.csv", "data.protocol=subject_kfold")
    data.prepare_data()
    assert set(data.cells["split"]) == {"train", "val", "test"}
    known = review.run.cells["split"].isin(["train", "val"]).sum()
    assert len(data.cells) == known + 4
    changed = data.cells[data.cells["path"].str.endswith(trained["path"])]
    assert changed["label"].tolist() == [1 - trained["label"]]


@pytest.fixture
def other_images(tmp_path):
    """A folder of two subjects with three pictures each; one of the three is as large as those of the final set."""
    random = np.random.default_rng(0)
    for subject in ("P1", "P2"):
        (tmp_path / "other" / subject).mkdir(parents=True)
        for place, size in enumerate((64, 450, 600)):
            pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "other" / subject / f"{place}.png")
    return tmp_path / "other"


def scanned(serve, run, images):
    page = serve(run, images=images)
    page.wait_for_scores()
    return page


def test_other_pictures_are_exported_together_with_the_runs_training_cells(serve, run, decide, other_images):
    page = scanned(serve, run, other_images)
    for cell in page.review.cells.values():
        decide(page.review, "Ann", cell.id, "ALL" if cell.subject == "P1" else "HEM")
    status, text, _ = page.ask("GET", "/export/manifest.csv?with=training")
    assert status == 200
    table = pd.read_csv(io.BytesIO(text))
    assert len(table) == 6 + run.cells["split"].isin(["train", "val"]).sum()
    assert all(Path(path).is_file() for path in table["path"])


def test_a_next_run_sees_large_pictures_as_this_one_did(
    serve, run, decide, read_manifest, other_images, tmp_path
):
    page = scanned(serve, run, other_images)
    for cell in page.review.cells.values():
        decide(page.review, "Ann", cell.id, "ALL" if cell.subject == "P1" else "HEM")
    for _ in range(2):  # the second finds the copies
        (tmp_path / "manifest.csv").write_bytes(page.ask("GET", "/export/manifest.csv")[1])
    data = read_manifest(tmp_path / "manifest.csv", "data.protocol=image")
    assert len(data.cells) == 6
    found = dict(zip(data.pixels.hashes.tolist(), data.pixels.images, strict=True))
    assert set(found) == set(page.review.cells)
    for cell in page.review.cells.values():
        expected = page.review.network_pixels(page.review.picture(cell))
        np.testing.assert_array_equal(found[cell.id], expected)
    copies = [path for path in data.cells["path"] if "other" not in Path(path).parts]
    assert len(copies) == 2
    again = serve(run)  # without --images: the copies are not added pictures
    assert not any(cell_id in again.review.cells for cell_id in page.review.cells)


def test_the_page_names_decided_cells_that_are_not_under_review_now(serve, run, decide, other_images):
    page = scanned(serve, run, other_images)
    for cell in page.review.cells.values():
        decide(page.review, "Ann", cell.id, "ALL" if cell.subject == "P1" else "HEM")
    assert 'id="absent"' not in page.ask("GET", "/dashboard")[1].decode()
    again = serve(run)
    shown = again.ask("GET", "/dashboard")[1].decode()
    assert "6 of the reviewed cells are not in the manifests" in shown
    assert "start with the same --images to export them" in shown
    status, said, _ = again.ask("GET", "/export/manifest.csv")
    assert status == 422
    assert "6 decided cells are not under review now: start with the same --images" in said["error"]


def test_a_reviewed_picture_that_is_missing_is_named(serve, run, decide, other_images):
    page = scanned(serve, run, other_images)
    for cell in page.review.cells.values():
        decide(page.review, "Ann", cell.id, "ALL" if cell.subject == "P1" else "HEM")
    (other_images / "P2" / "2.png").unlink()
    status, said, _ = page.ask("GET", "/export/manifest.csv")
    assert status == 422
    assert "2.png cannot be read any more" in said["error"]


def test_missing_training_cells_are_refused_with_the_remedy(serve, run, other_images):
    config = run.config
    config["data"]["root"] = str(other_images.parent / "gone")
    run.write_config(config)
    status, said, _ = scanned(serve, run, other_images).ask("GET", "/export/manifest.csv?with=training")
    assert status == 422
    assert "gone any more" in said["error"]
    assert "put them back" in said["error"]


CLASSES = ("ALL", "B-ALL", "b all", "it's", 'say "so"', "100", "007", "1e3", "true", "NULL", "inf", "a,b", "x=y", "-x",
           "${seed}", "back\\", 'end\\"', "\\\\x", "$HOME `ls`", "ALL (L3); #1", "Zoë", "{a: 1}", "?", "~")  # fmt: skip


@pytest.mark.parametrize("positive", CLASSES)
def test_the_command_of_the_dashboard_carries_the_class_through_shell_and_hydra(review, positive):
    review.classes = ("other", positive)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {train_command(review)}"], capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    config = compose(words[1:])
    assert str(config.data.positive) == positive
    assert config.data.image_size == 32  # that of the run
    assert config.data.root == "manifest-with-training.csv"


def test_the_command_names_only_settings_that_differ_from_the_defaults(serve, run):
    usual = inspect.signature(CellDataModule).parameters
    config = run.config
    config["data"] |= {"image_size": usual["image_size"].default, "resize": "crop"}
    run.write_config(config)
    shown = html.unescape(serve(Run(run.folder)).ask("GET", "/dashboard")[1].decode())
    plain = "leukemia-train data=cells data.root=manifest-with-training.csv data.positive=ALL"
    assert f"<code>{plain} data.resize=crop</code>" in shown
    config["data"]["resize"] = usual["resize"].default
    run.write_config(config)
    assert f"<code>{plain}</code>" in serve(Run(run.folder)).ask("GET", "/dashboard")[1].decode()


def test_cells_without_a_subject_form_one_subject(review, tmp_path):
    known, unknown = review.queues["review"][:2]
    cells = dict(review.cells)
    cells[unknown] = replace(cells[unknown], subject=None)
    table = pd.read_csv(io.StringIO(manifest_csv({known: "ALL", unknown: "HEM"}, cells)), dtype=str)
    assert table["subject"].tolist() == [cells[known].subject, "UNKNOWN"]
    for cell_id in (known, unknown):
        cells[cell_id] = replace(cells[cell_id], subject=None)
    assert "subject" not in manifest_csv({known: "ALL", unknown: "HEM"}, cells)


@pytest.mark.parametrize("labels", [[], ["ALL", "ALL"]])
def test_one_class_alone_is_refused_with_the_remedy(review, labels):
    reviewed = dict(zip(review.queues["review"], labels, strict=False))
    with pytest.raises(InputError, match="two classes: review more"):
        manifest_csv(reviewed, review.cells)
