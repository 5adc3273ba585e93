"""The `leukemia` command: exits, messages, and a start that does not keep people waiting."""

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys

import pytest

from leukemia.cli import _parser, main
from leukemia.train import _options_last
from tests.processor import started


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "leukemia.cli", *map(str, arguments)], capture_output=True, text=True
    )


def seconds_of_processor(code: str) -> float:
    """The least of three, of a process that runs this code."""
    tries = [started(code) for _ in range(3)]
    assert [done.returncode for done, _ in tries] == [0] * 3, tries[0][0].stderr
    return min(seconds for _, seconds in tries)


def test_importing_the_package_takes_under_a_fifth_of_a_second():
    assert seconds_of_processor("import leukemia") < 0.2


def test_help_takes_under_half_a_second():
    assert (
        seconds_of_processor(
            "import sys; from leukemia.cli import main\ntry: main(['--help'])\nexcept SystemExit: 0"
        )
        < 0.5
    )


VERBS = (("data", "check"), ("data", "fetch"), ("data", "demo"), ("report",), ("evaluate",), ("triage",), ("predict",),
         ("explain",), ("stress",), ("monitor",), ("export",), ("app",))  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids="-".join)
def test_every_verbs_help_shows_an_example_that_can_be_typed(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help"])
    assert stop.value.code == 0
    example = capsys.readouterr().out.split("example:\n  leukemia ")[1].strip()
    options = _parser().parse_args(shlex.split(example))
    assert options.run.__name__ == f"_{verb[-1]}"


def test_there_is_no_verb_without_a_test_of_its_help_and_the_commands_own_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert set(re.findall(r"^    (\w+) ", said, re.MULTILINE)) == {verb[0] for verb in VERBS}
    assert "leukemia-train data.root=" in said.split("examples:")[1]


def test_options_may_stand_among_the_overrides(leukemia_train, tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "mine.yaml").write_text("max_epochs: -1\n")
    code, _, said = leukemia_train("~logger", "seed=1", "--config-dir", tmp_path, "trainer=mine")
    assert code == 2
    assert "trainer.max_epochs=-1" in said  # of the file in the folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a=1 -m b=2", "a=1 b=2 -m"),
        ("--config-dir /x=y/conf a=1", "a=1 --config-dir /x=y/conf"),
        ("a=1 --info", "a=1 --info"),
        ("--info a=1", "a=1 --info"),
        ("--info config a=1", "a=1 --info config"),
        ("data.root=C-NMC Leukemia -m", "data.root=C-NMC Leukemia -m"),  # Hydra names the stray word
    ],
)
def test_options_come_behind_the_overrides_with_their_values(words, expected):
    assert _options_last(words.split()) == expected.split()


def test_trainings_help_shows_examples(leukemia_train):
    code, out, _ = leukemia_train("--help")
    assert code == 0
    assert "leukemia-train -m experiment=paper" in out
    assert "data.root" not in out.split("examples:")[0]


def test_a_check_can_be_read_by_a_script(demo_root, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(demo_root), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert stop.value.code == 1
    assert found["ok"] is False
    assert found["problems"]


def test_colours_are_shown_on_a_terminal_and_nowhere_else(tmp_path):
    command = [sys.executable, "-m", "leukemia.cli", "report", "no/such/folder"]
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    for extra, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        subprocess.run(command, stderr=theirs, env=plain | extra, cwd=tmp_path)
        said = os.read(ours, 4096).decode()
        assert said.startswith("\x1b[1;31merror\x1b[0m: " if coloured else "error: ")
    piped = subprocess.run(command, capture_output=True, text=True, env=plain, cwd=tmp_path)
    assert piped.stderr.startswith("error: ")
    os.close(ours)
    os.close(theirs)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("as_json", [True, False])
def test_json_has_no_colours_on_a_terminal(as_json, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "an error here.csv").write_text("path,subject,label,logit\na,1,1,2\nb,2,0,1\n")
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "an error here.csv"), *["--json"] * as_json])
    assert ("\x1b[1;31merror" in screen.getvalue()) is not as_json
    assert "error" in screen.getvalue()


HOSTILE = "\x1b]0;mine\x07\x1b[2J\x9b1m"  # sets a terminal's title and clears it
SPELLED = r"\x1b]0;mine\x07\x1b[2J\x9b1m"


@pytest.fixture
def hostile_set(tmp_path):
    """Class folders in which a file's name commands the terminal."""
    for name in ("HEM/1.bmp", "HEM/2.bmp", f"ALL/{HOSTILE}.bmp", "ALL/4.bmp"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("data check set --reader class_folders --positive ALL", 1),
        (f"report {HOSTILE}", 2),
        (f"evaluate set/ALL/{HOSTILE}.bmp", 2),
        (f"predict {HOSTILE}.onnx set", 2),
    ],
)
def test_a_name_cannot_command_the_terminal(command, code, hostile_set, monkeypatch, capsys):
    monkeypatch.chdir(hostile_set.parent)
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    said = "".join(capsys.readouterr())
    assert stop.value.code == code
    assert SPELLED in said
    assert not {"\x1b", "\x07", "\x9b"} & set(said)


def test_a_name_cannot_command_the_terminal_of_a_sweep(hostile_set, tmp_path, leukemia_train):
    code, out, error = leukemia_train(
        "-m", "data=cells", f"data.root={hostile_set}", "data.positive=ALL", "data.protocol=image",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", "model.net.weights=none",
    )  # fmt: skip
    assert code == 2
    assert SPELLED in out  # of the log
    assert SPELLED in error
    assert not {"\x1b", "\x07", "\x9b"} & set(out + error)


def test_demo_check_and_its_exit_codes(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "demo", str(tmp_path / "set"), "--images", "60", "--seed", "3"])
    assert not stop.value.code
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(tmp_path / "set")])
    assert stop.value.code == 1  # 60 images are not the whole set
    assert "10,661" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["data", "check", "no/such/folder"], "no such folder"),
        (["data", "demo", ".", "--images", "60"], "not empty"),
        (["data", "demo", "x", "--images", "1"], "images"),
        (["data", "check", "nowhere.csv"], "this csv file does not exist"),
        (["report", "no/such/folder"], "is not a folder"),
        (["evaluate", "nowhere.csv"], "no such file"),
        (["predict", "no/such/model.onnx", "something"], "No such file"),
        (["report"], "SWEEP"),
        (["data", "chek"], "check"),
        (["repot"], "report"),
    ],
)
def test_bad_input_ends_in_a_message_and_exit_2_without_a_traceback(arguments, named, tmp_path):
    (tmp_path / "something").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "leukemia.cli", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["data", "check", "{demo}"], ["data", "check", "{demo}", "--json"]]
)
def test_a_reader_that_leaves_ends_the_command_quietly(arguments, unbuffered, demo_root):
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-m",
        "leukemia.cli",
        *(argument.format(demo=demo_root) for argument in arguments),
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == (
        0 if unbuffered and arguments == ["--help"] else 141
    )  # argparse drops what it cannot write


def test_a_broken_pipe_that_is_not_the_output_stays_an_error(monkeypatch):
    def fails(*arguments, **settings):
        raise BrokenPipeError("of a connection")

    monkeypatch.setattr("leukemia.data.demo.write_demo", fails)
    with open(os.devnull, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        monkeypatch.setattr("sys.stderr", output)
        with pytest.raises(BrokenPipeError, match="of a connection"):
            main(["data", "demo", "folder"])


def test_every_name_of_the_package_can_be_imported():
    import leukemia

    for name in leukemia.__all__:
        assert getattr(leukemia, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = leukemia.nothing
