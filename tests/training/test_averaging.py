"""Weight averaging: the weights that are kept are the validated ones, and frozen stages do not move."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from leukemia.errors import InputError
from leukemia.training.averaging import adapted, check_callbacks

EPOCHS, BATCHES = 3, 5


class Staged(pl.LightningModule):
    """A frozen stage and one that trains, both with BatchNorm; `thaw_at` is the epoch that thaws the first."""

    def __init__(self, thaw_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.trained = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
        self.register_buffer("constant", torch.tensor(0.1))
        with torch.no_grad():
            self.frozen(torch.randn(64, 4))  # statistics that are not round numbers
        self.thaw_at = thaw_at
        self.validated: list[dict[str, torch.Tensor]] = []
        self._freeze(True)

    def _freeze(self, freeze: bool) -> None:
        self.frozen.requires_grad_(not freeze)

    def on_train_epoch_start(self) -> None:
        thawed = self.thaw_at is not None and self.current_epoch >= self.thaw_at
        self._freeze(not thawed)
        self.train()
        self.frozen.train(thawed)

    def loss(self, batch):
        cells, labels = batch
        return nn.functional.mse_loss(self.trained(self.frozen(cells)).squeeze(1), labels)

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch))

    def on_validation_epoch_start(self):  # after the callbacks', which swap the average in
        self.validated.append({name: value.clone() for name, value in self.state_dict().items()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class EachEpoch(WeightAveraging):
    """A user's own average, updated when an epoch has ended."""

    def should_update(self, step_idx=None, epoch_idx=None):
        return epoch_idx is not None and epoch_idx >= 1


class EverySecondStep(WeightAveraging):
    """A user's own average, which counts its questions."""

    asked = 0

    def should_update(self, step_idx=None, epoch_idx=None):
        self.asked += 1
        return step_idx is not None and step_idx % 2 == 0


class Interrupt(pl.Callback):
    """Ends training as a kill would, at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise SystemExit(137)


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    cells = torch.randn(BATCHES * 8, 4, generator=generator)
    return DataLoader(TensorDataset(cells, cells.prod(1)), batch_size=8)


def fit(folder, *callbacks, model=None, epochs=EPOCHS, resume=None) -> Staged:
    model = model or Staged()
    check_callbacks(callbacks)
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor="val/loss",
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    last = ModelCheckpoint(
        folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[*map(adapted, callbacks), best, last],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, loader(), loader(), ckpt_path=resume, weights_only=True)
    return model


def read(path) -> dict:
    return torch.load(path, weights_only=True)


def equal(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


AVERAGES = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "ema without buffers": lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
    "equal": WeightAveraging,
    "foreach": lambda: WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    "own": EverySecondStep,
    "delayed": lambda: EMAWeightAveraging(decay=0.9, update_starting_at_step=BATCHES + 2),
}


@pytest.fixture(scope="module", params=AVERAGES, ids=lambda name: name.replace(" ", "-"))
def run(request, tmp_path_factory):
    """(name of the average, folder with best.ckpt and last.ckpt, fitted model)."""
    folder = tmp_path_factory.mktemp("averaged")
    return request.param, folder, fit(folder, AVERAGES[request.param]())


def test_best_holds_exactly_the_averaged_weights_that_were_validated(run):
    _, folder, model = run
    best = read(folder / "best.ckpt")
    assert len(model.validated) == EPOCHS
    assert equal(best["state_dict"], model.validated[best["epoch"]])
    assert equal(read(folder / "last.ckpt")["state_dict"], model.validated[-1])
    assert equal(model.state_dict(), model.validated[-1])  # the last epoch is what a run without `best` keeps


def test_the_kept_weights_are_averaged_and_not_those_of_the_last_step(tmp_path):
    fit(tmp_path, EMAWeightAveraging(decay=0.9))
    last = read(tmp_path / "last.ckpt")
    for name in ("trained.0.weight", "trained.1.running_mean"):
        assert not torch.equal(last["state_dict"][name], last["current_model_state"][name])


def test_frozen_stages_and_constants_stay_equal_to_the_bit(run):
    _, folder, _ = run
    before, after = Staged().state_dict(), read(folder / "last.ckpt")["state_dict"]
    still = [name for name in before if name.startswith("frozen") or name == "constant"]
    assert equal({name: after[name] for name in still}, {name: before[name] for name in still})
    assert not torch.equal(after["trained.0.weight"], before["trained.0.weight"])


def test_lightnings_own_average_moves_frozen_weights(tmp_path):
    """The reason for `adapted`; where this fails Lightning has mended it."""
    before = Staged().state_dict()["frozen.0.weight"].clone()
    last = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[EMAWeightAveraging(decay=0.9), last],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Staged(), loader(), loader())
    moved = read(tmp_path / "last.ckpt")["state_dict"]["frozen.0.weight"]
    assert not torch.equal(moved, before)
    assert torch.allclose(moved, before, atol=1e-6)


def test_a_stage_that_thaws_later_is_averaged_from_then_on(tmp_path):
    before = Staged().state_dict()["frozen.0.weight"].clone()
    model = fit(tmp_path, EMAWeightAveraging(decay=0.9), model=Staged(thaw_at=2))
    assert torch.equal(model.validated[1]["frozen.0.weight"], before)
    last = read(tmp_path / "last.ckpt")
    assert not torch.equal(last["state_dict"]["frozen.0.weight"], before)
    assert not torch.equal(
        last["state_dict"]["frozen.0.weight"], last["current_model_state"]["frozen.0.weight"]
    )


def test_before_a_delayed_start_the_model_itself_is_validated(tmp_path):
    initial = Staged().state_dict()["trained.0.weight"].clone()
    model = fit(tmp_path, EMAWeightAveraging(update_starting_at_step=10_000))
    weights = [seen["trained.0.weight"] for seen in model.validated]
    assert not torch.equal(weights[0], initial)
    last = read(tmp_path / "last.ckpt")
    assert equal(last["state_dict"], last["current_model_state"])


def test_a_resumed_run_is_equal_to_the_bit(tmp_path, run):
    name, folder, _ = run
    for epoch in (1, 2):
        last = tmp_path / "last.ckpt" if epoch > 1 else None
        with pytest.raises(SystemExit):
            fit(tmp_path, AVERAGES[name](), Interrupt(epoch), resume=last)
    fit(tmp_path, AVERAGES[name](), resume=tmp_path / "last.ckpt")
    whole, killed = read(folder / "last.ckpt"), read(tmp_path / "last.ckpt")
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert equal(whole[key], killed[key]), key
    assert equal(read(folder / "best.ckpt")["state_dict"], read(tmp_path / "best.ckpt")["state_dict"])


def test_the_average_goes_by_the_name_of_the_users_class_in_a_checkpoint(tmp_path):
    fit(tmp_path, EverySecondStep(), epochs=1)
    assert "EverySecondStep" in read(tmp_path / "last.ckpt")["callbacks"]


def test_other_callbacks_are_left_as_they_are():
    callback = ModelCheckpoint()
    assert type(adapted(callback)) is ModelCheckpoint
    average = adapted(EMAWeightAveraging())
    assert type(adapted(average)) is type(average)


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (StochasticWeightAveraging(swa_lrs=1e-2), "one more epoch"),
        (BackboneFinetuning(), "model.unfreeze"),
        (LearningRateFinder(), "search over model.optimizer.lr"),
        (BatchSizeFinder(), "choose data.batch_size"),
        (ModelPruning("l1_unstructured", amount=0.5), "prune an export"),
        (EMAWeightAveraging(update_starting_at_epoch=3), "update_starting_at_step"),
        (EachEpoch(), "after that epoch was validated"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_callback_that_cannot_work_is_refused_with_the_reason(callback, reason):
    with pytest.raises(InputError, match=reason):
        check_callbacks([adapted(callback)])


def test_an_update_after_validation_is_refused_also_where_it_comes_unannounced(tmp_path):
    class Late(WeightAveraging):
        def should_update(self, step_idx=None, epoch_idx=None):
            return epoch_idx is not None and hasattr(self, "late")

    late = Late()
    check_callbacks([late])
    late.late = True
    model = Staged()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[adapted(late)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(InputError, match="validated"):
        trainer.fit(model, loader(), loader())


def test_two_averages_are_refused():
    with pytest.raises(InputError, match="one average"):
        check_callbacks([EMAWeightAveraging(), WeightAveraging()])
