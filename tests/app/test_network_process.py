"""The network behind the page, in its own process, on a trained run."""

import io
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from leukemia.app import network_process
from leukemia.app.network_process import NetworkProcess, coloured
from leukemia.app.review import Review
from leukemia.errors import InputError
from leukemia.runs import Run
from tests.processor import seconds_of


def test_logits_are_those_of_the_run_and_overlays_are_pngs(leukemia_train, small, tmp_path):
    folder = tmp_path / "run"
    code, _, said = leukemia_train(
        *small,
        "data.protocol=holdout",
        "data.cache_features=off",
        "trainer.max_epochs=1",
        f"hydra.run.dir={folder}",
    )
    assert code == 0, said
    review = Review(Run(folder))
    cells = [review.cells[cell_id] for cell_id in review.queues["review"][:4]]
    pixels = np.stack([review.network_pixels(review.picture(cell)) for cell in cells])
    network = NetworkProcess(folder)
    try:
        network.prepare()
        [child] = network._pool._processes
        before = seconds_of(child)
        overlay = np.asarray(Image.open(io.BytesIO(network.overlay(pixels[0], True))))
        seconds = seconds_of(child) - before
        print(f"first heat map: {seconds:.2f} s of processor time")
        assert overlay.shape == (2, 2, 4)  # a pixel for each place
        assert seconds < 2
        np.testing.assert_allclose(network.scores(pixels)["logit"], [cell.logit for cell in cells], atol=1e-4)
        (folder / "checkpoints" / "best.ckpt").unlink()
        network.overlay(pixels[1], False)  # the network is in memory, once
        other = NetworkProcess(folder)
        with pytest.raises(InputError, match=r"best\.ckpt"):
            other.scores(pixels)
        other.close()
    finally:
        network.close()
        review.store.close()


def test_the_map_of_an_ensemble_keeps_the_blocks_of_its_members(monkeypatch):
    maps = {"two": np.float32([[0, 1], [0, 0]]), "three": np.eye(3, dtype=np.float32)}
    monkeypatch.setattr("leukemia.inference.gradcam.heat_maps", lambda net, *_, **__: maps[net][None])
    monkeypatch.setitem(network_process._loaded, "predictor", SimpleNamespace(nets=list(maps)))
    drawn = np.asarray(Image.open(io.BytesIO(network_process._overlay(np.zeros((6, 6, 3), np.uint8), True))))
    mean = (np.kron(maps["two"], np.ones((3, 3))) + np.kron(maps["three"], np.ones((2, 2)))) / 2
    np.testing.assert_array_equal(drawn, np.asarray(Image.open(io.BytesIO(coloured(mean)))))


def test_opacity_grows_with_the_heat_map():
    picture = np.asarray(Image.open(io.BytesIO(coloured(np.array([[0.0, 0.5, 1.0]], np.float32)))))
    opacity = picture[0, :, 3].tolist()
    assert opacity[0] == 0
    assert opacity == sorted(opacity)
    assert opacity[2] < 255  # the cell can still be seen


def test_a_process_that_died_is_started_again(tmp_path):
    network = NetworkProcess(tmp_path)
    try:
        assert network._call(len, "abc") == 3
        (process,) = network._pool._processes
        os.kill(process, signal.SIGKILL)  # as the kernel does when memory runs out
        assert network._call(len, "abcd") == 4
        with pytest.raises(InputError, match="memory runs out: close other programs"):
            network._call(os._exit, 1)
        assert network._call(len, "abcde") == 5
    finally:
        network.close()


def test_the_network_process_ends_when_the_page_is_killed(tmp_path):
    code = f"""
import pathlib, time
import numpy as np
from leukemia.app.network_process import NetworkProcess
if __name__ == "__main__":
    network = NetworkProcess(pathlib.Path({str(tmp_path)!r}))
    network._call(len, np.zeros(3, np.uint8))
    print(*network._pool._processes, flush=True)
    time.sleep(60)
"""
    (tmp_path / "page.py").write_text(code)
    page = subprocess.Popen([sys.executable, str(tmp_path / "page.py")], stdout=subprocess.PIPE, text=True)
    child = int(page.stdout.readline())
    os.kill(child, 0)  # exists
    page.send_signal(signal.SIGKILL)
    page.communicate()
    end = time.monotonic() + 10
    while time.monotonic() < end and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
