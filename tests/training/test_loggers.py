"""Loggers: one tracker run and one csv across kills, settings and final metrics for every logger."""

import json
import os
import re
import signal
import struct
import time
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from leukemia.config import compose
from leukemia.errors import InputError
from leukemia.storage.locks import exclusive_lock
from leukemia.training import loggers as module
from leukemia.training.loggers import (
    build_loggers,
    check_loggers,
    closed_on_failure,
    log_again,
    log_figure,
    log_final,
    log_images,
    log_settings,
)

EPOCHS = 4
SETTINGS = {"seed": 0, "data.batch_size": 16, "network": "resnet18", "trainable_from": "layer4"}
PICTURE = np.full((2, 8, 8, 3), 128, np.uint8)
CSV = {"csv": {"_target_": "leukemia.training.loggers.ResumableCSVLogger"}}
MLFLOW = {
    "mlflow": {
        "_target_": "leukemia.training.loggers.ResumableMLFlowLogger",
        "experiment_name": "leukemia",
        "tracking_uri": None,
    }
}
WANDB = {
    "wandb": {
        "_target_": "pytorch_lightning.loggers.WandbLogger",
        "project": "leukemia",
        "offline": True,
    }
}


class Minimal(Logger):
    """A user's own logger with Lightning's interface and no more."""

    def __init__(self, colour: str = "blue") -> None:
        super().__init__()
        self.colour, self.told, self.status = colour, [], None

    name = "minimal"
    version = "0"

    def log_hyperparams(self, params):
        self.told.append(("settings", dict(params)))

    def log_metrics(self, metrics, step=None):
        self.told.append(("metrics", dict(metrics)))

    def finalize(self, status):
        self.status = status


class Derived(CSVLogger):
    """A user's own logger that hands its other arguments on."""

    def __init__(self, colour: str, **others) -> None:
        super().__init__(**others)
        self.colour = colour


class Small(pl.LightningModule):
    """Logs step metrics and epoch metrics, and keeps a history in its checkpoint, as CellClassifier does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.history: list[dict[str, float]] = []

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train/grad_norm", loss.detach() * 2, on_step=True, on_epoch=False)
        self.seen = loss.detach()
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch[0]).square().mean())

    def on_train_epoch_end(self):
        self.log("train/loss", self.seen)
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        row = {name: logged[name] for name in ("train/loss", "val/loss")}
        self.history.append({"epoch": self.current_epoch + 1, **row})

    def on_save_checkpoint(self, checkpoint):
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Kill(Checkpoint):
    """Ends the process without a word: within an epoch, or between an epoch's checkpoint and its last metrics."""

    def __init__(self, epoch: int, batch: int | None) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_end(self, trainer, pl_module):
        if self.batch is None and trainer.current_epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def build(node, key, **arguments):
    """As `leukemia.config.build`, without its checks."""
    settings = {name: value for name, value in node.items() if name != "_target_"}
    return module.locate(node["_target_"], key)(**{**arguments, **settings})


@pytest.fixture(autouse=True)
def own_classes(monkeypatch):
    """Lets the classes of this file be found by name under every way to run pytest."""
    own = {f"{__name__}.{kind.__name__}": kind for kind in (Minimal, Derived)}
    locate = module.locate
    monkeypatch.setattr(module, "locate", lambda target, key: own.get(target) or locate(target, key))


KILLS = ((0, 2), (1, None), (2, 3))  # (epoch, batch; None: at its end)


def train_small(folder: Path, nodes, kill: tuple[int, int | None] | None = None) -> None:
    last = folder / "last.ckpt"
    loggers = build_loggers(nodes, folder, build)
    log_settings(loggers, SETTINGS)
    cells = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(cells), batch_size=4)
    keep = ModelCheckpoint(
        folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
    )
    model = Small()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=loggers,
        callbacks=[keep, *([Kill(*kill)] if kill else [])],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if last.is_file():
        log_again(loggers, last)
    trainer.fit(model, data, data, ckpt_path=last if last.is_file() else None, weights_only=True)
    pd.DataFrame(model.history).to_csv(folder / "history.csv", index=False)
    log_final(loggers, SETTINGS, {"accuracy": 0.75})


def killed_three_times(folder: Path, nodes) -> None:
    """Each start is a process of its own, as only such can be killed. A fork of threads may hang."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "mlflow"])
    for kill in (*KILLS, None):
        start = context.Process(target=train_small, args=(folder, nodes, kill))
        start.start()
        start.join()
        assert start.exitcode == (-signal.SIGKILL if kill else 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A run folder with metrics.csv and an MLflow run, after three kills."""
    pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("sweep") / "killed"
    killed_three_times(folder, CSV | MLFLOW)
    return folder


def epochs_of(folder: Path) -> pd.DataFrame:
    """The rows of metrics.csv that end an epoch, in the form of history.csv."""
    rows = pd.read_csv(folder / "metrics.csv")
    rows = rows[rows["val/loss"].notna()]
    return rows.assign(epoch=rows["epoch"] + 1)[["epoch", "train/loss", "val/loss"]].reset_index(drop=True)


def test_a_run_killed_three_times_is_one_csv_equal_to_its_history(killed):
    history = pd.read_csv(killed / "history.csv")
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
    pd.testing.assert_frame_equal(epochs_of(killed), history, check_exact=True)


def test_a_killed_runs_csv_has_each_step_once_and_equals_that_of_a_whole_run(killed, tmp_path):
    train_small(tmp_path / "whole", CSV)
    whole, again = (pd.read_csv(folder / "metrics.csv") for folder in (tmp_path / "whole", killed))
    assert list(again["step"]) == list(range(EPOCHS * 5))
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


def test_a_run_killed_three_times_is_one_mlflow_run_with_each_epoch_once(killed):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{killed.parent / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'leukemia'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("killed", "FINISHED")
    history = pd.read_csv(killed / "history.csv")
    for name in ("train/loss", "val/loss"):
        points = client.get_metric_history(run.info.run_id, name)
        assert sorted((point.step, point.value) for point in points) == [
            (5 * number + 4, value) for number, value in enumerate(history[name])
        ]
    assert run.data.params["network"] == "resnet18"
    assert run.data.metrics["final/accuracy"] == 0.75
    assert json.loads((killed / "loggers.json").read_text()) == {"mlflow": run.info.run_id}


@pytest.fixture
def begin_mlflow(killed, request):
    """Begins or takes up a run of this test in the store of the killed run, as another job of the sweep would."""
    folder = killed.parent / request.node.name

    def begin() -> Logger:
        (logger,) = build_loggers(MLFLOW, folder, build)
        return logger

    begin.folder = folder
    return begin


def test_mlflow_takes_changed_settings_and_a_changed_final_metric_of_an_extended_run(begin_mlflow):
    first = begin_mlflow()
    log_settings([first], {"trainer.max_epochs": 2})
    log_final([first], {}, {"accuracy": 0.5})
    again = begin_mlflow()
    assert again.experiment.get_run(again.run_id).info.status == "RUNNING"
    log_settings([again], {"trainer.max_epochs": 4, "seed": 0})
    log_final([again], {}, {"accuracy": 0.6})
    assert again.run_id == first.run_id
    found = again.experiment.get_run(again.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["final/accuracy"] == 0.6
    assert found.data.params == {"trainer.max_epochs": "2", "seed": "0"}


def test_a_run_that_is_named_mlflow_starts_too(killed):
    with exclusive_lock(killed.parent / "mlflow"):  # as its own process does
        (logger,) = build_loggers(MLFLOW, killed.parent / "mlflow", build)
    assert logger.run_id


def test_mlflow_shows_pictures_beside_its_store(begin_mlflow, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logger = begin_mlflow()
    log_images(logger, "train/batch", PICTURE, 0)
    log_figure(logger, "val/confusion", Figure(figsize=(1, 1)), 7)
    artifacts = begin_mlflow.folder.parent / "mlartifacts" / logger.run_id
    assert sorted(path.name for path in artifacts.rglob("*.png")) == ["step0.png", "step7.png"]
    assert not list(tmp_path.iterdir())  # MLflow's own place is the current folder


def test_an_mlflow_run_that_is_gone_is_begun_anew(begin_mlflow, caplog):
    memory, gone = begin_mlflow.folder / "loggers.json", "0" * 32
    memory.parent.mkdir()
    memory.write_text(json.dumps({"mlflow": gone}))
    logger = begin_mlflow()
    assert logger.run_id != gone
    assert gone in caplog.text
    assert json.loads(memory.read_text()) == {"mlflow": logger.run_id}


def test_jobs_of_a_sweep_share_one_mlflow_experiment(begin_mlflow, killed):
    logger = begin_mlflow()
    (other,) = build_loggers(MLFLOW, killed, build)
    assert other.experiment_id == logger.experiment_id
    assert other.run_id != logger.run_id


def test_a_local_mlflow_store_is_not_kept_for_the_next_run_of_the_process(begin_mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begin_mlflow()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_users_own_mlflow_store_is_taken(begin_mlflow, monkeypatch, tmp_path):
    elsewhere = f"sqlite:///{begin_mlflow.folder.parent / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    (logger,) = build_loggers(MLFLOW, tmp_path / "run", build)
    assert logger.run_id in {run.info.run_id for run in logger.experiment.search_runs([logger.experiment_id])}
    assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture
def quiet_wandb(monkeypatch, tmp_path):
    """W&B without a login, its own files in the test's folder."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its environment once in a process
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "online")  # restored afterwards: the logger sets it
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return wandb


def test_wandb_keeps_its_run_across_interrupted_starts(quiet_wandb, tmp_path):
    folder = tmp_path / "run"
    for epochs in (range(2), range(1, 3), range(2, 4)):  # each start repeats an epoch
        (logger,) = build_loggers(WANDB, folder, build)
        with suppress(SystemExit), closed_on_failure([logger]):
            log_settings([logger], SETTINGS)
            for epoch in epochs:
                logger.log_metrics({"val/loss": 1 / (1 + epoch), "epoch": epoch}, step=epoch)
            raise SystemExit(143)
    (logger,) = build_loggers(WANDB, folder, build)
    log_images(logger, "train/batch", PICTURE, 0)
    log_figure(logger, "val/confusion", Figure(figsize=(1, 1)), 3)
    log_final([logger], SETTINGS, {"accuracy": 0.75})
    quiet_wandb.teardown()  # waits until everything is written
    written = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    (name,) = {path.name for path in written}
    assert name == f"run-{json.loads((folder / 'loggers.json').read_text())['wandb']}.wandb"
    assert list(folder.glob("wandb/offline-run-*/files/media/images/**/*.png"))
    points = [point for path in written for point in wandb_history(path)]
    values = {}
    for point in points:
        if "val/loss" in point:
            values.setdefault(point["trainer/global_step"], set()).add(point["val/loss"])
    assert values == {epoch: {1 / (1 + epoch)} for epoch in range(4)}
    assert any(point.get("final/accuracy") == 0.75 for point in points)


def test_wandb_has_an_epoch_on_the_disk_a_moment_after_it_ended(quiet_wandb, tmp_path):
    folder = tmp_path / "run"
    (logger,) = build_loggers(WANDB, folder, build)
    logger.log_metrics({"val/loss": 0.5, "epoch": 0}, step=3)
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 10
    while 0.5 not in (found := [point.get("val/loss") for point in wandb_history(file)]):
        assert time.monotonic() < until, found  # a SIGKILL would leave these
        time.sleep(0.1)
    log_final([logger], SETTINGS, {})


def wandb_history(path: Path) -> list[dict]:
    """The points in a file of W&B's: records in the format of LevelDB's logs, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record, points = path.read_bytes(), 7, b"", []
    while at + 7 < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            items = Record.FromString(record).history.item
            points.append(
                {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
            )
            record = b""
        if (left := -at % 32768) < 7:
            at += left
    return points


def test_wandb_without_a_login_is_refused_in_one_line(quiet_wandb, tmp_path):
    node = {"wandb": WANDB["wandb"] | {"offline": False}}
    with pytest.raises(InputError, match=r"wandb login.*logger.wandb.offline=true") as caught:
        build_loggers(node, tmp_path / "run", build)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "available", "command"),
    [("mlflow", "mlflow._MLFLOW_AVAILABLE", "mlflow"), ("wandb", "wandb._WANDB_AVAILABLE", "wandb")],
)
def test_a_missing_tracker_is_one_line_with_the_pip_command(tmp_path, monkeypatch, group, available, command):
    class Missing:
        def __bool__(self):
            return False

        def __str__(self):
            return f"Module not found: '{group}>=1.0.0'. HINT: Try running `pip install -U '{group}>=1.0.0'`"

    monkeypatch.setattr(f"pytorch_lightning.loggers.{available}", Missing())
    nodes = compose([f"logger={group}"]).logger
    with pytest.raises(InputError, match=re.escape(f"pip install 'leukemia[{command}]'")):
        build_loggers(nodes, tmp_path, build)


@pytest.mark.parametrize("group", ["mlflow", "wandb"])
def test_a_missing_tracker_is_found_before_anything_is_built(monkeypatch, group):
    nodes = compose([f"logger={group}"]).logger
    check_loggers(nodes)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape(f"pip install 'leukemia[{group}]'")):
        check_loggers(nodes)
    check_loggers(compose(["logger=many"]).logger)


def test_another_missing_package_is_named(tmp_path):
    def lacks(node, key, **arguments):
        raise ModuleNotFoundError("No module named 'comet_ml'", name="comet_ml")

    with pytest.raises(InputError, match=r"logger\.mine needs the package comet_ml: pip install comet_ml"):
        build_loggers({"mine": {"_target_": "pytorch_lightning.loggers.CometLogger"}}, tmp_path, lacks)


def read_events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()


@pytest.fixture
def tensorboard(tmp_path) -> Path:
    """The folder of a finished run with the default logger."""
    loggers = build_loggers(compose(["logger=many"]).logger, tmp_path, build)
    log_settings(loggers, SETTINGS)
    for logger in loggers:
        logger.log_metrics({"val/loss": 0.5, "epoch": 0}, step=3)
        logger.save()
        log_images(logger, "train/batch", PICTURE, 0)
        log_figure(logger, "val/confusion", Figure(figsize=(1, 1)), 3)
    log_final(loggers, SETTINGS, {"accuracy": 0.75, "auroc": 0.5})
    return tmp_path


def test_tensorboard_shows_final_metrics_and_pictures(tensorboard):
    events = read_events(tensorboard)
    assert [event.value for event in events.Scalars("final/accuracy")] == [0.75]
    assert {"train/batch", "val/confusion"} <= set(events.Tags()["images"])


def test_hparams_yaml_is_filled_with_the_network_first(tensorboard):
    settings = yaml.safe_load((tensorboard / "hparams.yaml").read_text())
    assert settings == SETTINGS


def test_the_hparams_tab_shows_network_and_trainable_from_first(tensorboard):
    """Asked of TensorBoard itself, which sorts settings in its own way."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tensorboard)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tensorboard))
    context = Context(TBContext(data_provider=provider))
    asked = RequestContext()
    found = context.experiment_from_metadata(
        asked, "", include_metrics=True, hparams_run_to_tag_to_content=context.hparams_metadata(asked, ""),
        data_provider_hparams=[],
    )  # fmt: skip
    assert [setting.name for setting in found.hparam_infos][:2] == ["network", "trainable_from"]
    assert {metric.name.tag for metric in found.metric_infos} == {"final/accuracy", "final/auroc"}


def test_csv_has_the_final_metrics_in_its_last_row(tensorboard):
    rows = pd.read_csv(tensorboard / "metrics.csv")
    assert rows.to_dict("records") == [
        {"step": 3, "epoch": 0, "final/accuracy": 0.75, "final/auroc": 0.5, "val/loss": 0.5}
    ]


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": f"{__name__}.Minimal", "colour": "red"},
        {"_target_": f"{__name__}.Derived", "colour": "red"},
        {"_target_": "pytorch_lightning.loggers.CSVLogger"},
        {"_target_": "pytorch_lightning.loggers.TensorBoardLogger"},
    ],
    ids=lambda node: node["_target_"].rpartition(".")[2],
)
def test_any_logger_serves_a_whole_run(tmp_path, node):
    (logger,) = build_loggers({"mine": node, "off": None}, tmp_path, build)
    log_settings([logger], SETTINGS | {"model.unfreeze": None})
    logger.log_metrics({"val/loss": 0.5}, step=1)
    log_images(logger, "train/batch", PICTURE, 0)
    log_figure(logger, "val/confusion", Figure(figsize=(1, 1)), 1)
    log_final([logger], SETTINGS, {"accuracy": 0.75})
    if isinstance(logger, Minimal):
        (_, settings), _, (_, final) = logger.told
        assert list(settings)[:2] == ["network", "trainable_from"]
        assert settings["model.unfreeze"] == "None"
        assert (final, logger.status) == ({"final/accuracy": 0.75}, "success")
    else:
        assert Path(logger.log_dir).is_relative_to(tmp_path)
        assert list(Path(logger.log_dir).iterdir())


def test_loggers_are_closed_where_the_run_fails():
    logger = Minimal()
    with pytest.raises(KeyError), closed_on_failure([logger]):
        raise KeyError("a bug")
    assert logger.status == "failed"


def test_a_logger_that_cannot_be_closed_does_not_hide_the_runs_error():
    logger = Minimal()
    logger.finalize = partial(int, "not a number")
    with pytest.raises(SystemExit), closed_on_failure([logger]):
        raise SystemExit(143)


def test_a_foreign_metrics_csv_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    (logger,) = build_loggers(CSV, tmp_path, build)
    with pytest.raises(InputError, match="move it aside"):
        logger.log_metrics({"val/loss": 0.5}, step=0)


def test_metrics_csv_is_written_whole_and_not_at_each_step(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module, "write_text", lambda path, text: written.append(text))
    (logger,) = build_loggers(CSV, tmp_path, build)
    for step in range(100):
        logger.log_metrics({"train/grad_norm": 1.0}, step=step)
        logger.save()
    assert not written
    logger.log_metrics({"val/loss": 1.0}, step=99)  # the epoch's end
    logger.save()
    assert len(written) == 1
    assert written[0].count("\n") == 101


@pytest.mark.parametrize("group", ["tensorboard", "csv", "mlflow", "wandb", "many", "none"])
def test_each_group_holds_named_entries_that_exist(group):
    nodes = compose([f"logger={group}"]).logger
    names = {"many": ["tensorboard", "csv"], "none": []}.get(group, [group])
    assert list(nodes) == names
    for node in nodes.values():
        assert issubclass(module.locate(node["_target_"], "logger"), Logger)


def test_tensorboard_is_the_default_and_lies_in_the_run_folder(tmp_path):
    (logger,) = build_loggers(compose().logger, tmp_path, build)
    assert isinstance(logger, TensorBoardLogger)
    assert Path(logger.log_dir) == tmp_path


# Through the whole framework: these need training/run.py.


def overrides(small: list[str], folder: Path, *more: str):
    return compose([*small, f"hydra.run.dir={folder}", "model.trainable_from=head", *more])


@pytest.mark.parametrize("group", ["csv", "many", "none"])
def test_a_whole_run_with_another_logger(small, tmp_path, group):
    from leukemia.training.run import train

    run = train(overrides(small, tmp_path / "run", f"logger={group}"), tmp_path / "run")
    assert run.status["status"] == "done"
    if group != "none":
        rows = pd.read_csv(run.folder / "metrics.csv")
        rows = rows[rows["val/loss"].notna()].reset_index(drop=True)
        for name in ("train/loss", "val/loss", "val/auroc"):
            pd.testing.assert_series_equal(rows[name], run.history[name], check_exact=True)
        assert rows["final/accuracy"].iloc[-1] == run.metrics["accuracy"]


def test_a_whole_run_with_averaged_weights_reports_them(small, tmp_path):
    from leukemia.training.run import train

    run = train(
        overrides(
            small,
            tmp_path / "run",
            "+callbacks.ema._target_=pytorch_lightning.callbacks.EMAWeightAveraging",
            "+callbacks.ema.decay=0.9",
        ),
        tmp_path / "run",
    )
    best = torch.load(run.best_checkpoint, weights_only=True)
    averaged, stepped = best["state_dict"], best["current_model_state"]
    moved = {name for name in averaged if not torch.equal(averaged[name], stepped[name])}
    assert moved
    assert all(name.startswith("net.stages.head.") for name in moved)
    assert run.metrics["best_epoch"] == best["history"][-1]["epoch"]
