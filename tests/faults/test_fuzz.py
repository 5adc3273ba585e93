"""Mutated files of others are read or refused: no crash, no hang, less than 5 s and 1 GB."""

import ast
import contextlib
import hashlib
import io
import json
import resource
import shutil
import sqlite3
import struct
import time
import warnings
from collections import OrderedDict
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from leukemia.app.decisions import COLUMNS, AddedPicture, DecisionContext
from leukemia.app.export import consensus, decisions_csv
from leukemia.app.review import Review
from leukemia.app.store import Store
from leukemia.commands.evaluate import evaluated
from leukemia.commands.monitor import monitor
from leukemia.commands.triage import triage
from leukemia.data.check import check
from leukemia.data.class_folders import scan_class_folders
from leukemia.data.cnmc import scan_cnmc
from leukemia.data.pixels import MAX_PIXELS, decode
from leukemia.data.subjects import owners_of
from leukemia.errors import InputError
from leukemia.evaluation.gate import HANDCRAFTED, fit_gate
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.evaluation.policy import Policy
from leukemia.evaluation.predictions import read_predictions, sigmoid
from leukemia.evaluation.stress import measured
from leukemia.models.checkpoint import load_network
from leukemia.reporting.html import write_report
from leukemia.reporting.results import results_table
from leukemia.reporting.stress import stress_page
from leukemia.runs import Run, Sweep
from leukemia.storage.plain_files import dump_yaml
from leukemia.storage.torch_files import read_torch_file

SECONDS = 5  # of processor time for one file: a busy machine takes longer by the clock
quick = settings(suppress_health_check=list(HealthCheck))  # the profile sets the number of examples
few = settings(quick, max_examples=max(15, settings.default.max_examples // 10))
NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


@contextlib.contextmanager
def bounded():
    """1 GB on top of the memory that the process has, and SECONDS: beyond 1 GB Python raises MemoryError, and C code
    would crash."""
    begin = time.process_time()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 10**9, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - begin < SECONDS


def encoded(form, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, form, **options)
    return file.getvalue()


PICTURES = {
    "bmp": [encoded("bmp"), encoded("bmp", "L"), encoded("bmp", "P"), encoded("bmp", "1")],
    "png": [
        *(encoded("png", mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")),
        encoded("png", pnginfo=None, compress_level=0),
    ],
    "jpg": [
        encoded("jpeg"),
        encoded("jpeg", "L"),
        encoded("jpeg", "CMYK"),
        encoded("jpeg", progressive=True, subsampling=2),
        encoded(
            "jpeg",
            exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00",
        ),
    ],
    "tif": [encoded("tiff"), encoded("tiff", compression="tiff_lzw"), encoded("tiff", "P")],
}
NUMBERS = [0, 1, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1]
places = st.floats(0, 1, exclude_max=True)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), places, st.integers(0, 255)),
        st.tuples(st.just("number"), places, st.sampled_from(NUMBERS)),
        st.tuples(
            st.just("head"), st.integers(0, 60), st.sampled_from(NUMBERS)
        ),  # sizes and counts lie there
        st.tuples(st.just("cut"), places, st.just(0)),
        st.tuples(st.just("remove"), places, st.integers(1, 40)),
        st.tuples(st.just("repeat"), places, st.integers(1, 400)),
    ),
    min_size=1,
    max_size=6,
)


def mutated(content, how):
    content = bytearray(content)
    for kind, place, value in how:
        at = place if kind == "head" else int(place * len(content))
        if kind == "set" and content:
            content[at] = value
        elif kind in ("number", "head"):
            content[at : at + 4] = struct.pack("<I" if value % 2 else ">I", value)
        elif kind == "cut":
            del content[at:]
        elif kind == "remove":
            del content[at : at + value]
        elif kind == "repeat":
            content[at:at] = content[at : at + 8] * value
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.hypothesis
@pytest.mark.parametrize("suffix", PICTURES)
def test_a_mutated_picture_is_read_or_refused(place, suffix):
    file = place / f"cell.{suffix}"

    @quick
    @given(source=st.sampled_from(PICTURES[suffix]), how=mutations)
    def read(source, how):
        file.write_bytes(mutated(source, how))
        with bounded(), warnings.catch_warnings(action="ignore"), contextlib.suppress(InputError):
            image = decode(file)
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert image.size <= 3 * MAX_PIXELS

    read()


def with_number(content, at, *numbers, order="<"):
    """A copy with unsigned 32-bit numbers at a place."""
    content = bytearray(content)
    content[at : at + 4 * len(numbers)] = struct.pack(f"{order}{len(numbers)}I", *numbers)
    return bytes(content)


def png_claim(chunk, name=None):
    """A PNG whose last chunk of a kind claims 2 GB."""
    content = encoded("png")
    at = content.rindex(chunk)
    return with_number(content, at - 4, 2**31 - 1, order=">").replace(chunk, name or chunk)


def tiff_claim(tag, count, **options):
    """A TIFF one of whose entries claims so many values of 4 bytes, from the place of the entry on."""
    content = encoded("tiff", **options)
    start = int.from_bytes(content[4:8], "little")
    for at in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], "little"), 12):
        if int.from_bytes(content[at : at + 2], "little") == tag:
            return with_number(
                content, at + 2, 4 | count << 16 & 0xFFFF0000, count >> 16 | at << 16 & 0xFFFF0000
            )
    raise KeyError(tag)


CLAIMS = {
    "png pixels": png_claim(b"IDAT"),  # PIL asked for all of it at once
    "png text": png_claim(b"IEND", b"tEXt"),
    "png private": png_claim(b"IEND", b"prVt"),
    "bmp header": with_number(encoded("bmp"), 14, 2**31 - 1),
    "bmp offset": with_number(encoded("bmp"), 10, 2**31 - 1),
    "bmp colours": with_number(encoded("bmp", "P"), 46, 2**31 - 1),
    "bmp size": with_number(encoded("bmp"), 18, 4096, 4096),
    "bmp runs": with_number(with_number(encoded("bmp", "P"), 30, 1), 18, 4096, 4096),
    "jpeg segment": encoded("jpeg")[:4] + b"\xff\xff" + encoded("jpeg")[6:],
    **{
        f"tiff {tag} {options.get('compression', '')}": tiff_claim(tag, 2**29, **options)
        for tag in (273, 258)  # offsets, bits
        for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"})
    },
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_claims_more_than_it_has_is_refused_in_little_memory(tmp_path, claim):
    (tmp_path / "claim").write_bytes(CLAIMS[claim])
    with (
        bounded(),
        warnings.catch_warnings(action="ignore"),
        pytest.raises(InputError, match="not a readable"),
    ):
        decode(tmp_path / "claim")


def bomb(form):
    """A picture of 30,000 x 30,000 pixels in a few bytes: 2.7 GB when decoded."""
    if form == "bmp":
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    content = bytearray(encoded(form))
    if form == "png":
        import zlib

        content[16:24] = struct.pack(">II", 30000, 30000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", 30000, 30000)
    return bytes(content)


@pytest.mark.parametrize("form", ["bmp", "png", "jpeg"])
def test_a_decompression_bomb_is_refused_by_its_size_before_it_is_decoded(tmp_path, form):
    (tmp_path / "bomb").write_bytes(bomb(form))
    with bounded(), pytest.raises(InputError, match=r"30000x30000 pixels|decompression bomb"):
        decode(tmp_path / "bomb")


def test_the_largest_picture_that_is_read_fits_into_a_gigabyte(tmp_path):
    side = int(MAX_PIXELS**0.5)
    Image.new("RGBA", (side, side)).save(tmp_path / "largest.png", compress_level=1)
    with bounded():
        assert decode(tmp_path / "largest.png").shape == (side, side, 3)


@pytest.mark.parametrize("name", ["cell.bmp", "cell.png"])
def test_a_format_that_runs_another_program_is_refused_under_any_name(tmp_path, name, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: pytest.fail("ran a program"))
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(InputError, match="not a readable picture"):
        decode(tmp_path / name)


@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_in_place_of_a_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "UID_1_1_1_all.bmp")
    os.mkfifo(tmp_path / "labels.csv")
    for path in (tmp_path / "UID_1_1_1_all.bmp", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a file"):
            decode(path)
    with pytest.raises(InputError):
        scan_class_folders(tmp_path / "labels.csv")
    with pytest.raises(InputError):
        check(tmp_path)
    for path in (tmp_path / "labels.csv", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a file"):
            read_predictions(path)
        with pytest.raises(InputError):
            owners_of(str(tmp_path / "labels.csv"), ["a.bmp"])


MANIFEST = (
    "path,label,subject,split\na/1.bmp,cat,7,train\na/2.bmp,dog,8,test\na/3.bmp,dog,,\na/4.bmp,,9,final\n"
)
LABELS = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H3_2_1_hem.bmp,2.bmp,0\n"
PREDICTIONS = (
    "path,subject,split,label,logit,probability\na.bmp,7,test,1,2.5,0.92\nb.bmp,H3,test,0,-1e3,0.0\n"
)
WORDS = [
    '"',
    ",",
    "\n",
    "\r",
    "\0",
    ";",
    "\ufeff",
    "../",
    "/",
    "1e999",
    "nan",
    "-1",
    "é",
    "\ud7ff",
    "=cmd()",
    "'",
    "a" * 200,
]
texts = st.lists(
    st.tuples(
        places,
        st.one_of(st.sampled_from(WORDS), st.text(max_size=5)),
        st.integers(0, 12),
        st.integers(1, 300),
    ),
    min_size=1,
    max_size=5,
)


def mutated_text(text, how):
    for place, word, removed, times in how:
        at = int(place * (len(text) + 1))
        text = text[:at] + word * (times if times > 290 else 1) + text[at + removed :]
    return text.encode("utf-8", "surrogatepass")


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
@example(how=[(0.3, "\0", 0, 1)], damage=[])
def test_a_mutated_manifest_is_read_or_refused(place, how, damage):
    folder = place / "manifest"
    (folder / "a").mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        (folder / "a" / f"{number}.bmp").touch()
    (folder / "cells.csv").write_bytes(mutated(mutated_text(MANIFEST, how), damage))
    with bounded(), contextlib.suppress(InputError):
        scan = scan_class_folders(folder / "cells.csv", "dog")
        assert len(scan.classes) == 2
        assert scan.table["label"].isin([-1, 0, 1]).all()


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
def test_a_mutated_label_table_is_read_or_refused(place, how, damage):
    folder = place / "cnmc" / "C-NMC_test_prelim_phase_data"
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (folder / f"{number}.bmp").touch()
    (folder / "labels.csv").write_bytes(mutated(mutated_text(LABELS, how), damage))
    with bounded():
        scan = scan_cnmc(folder)
    assert len(scan.table) == 2
    assert scan.table["label"].isin([-1, 0, 1]).all()


@quick
@given(how=texts, damage=st.one_of(st.just([]), mutations))
def test_a_mutated_table_of_predictions_is_read_or_refused(place, how, damage):
    (place / "predictions.csv").write_bytes(mutated(mutated_text(PREDICTIONS, how), damage))
    with bounded(), warnings.catch_warnings(action="ignore"):
        with contextlib.suppress(InputError):
            table = read_predictions(place / "predictions.csv")
            assert table["label"].astype(float).isin([0, 1]).all()
        with contextlib.suppress(InputError):
            _ = Run(place).predictions


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**18), 1e308, "a" * 100_000, "../x", "\0", "ALL", "d4", "1e5"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
changes = st.lists(
    st.tuples(st.lists(places, max_size=4), st.sampled_from(["set", "set", "remove", "add"]), ANY),
    min_size=1, max_size=4,
)  # fmt: skip


def changed(value, way, action, new):
    """A copy of plain values in which one place, found by going down this way, is set, removed or added to."""
    if not way or not isinstance(value, dict | list) or not value:
        return {**value, "new": new} if isinstance(value, dict) and action == "add" else new
    keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
    key, copy = keys[int(way[0] * len(keys))], value.copy()
    if len(way) == 1 and action == "remove":
        del copy[key]
    else:
        copy[key] = changed(value[key], way[1:], action, new)
    return copy


def table_of(subjects: int) -> pd.DataFrame:
    label = np.arange(4 * subjects) // 4 % 2
    logit = 3 * label - 1.5 + np.random.default_rng(0).standard_normal(len(label))
    return pd.DataFrame({
        "path": [f"{number}.bmp" for number in range(len(label))],
        "subject": [f"{number // 4}" for number in range(len(label))],
        "split": "test", "label": label, "logit": logit, "probability": sigmoid(logit),
    })  # fmt: skip


TABLE = table_of(6)
POLICY = Policy(-1.0, 1.0, 0.8, 0.1, 0.1, 0.2, 0.95, "subject", certified=True, fitted_on={"views": 1})
NODE = {"_target_": "leukemia.models.resnet.resnet", "name": "resnet18", "weights": "none"}
HISTORY = [{"epoch": epoch, "lr": 1e-3, "train/loss": 0.5, "val/loss": 0.6} for epoch in (1, 2)]
RANDOM = np.random.default_rng(0)
GATE = fit_gate(
    RANDOM.normal(size=(40, len(HANDCRAFTED))), RANDOM.normal(size=(40, 4)), np.arange(40) // 2, range(40)
)
ARRAYS = io.BytesIO()
np.savez(ARRAYS, centre=GATE.centre, whitening=GATE.whitening, cells=GATE.cells)
PLAIN = {  # the files of a run folder that hold plain values
    "config.yaml": {
        "seed": 0, "name": "run", "monitor": "val/loss", "mode": "min", "trainer": {"precision": "32-true"},
        "model": {"net": NODE, "trainable_from": "layer4", "unfreeze": {2: "layer3"}, "stage_lr": {"head": 0.1}},
        "data": {"root": ".", "protocol": "holdout", "fold": 0, "num_folds": 5, "image_size": 32, "resize": "squash",
                 "native_size": 450, "classes": ["HEM", "ALL"], "tta": "none"},
        "files": {"model.net.weights": "0" * 16},
    },
    "status.json": {"status": "done", "error": None, "finished": "2026-01-01T00:00:00+0000", "seconds": 3.5,
                    "sessions": [{"machine": "x", "threads": 2, "versions": {"torch": "2.10"}, "job": None}]},
    "metrics.json": {
        **cell_metrics(TABLE), "split": "test", "epoch_chosen_here": False, "best_epoch": 2, "leaks": 0,
        "accuracy_interval": [0.7, 0.9], "accuracy_interval_unit": "subject", "majority_accuracy": 0.5,
        "better_than_majority": True, "train_accuracy": 0.9, "train_val_gap": 0.0, "synthetic": True,
        "classes": ["HEM", "ALL"], "subjects": subject_metrics(TABLE),
    },
    "triage.json": POLICY.to_json(),
    "gate.json": {
        **GATE.to_json(), "checkpoint": "", "arrays": hashlib.sha256(ARRAYS.getvalue()).hexdigest(),
    },
    "embedding.json": {"stage": "head", "cells": 24, "seconds_per_cell": 1e-3, "device": "cpu", "threads": 1},
    "pruned.json": {"epoch": 2, "monitor": "val/loss", "best": 0.5, "compared_with": 3},
    "gradcam.json": {
        "run": "run", "sample": "all", "cells": 24, "method": "Grad-CAM", "layer": "layer4", "image_size": 32,
        "classes": {name: {"cells": 12, "empty": 0, "on_background": 0.5, "cell_alone": 0.4, "background": 0.5,
                           "quartiles": [0.4, 0.5, 0.6]} for name in ("HEM", "ALL")},
    },
    "sweep.json": {"total": 1, "runs": ["run"], "finished": []},
}  # fmt: skip
WHOLE = TABLE.assign(stopped=False)
SHIFTED = {
    **measured(WHOLE, WHOLE.assign(logit=TABLE["logit"] - 1, stopped=TABLE.index == 0), POLICY, draws=20),
    "holds": {"missed": True, "false_alarm": None},
    "without_gate": {"missed": {"value": 0.1}, "false_alarm": {"value": 0.2}},
}
STRESS = {
    "version": "0.2", "what": "24 cells of the test split", "certified": True, "policy": POLICY.to_json(), "gate": True,
    "none": SHIFTED, "rescored": 0.0, "sentence": "",
    "shifts": [{"name": "blur", "title": "Blur", "unit": "pixels", "none": 0, "until": [1],
                "strengths": [{"strength": strength, **SHIFTED} for strength in (1, 2)]}],
}  # fmt: skip
TABLES = {
    "cells.csv": TABLE.assign(group=TABLE["subject"], pixel_hash=[f"{n:032x}" for n in range(len(TABLE))]),
    "history.csv": pd.DataFrame(HISTORY),
    "predictions.csv": TABLE,
    "baseline.csv": TABLE.assign(logit=TABLE["logit"] / 2),
}
READ = ("config", "data", "precision", "engine", "status", "metrics", "history", "cells", "predictions", "baseline",
        "policy", "gate", "pruned", "gradcam", "embedding")  # fmt: skip
damages = st.one_of(
    st.tuples(st.sampled_from(sorted(PLAIN)), st.just("values"), changes),
    st.tuples(st.sampled_from(sorted([*PLAIN, *TABLES])), st.just("text"), texts),
    st.tuples(st.sampled_from(sorted([*PLAIN, *TABLES])), st.just("bytes"), mutations),
)
kinds = st.one_of(st.tuples(st.just("text"), texts), st.tuples(st.just("bytes"), mutations))


def damaged(text, kind, how):
    return mutated_text(text, how) if kind == "text" else mutated(text.encode(), how)


@pytest.fixture
def run_folder(tmp_path):
    """A function that writes a sweep of one finished run without a network, with one file damaged."""
    (tmp_path / "cells").mkdir()
    for path in TABLE["path"]:
        (tmp_path / "cells" / path).touch()

    def write(name="", kind="", how=()):
        folder = tmp_path / "sweep" / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = PLAIN["config.yaml"]
        plain = {
            **PLAIN,
            "config.yaml": {**config, "data": {**config["data"], "root": str(tmp_path / "cells")}},
        }
        if kind == "values":
            for change in how:
                plain[name] = changed(plain[name], *change)
        written = {key: table.to_csv(index=False) for key, table in TABLES.items()}
        for key, value in plain.items():
            with contextlib.suppress(
                ValueError
            ):  # a number that is longer than Python prints: the file is missing
                written[key] = dump_yaml(value) if key == "config.yaml" else json.dumps(value)
        for key, text in written.items():
            content = damaged(text, kind, how) if key == name and kind != "values" else text.encode()
            (folder.parent if key == "sweep.json" else folder).joinpath(key).write_bytes(content)
        (folder / "gate.npz").write_bytes(ARRAYS.getvalue())
        return Run(folder)

    return write


def refused_or(read):
    """The result, or None after a refusal in one line of usual length."""
    said = ""
    with warnings.catch_warnings(action="ignore"):
        try:
            return read()
        except InputError as error:
            said = str(error)
    assert 0 < len(said) < 3000
    assert "\n" not in said
    return None


@quick
@given(damage=damages)
def test_a_damaged_file_of_a_run_folder_is_read_or_refused(run_folder, damage):
    run = run_folder(*damage)
    with bounded():
        for name in READ:
            refused_or(lambda name=name: getattr(Run(run.folder), name))
        table = refused_or(lambda: results_table(Sweep(run.folder.parent)))
    assert table is None or list(table["run"])[:1] == ["run"]


@quick
@given(how=mutations)
def test_damaged_arrays_of_a_gate_are_read_or_refused_also_under_their_own_checksum(run_folder, how):
    run = run_folder()
    assert run.gate.limit == GATE.limit
    content = mutated(ARRAYS.getvalue(), how)
    (run.folder / "gate.npz").write_bytes(content)
    run.write_json("gate.json", {**PLAIN["gate.json"], "arrays": hashlib.sha256(content).hexdigest()})
    with bounded():
        found = refused_or(lambda: run.gate)
    assert found is None or np.isfinite(found.whitening).all()


@few
@given(damage=st.one_of(st.tuples(st.just("values"), changes), kinds))
@example(damage=("values", []))
def test_a_damaged_result_of_shifts_is_shown_or_refused(run_folder, damage):
    run, (kind, how) = run_folder(), damage
    stress = {**STRESS, "model": run.model}
    for change in how if kind == "values" else ():
        stress = changed(stress, *change)
    with contextlib.suppress(ValueError):  # as in run_folder
        text = json.dumps(stress)
        content = text.encode() if kind == "values" else damaged(text, kind, how)
        (run.folder / "stress.json").write_bytes(content)
    with bounded():
        page = refused_or(lambda: stress_page(run))
    assert how or page.sentence.startswith("With its triage policy and its gate")


@few
@given(damage=damages)
def test_a_damaged_run_is_evaluated_certified_and_reviewed_or_refused(run_folder, damage):
    run = run_folder(*damage)
    with bounded(), contextlib.redirect_stdout(io.StringIO()):
        said = refused_or(lambda: evaluated(run.folder))
        assert said is None or "accuracy" in said
        refused_or(lambda: triage(run.folder))
        if review := refused_or(lambda: Review(Run(run.folder))):
            decisions_csv(review.store)
            review.store.close()


@pytest.mark.slow
@settings(few, max_examples=max(6, settings.default.max_examples // 40))  # plots take seconds
@given(damage=damages)
def test_a_report_of_a_damaged_run_is_written_or_refused(run_folder, damage):
    run = run_folder(*damage)
    with bounded():
        page = refused_or(lambda: write_report(run.folder.parent))
    assert page is None or page.read_text().startswith("<!")


@few
@given(damage=kinds)
@example(damage=("text", [(0.0, '"', 0, 1), (0.421875, '"', 0, 1)]))
@example(damage=("text", [(0.5, ",", 0, 1)]))
def test_a_damaged_table_to_certify_on_is_read_or_refused(run_folder, damage):
    run = run_folder()
    table = table_of(8)
    on = run.folder.parent / "on.csv"
    unseen = table.assign(path="new/" + table["path"], subject="n" + table["subject"])
    on.write_bytes(damaged(unseen.to_csv(index=False), *damage))
    with bounded(), contextlib.redirect_stdout(io.StringIO()):
        refused_or(lambda: triage(run.folder, on))


NEW = table_of(8).assign(
    path=lambda of: "new/" + of["path"], subject=lambda of: "n" + of["subject"], tta="none"
)
NEW = NEW.assign(decision=POLICY.decide(NEW["logit"], ("HEM", "ALL")), unlike_by=0.5)
REVIEWS = pd.DataFrame({
    "id": range(1, 9), "reviewer": "Ann", "path": NEW["path"][:8], "new_label": "ALL", "undoes": [None] * 7 + [1],
    "triage": "review", "queue": "check", "blind": 1,
})  # fmt: skip


@few
@given(which=st.sampled_from(["cells.csv", "decisions.csv"]), damage=kinds)
@example(which="cells.csv", damage=("bytes", []))
def test_a_damaged_table_to_watch_is_read_or_refused(run_folder, which, damage):
    run, (kind, how) = run_folder(), damage
    tables = {"cells.csv": NEW, "decisions.csv": REVIEWS.assign(model=run.model)}
    for name, table in tables.items():
        text = table.to_csv(index=False)
        (run.folder.parent / name).write_bytes(damaged(text, kind, how) if name == which else text.encode())
    with bounded(), contextlib.redirect_stdout(io.StringIO()):
        verdict = refused_or(lambda: monitor(run, [run.folder.parent / name for name in tables]))
    assert verdict in ((0, 1) if not how else (0, 1, None))


SUBJECTS = "path,subject,label\n0.bmp,H3,1\na/1.bmp,7,0\n2,UID_1,\n"


@quick
@given(damage=kinds, source=st.sampled_from([SUBJECTS, LABELS]))
@example(damage=("bytes", [("set", 0.0, 13)]), source=SUBJECTS)
@example(damage=("bytes", [("repeat", 0.09375, 1)]), source=SUBJECTS)  # the column subject twice
def test_a_damaged_table_of_subjects_is_read_or_refused(place, damage, source):
    file = place / "subjects.csv"
    file.write_bytes(damaged(source, *damage))
    with bounded():
        owners = refused_or(lambda: owners_of(str(file), ["0.bmp", "a/1.bmp", "2.bmp"]))
    assert owners is None or len(owners) == 3


class Tiny(nn.Module):
    """A network of the seam, small enough to be written a thousand times."""

    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(OrderedDict(body=nn.Linear(3, 2), head=nn.Linear(2, 1)))
        self.normalisation = ((0.5,) * 3, (0.5,) * 3)


ABOUT = {
    "hyper_parameters": {"trainable_from": "body", "unfreeze": None, "stage_lr": {"head": 0.1},
                         "class_weights": "none", "classes": ["HEM", "ALL"], "monitor": "val/loss"},
    "network": {"node": NODE, "native_size": 450},
    "history": HISTORY,
}  # fmt: skip


@quick
@given(how=changes, own=st.booleans())
def test_a_checkpoint_with_any_values_is_loaded_or_refused(place, how, own):
    net, about = Tiny(), ABOUT
    for change in how:
        about = changed(about, *change)
    state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, **about} if isinstance(about, dict) else about, place / "x.ckpt")
    with bounded():
        loaded = refused_or(lambda: load_network(place / "x.ckpt", net if own else None))
    assert loaded is None or len(set(loaded.classes)) == 2


@quick
@given(how=mutations, suffix=st.sampled_from([".ckpt", ".safetensors"]))
def test_a_damaged_file_of_tensors_is_read_or_refused(place, how, suffix):
    file, state = io.BytesIO(), Tiny().state_dict()
    torch.save({"state_dict": state, **ABOUT}, file)
    content = file.getvalue() if suffix == ".ckpt" else safetensors.torch.save(state)
    (place / f"damaged{suffix}").write_bytes(mutated(content, how))
    with bounded():
        refused_or(lambda: read_torch_file(place / f"damaged{suffix}"))


CELL = DecisionContext(
    cell="c0", path="0.bmp", subject="7", data_label="ALL", model="run@0", policy="{}", logit=1.5, probability=0.8,
    triage="review", queue="review", blind=True, seconds=2.0,
)  # fmt: skip
ROWS = [  # what a stranger may have done to the file
    "UPDATE decisions SET {column} = {value} WHERE id % 2",
    "UPDATE pictures SET {column} = {value}",
    "INSERT INTO decisions SELECT * FROM decisions WHERE {column} = {value}",
    "ALTER TABLE decisions RENAME COLUMN {column} TO changed",
    "ALTER TABLE pictures ADD COLUMN {column} DEFAULT ({value})",
    "DROP TABLE pictures", "DROP INDEX decisions_of_reviewer", "PRAGMA user_version = 7", "PRAGMA application_id = 1",
    "CREATE VIEW v AS SELECT {value}", "DELETE FROM sqlite_sequence", "PRAGMA encoding = 'UTF-16'",
]  # fmt: skip
statements = st.builds(
    lambda text, column, value: text.format(column=column, value=value),
    st.sampled_from(ROWS),
    st.sampled_from([*COLUMNS, "request", "name"]),
    st.sampled_from(["NULL", "''", "x'ff00'", "9e999", "-1", "zeroblob(1000000)", "char(0)", "'../x'", "1e300", "'ALL'",
                     "CAST(x'ff' AS TEXT)", "randomblob(20)", "id", "9223372036854775807"]),
)  # fmt: skip


@pytest.fixture(scope="module")
def decisions(tmp_path_factory):
    """A file of decisions."""
    file = tmp_path_factory.mktemp("decisions") / "review.sqlite"
    store = Store(file)
    for number in range(4):
        store.decide("Ann", replace(CELL, cell=f"c{number % 3}"), "ALL", f"request-{number}")
    store.undo("Ann", "request-9")
    store.add_picture(AddedPicture("0a", "a.png", None))
    store.close()
    return file


@quick
@given(
    done=st.lists(statements, max_size=3),
    how=st.one_of(st.just([]), mutations),
    log=st.one_of(st.just(b""), st.binary(min_size=1, max_size=100)),
)
@example(done=[], how=[("cut", 0.9375, 0)], log=b"")
@example(done=[], how=[("set", 0.0625, 128)], log=b"")
def test_a_damaged_file_of_decisions_is_used_or_refused(decisions, tmp_path_factory, done, how, log):
    folder = tmp_path_factory.mktemp("review")
    file = folder / "review.sqlite"
    shutil.copy(decisions, file)
    with closing(sqlite3.connect(file)) as stranger:
        stranger.execute("PRAGMA ignore_check_constraints = ON")
        ((trigger,),) = stranger.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'decisions_stay'"
        ).fetchall()
        for statement in ["DROP TRIGGER decisions_stay", *done, trigger]:
            with contextlib.suppress(sqlite3.Error):
                stranger.execute(statement)
        stranger.commit()
    file.write_bytes(mutated(file.read_bytes(), how))
    if log:
        file.with_name("review.sqlite-wal").write_bytes(log)

    def used(store):
        store.labels("Ann"), store.history(), store.pictures(), decisions_csv(store), consensus(store)
        store.decide("Bob", CELL, "HEM", "request-new")
        assert store.labels("Bob") == {"c0": "HEM"}
        store.undo("Bob", "request-undo")

    with bounded():
        store = refused_or(lambda: Store(file))
        if store is not None:
            refused_or(lambda: used(store))
            store.close()
    shutil.rmtree(folder)


def test_fresh_examples_reach_every_property_that_is_tested():
    """`make fuzz` selects by the marker that hypothesis gives to a test of its own, but not to one that holds it."""
    for file in sorted(Path(__file__).parents[1].rglob("test_*.py")):
        for test in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                inner = [
                    node for node in ast.walk(test) if isinstance(node, ast.FunctionDef) and node is not test
                ]
                marks = [ast.unparse(mark) for mark in test.decorator_list]
                if any("given(" in ast.unparse(mark) for node in inner for mark in node.decorator_list):
                    assert "pytest.mark.hypothesis" in marks, f"{file}, {test.name}"
