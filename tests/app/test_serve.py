"""The command `leukemia app`, in its own process."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from leukemia.app.png import png_bytes
from leukemia.app.serve import chosen_token
from leukemia.cli import main
from leukemia.errors import InputError
from tests.processor import seconds_of


class Started:
    def __init__(self, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leukemia.cli", "app", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the test runner may ignore it
        )  # fmt: skip
        self.said = []
        for line in self.process.stdout:
            self.said.append(line.strip())
            if line.startswith("http"):
                break
        self.url = self.said[-1] if self.said else ""

    def end(self):
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out + err


def test_the_first_page_comes_in_under_a_second_of_processor_time_and_ctrl_c_ends_it(run):
    page = Started(run.folder, "--port", "0")
    before = seconds_of(page.process.pid)
    with urllib.request.urlopen(page.url, timeout=10) as answer:
        text = answer.read().decode()
    seconds = seconds_of(page.process.pid) - before
    print(f"first page: {1000 * seconds:.0f} ms of processor time")
    code, said = page.end()  # before any assertion: a page that is left would go on
    assert "At most 10 % of ALL cells released as HEM" in text
    assert seconds < 1
    assert page.url.startswith("http://127.0.0.1:")
    assert code == 130
    assert "Traceback" not in said


def test_decisions_survive_when_the_page_is_killed(run):
    from leukemia.app.store import Store

    page = Started(run.folder, "--port", "0")
    cookie = {"Cookie": "leukemia_reviewer=Ann", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(page.url + "api/cell", headers=cookie)) as answer:
        import json

        cell = json.load(answer)["cell"]["id"]
    content = json.dumps({"cell": cell, "label": "ALL", "queue": "review", "request": "request-1"}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(page.url + "api/decisions", content, cookie)
    ) as answer:
        assert answer.status == 200
    page.process.kill()
    page.process.communicate()
    store = Store(run.folder / "review" / "review.sqlite")
    assert store.labels("Ann") == {cell: "ALL"}
    store.close()


def test_another_address_gets_a_token_and_prints_it(run):
    page = Started(run.folder, "--port", "0", "--host", "0.0.0.0")
    try:
        address, _, token = page.url.partition("?token=")
        assert len(token) == 32
        plain = address.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(plain, timeout=10)
        asked = urllib.request.Request(plain, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert answer.status == 200
    finally:
        page.end()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need 127.0.0.2 set up first")
def test_the_printed_address_answers_on_any_loopback_address(run):
    page = Started(run.folder, "--port", "0", "--host", "127.0.0.2")
    try:
        assert page.url.startswith("http://127.0.0.2:")
        with urllib.request.urlopen(page.url, timeout=10) as answer:
            assert answer.status == 200
    finally:
        page.end()


@pytest.mark.parametrize("token", ["short", "0123456789abcde", "0123456789abcdef!", "ä" * 20])
def test_a_token_that_is_not_a_secret_is_refused(monkeypatch, token):
    monkeypatch.setenv("LEUKEMIA_APP_TOKEN", token)
    with pytest.raises(InputError, match="LEUKEMIA_APP_TOKEN"):
        chosen_token("127.0.0.1")


def test_a_given_token_is_needed_on_this_machine_too(monkeypatch):
    assert chosen_token("127.0.0.1") is None
    first, second = chosen_token("0.0.0.0"), chosen_token("0.0.0.0")
    assert first != second
    monkeypatch.setenv("LEUKEMIA_APP_TOKEN", "0123456789abcdef")
    assert chosen_token("127.0.0.1") == "0123456789abcdef"


def leukemia(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def test_a_wrong_run_port_or_folder_is_refused_with_exit_code_2(run, tmp_path, capsys):
    assert leukemia("app", tmp_path / "nowhere", "--port", "0") == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert leukemia("app", run.folder, "--port", "70000") == 2
    assert "--port" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert leukemia("app", run.folder, "--port", taken.getsockname()[1]) == 2
    assert "give another --port" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert leukemia("app", run.folder, "--port", "0", "--images", tmp_path / "empty") == 2
    assert "holds no pictures" in capsys.readouterr().err


def peak(process: int) -> int:
    """The most memory that a process ever had, in bytes."""
    with open(f"/proc/{process}/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


@pytest.mark.slow
def test_forty_large_pictures_uploaded_at_once_take_little_memory(run):
    """Each is 50 kB on the wire, and 50 MB decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)

    def large(number):
        picture = np.full((4096, 4096, 3), number, np.uint8)
        picture[:100, :100] = noise
        return png_bytes(Image.fromarray(picture))

    contents = [large(number) for number in range(40)]
    page = Started(run.folder, "--port", "0")
    before, answers = peak(page.process.pid), []

    def upload(number):
        headers = {"Cookie": "leukemia_reviewer=Ann", "Content-Type": "application/octet-stream"}
        address = f"{page.url}api/pictures?name={number}.png"
        status = 429  # too many at once: again
        while status == 429:
            request = urllib.request.Request(address, contents[number], headers)
            try:
                with urllib.request.urlopen(request) as answer:
                    status = answer.status
            except urllib.error.HTTPError as error:
                status = error.code
                time.sleep(0.2)
        answers.append(status)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = (peak(page.process.pid) - before) / 1e6
    print(f"40 uploads of {len(contents[0]) / 1000:.0f} kB: {took:.0f} MB on top of {before / 1e6:.0f} MB")
    page.end()
    assert answers == [202] * 40
    assert took < 500
