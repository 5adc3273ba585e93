"""Every command and every piece of Python in the documents is run, and what cannot be run is listed with its reason."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from leukemia.cli import main
from leukemia.config import compose
from leukemia.data.demo import write_demo
from leukemia.training.run import train

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# The one place for what is not run: a page, or a pattern for a whole command, and why.
PAGES_NOT_RUN = {
    "results.md": "hours, on cells and weights that lie beside the checkout; it is the record of what was run",
}
NOT_RUN = {
    r"leukemia data fetch .*": "downloads 10 GB",
    r"pip install .*": "changes the environment; the names of extras are looked up instead",
    r"\. \.venv/bin/activate": "only for a person's shell",
    r"tensorboard .*": "a server that does not end",
    r"leukemia monitor .*": "needs a certified policy, and the set is small; see tests/commands/test_monitor.py",
    r"leukemia app .*": "a server that does not end; tests/app/ starts it and works on it in a browser",
    r"leukemia-train .*hydra/launcher=(slurm|devices).*": "needs a cluster or several GPUs; tests/slurm has them",
    r"leukemia-train .*experiment=search.*": "many trials; a search of seconds is in the tests of the sweeper",
    r"leukemia-train .*manifest-with-training.csv.*": "its manifest is saved from the review page; see tests/app",
    r"leukemia-train .*experiment=backbones.*": "hours, and weights; a small one is in test_experiments.py",
    r"leukemia-train .*DinoBloom-S.pth.*": "needs published weights; test_timm_nets.py has a file of their layout",
    r"(torchrun|srun|sbatch|scancel|squeue) .*": "needs a cluster of several nodes",
    r"leukemia-train .*trainer=ddp .*": "needs several GPUs; two processes are tested in test_end_to_end.py",
    r"find .* \| leukemia predict .*": "a pipe; names on standard input are tested in commands/test_ensembles.py",
    r"make .*": "sets up an environment of its own, as .ci/run does; that the target exists is looked up instead",
}
MAY_EXIT_1 = {
    r"leukemia data check .*": "the synthetic set is not all of C-NMC",
    r"leukemia triage .*": "few subjects certify nothing",
}
# A run of seconds in place of hours; what a command says itself stays.
FAST = {"trainer": "cpu", "trainer.precision": "32-true", "trainer.max_epochs": "1", "data.image_size": "32",
        "data.batch_size": "16", "model.net.depth": "18", "model.net.weights": "none"}  # fmt: skip


def commands(text: str) -> list[str]:
    """The commands in the text of a block, without comments, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[tuple[str, str]]:
    return [] if page.name in PAGES_NOT_RUN else BLOCK.findall(page.read_text(encoding="utf-8"))


def matching(table: dict[str, str], command: str) -> list[str]:
    plain = " ".join(shlex.split(command))
    return [pattern for pattern in table if re.fullmatch(pattern, plain)]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """What the capital words of the documents stand for."""
    folder = tmp_path_factory.mktemp("documents")
    demo_root = write_demo(folder / "C-NMC_Leukemia", images=60)
    overrides = [f"{key}={value}" for key, value in FAST.items() if key != "data.image_size"]
    for seed in (0, 1):
        settings = [
            *overrides,
            f"data.root={demo_root}",
            "data.image_size=64",
            "data.protocol=holdout",
            f"seed={seed}",
        ]
        run = train(compose([*settings, "model.trainable_from=head"]), folder / "sweep" / f"seed-{seed}")
    classes, rows = folder / "classes", []
    for path in sorted((demo_root / "training_data").rglob("*.bmp")):
        label = "blast" if path.parent.name == "all" else "normal"
        subject = path.name.split("_")[1]
        to = classes / label / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
        rows.append((f"{label}/{path.name}", label, subject))
    pd.DataFrame(rows, columns=["path", "label", "subject"]).to_csv(classes / "cells.csv", index=False)
    shutil.copy(run.folder / "predictions.csv", folder / "table.csv")
    slides = folder / "slides"
    shutil.copytree(classes, slides)
    table = pd.DataFrame(rows, columns=["file", "class", "patient"])
    table.assign(blast=(table["class"] == "blast").astype(int), site="A").to_csv(
        slides / "slides.csv", index=False
    )
    return {
        "SLIDES": str(slides),
        "DIR": str(demo_root),
        "SWEEP": str(folder / "sweep"),
        "RUN": str(folder / "sweep" / "seed-0"),
        "OTHER": str(folder / "sweep" / "seed-1"),
        "TABLE.csv": str(folder / "table.csv"),
        "CELLS.csv": str(classes / "cells.csv"),
        "FOLDER": str(classes),
    }


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_says_can_be_done(page, world, leukemia_train, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "OTHER", "SWEEP"):  # of another page
        (Path(world[name]) / "triage.json").unlink(missing_ok=True)
    (tmp_path / "outputs").mkdir()
    for name in ("demo", "paper"):  # copies: a page's own multirun may add runs to them
        shutil.copytree(world["SWEEP"], tmp_path / "outputs" / name)
    (tmp_path / "outputs" / "RUN").symlink_to(world["RUN"])
    names = re.compile(rf"(?<![\w./])({'|'.join(map(re.escape, world))})(?![\w.])")

    def given(text: str) -> str:
        return names.sub(lambda found: world[found[1]], text)

    (tmp_path / "mine" / "model" / "net").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "net" / "tiny.yaml").write_text("_target_: mylab.Tiny\n")
    monkeypatch.delitem(sys.modules, "mylab", raising=False)
    for language, text in blocks(page):
        if named := re.match(r"# (\w+\.py)\n", text):  # a module of the reader's own
            (tmp_path / named[1]).write_text(text)
            continue
        if language == "python":
            exec(compile(given(text), page.name, "exec"), {})
            continue
        for command in commands(text):
            if matching(NOT_RUN, command):
                continue
            verb, *arguments = shlex.split(given(command))
            while "=" in verb:  # of the environment
                monkeypatch.setenv(*verb.split("=", 1))
                verb, *arguments = arguments
            own = [str(path) for path in (tmp_path / "outputs" / "own").glob("*width*")]
            arguments = [own[0] if argument == "OWN_RUN" else argument for argument in arguments]
            if shlex.split(command)[:3] == ["python", "-m", "leukemia.train"]:
                verb, arguments = "leukemia-train", arguments[2:]
            if verb == "leukemia-train":
                said = {argument.partition("=")[0] for argument in arguments}
                if any(re.match("model/net=(?!timm)", argument) for argument in arguments):
                    said |= {"model.net.depth", "model.net.weights"}  # which are settings of the ResNets
                if "model.net.name" in said:
                    said |= {"model.net.depth"}
                faster = [f"{key}={value}" for key, value in FAST.items() if key not in said]
                if any(word.startswith("experiment=demo") for word in arguments):
                    faster = ["trainer=cpu", "trainer.max_epochs=1", "model.net.depth=18"]
                with monkeypatch.context() as patch:  # the page at a sweep's end is made in its own tests
                    patch.setattr("leukemia.reporting.html.report_html", lambda *_: "")
                    code, _, problem = leukemia_train(*arguments, *faster)
            elif verb == "leukemia":
                with pytest.raises(SystemExit) as stop:
                    main(arguments)
                code, problem = stop.value.code or 0, capfd.readouterr().err
            else:
                pytest.fail(
                    f"{page.name}: {command}: list it in NOT_RUN with the reason, or say how to run it"
                )
            assert code == 0 or (code == 1 and matching(MAY_EXIT_1, command)), (
                f"{page.name}: {command}\n{problem}"
            )


def test_what_is_not_run_is_still_in_the_documents():
    said = [command for page in PAGES for language, text in blocks(page) if language != "python"
            for command in commands(text)]  # fmt: skip
    for pattern in NOT_RUN:
        assert any(matching({pattern: ""}, command) for command in said), f"nothing is {pattern} any more"
    assert {page.name for page in PAGES} >= set(PAGES_NOT_RUN)


def test_every_target_of_make_and_every_extra_that_is_named_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, block in BLOCK.findall(text):
            for command in commands(block) if language != "python" and page.name not in PAGES_NOT_RUN else []:
                if command.startswith("make "):
                    assert set(shlex.split(command)[1:]) <= set(targets), f"{page.name}: {command}"
        for named in re.findall(r"leukemia\[([a-z,]+)\]", text):
            assert set(named.split(",")) <= set(extras), f"{page.name}: leukemia[{named}]"


def test_the_site_is_built_and_every_link_leads_somewhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(
        [*map(str, build)], cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert 'id="leukemia.runs.Run"' in reference


def test_links_of_the_readme_lead_to_files():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (ROOT / link).exists(), f"{page.name}: {link}"


def test_every_setting_of_the_documents_is_one_of_the_configuration():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:data|model|trainer|cache|callbacks)\.[a-z_.]+)`", text))
    config = compose(["model/scheduler=cosine"])
    for key in named:
        node = config
        for part in key.split("."):
            assert part in node, f"docs/settings.md: {key}"
            node = node[part]
    assert len(named) > 20
