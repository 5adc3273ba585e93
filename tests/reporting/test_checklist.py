"""The TRIPOD+AI checklist names values that stand in the files that it names."""

import re

import pytest

from leukemia.cli import main
from leukemia.reporting.checklist import ITEMS, ONLY_YOU
from leukemia.runs import Sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, make_run):
    folder = tmp_path_factory.mktemp("checklist")
    for stage in ("head", "layer4"):
        run = make_run(folder, trainable_from=stage, protocol="holdout")
        cells = run.predictions[["path", "subject", "label", "split"]]
        run.write_table("cells.csv", cells.assign(group=cells["subject"], pixel_hash=cells["path"]))
    with pytest.raises(SystemExit) as stop:
        main(["report", str(folder), "--checklist", "tripod-ai"])
    assert stop.value.code == 0
    return Sweep(folder)


def answers(sweep):
    text = (sweep.folder / "tripod-ai.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    return {row[0]: row[2].replace("\\_", "_") for row in rows}


def test_every_item_is_there_by_its_number(sweep):
    numbers = list(answers(sweep))
    assert numbers == [number for number, *_ in ITEMS]
    assert sorted({int(re.match(r"\d+", number)[0]) for number in numbers}) == list(range(1, 28))


def test_answers_hold_the_values_of_the_files_that_they_name(sweep):
    found = answers(sweep)
    best = next(run for run in sweep.runs if run.config["model"]["trainable_from"] == "layer4")
    assert f"Accuracy % {100 * best.metrics['accuracy']:.2f}" in found["23a"]
    assert f"model.optimizer.lr {best.config['model']['optimizer']['lr']:g}" in found["12c"]
    assert f"test {best.cells['label'].sum()} of {len(best.cells)}" in found["21"]
    files = {
        name
        for answer in found.values()
        for name in re.findall(r"[\w.-]+/[\w./-]+\.(?:csv|json|yaml)", answer)
    }
    assert {f"{best.name}/{name}" for name in ("cells.csv", "config.yaml", "status.json")} <= files
    assert all((sweep.folder / name).is_file() for name in files)


def test_what_no_file_knows_is_left_to_the_user(sweep):
    found = answers(sweep)
    assert [found[number] for number in ("5b", "6a", "17", "18a", "19", "25")] == [ONLY_YOU] * 6


def test_a_sweep_without_a_finished_run_leaves_all_to_the_user(tmp_path, make_run):
    make_run(tmp_path, status="failed", error="boom")
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--checklist", "tripod-ai"])
    assert set(answers(Sweep(tmp_path)).values()) == {ONLY_YOU}
