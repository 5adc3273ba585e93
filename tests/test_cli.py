"""The `leukemia` command: exits, messages, and a start that does not keep people waiting."""

import os
import subprocess
import sys

import pytest

from leukemia.cli import main


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "leukemia.cli", *map(str, arguments)], capture_output=True, text=True
    )


def seconds_of_processor(code: str) -> float:
    """The least of three, of a process that runs this code."""
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        after = os.times()
        spent.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    return min(spent)


def test_importing_the_package_takes_under_a_fifth_of_a_second():
    assert seconds_of_processor("import leukemia") < 0.2


def test_help_takes_under_half_a_second():
    assert (
        seconds_of_processor(
            "import sys; from leukemia.cli import main\ntry: main(['--help'])\nexcept SystemExit: 0"
        )
        < 0.5
    )


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
        (["report", "no/such/folder"], "is not a folder"),
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


def test_every_name_of_the_package_can_be_imported():
    import leukemia

    for name in leukemia.__all__:
        assert getattr(leukemia, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = leukemia.nothing
