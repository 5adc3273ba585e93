"""CellClassifier trains in plain Lightning, with any criterion, optimizer and schedule, without a run folder."""

import copy
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torchvision.ops import sigmoid_focal_loss

from leukemia.data.datamodule import CellDataModule
from leukemia.data.feature_cache import FrozenPrefix
from leukemia.errors import DivergedError, InputError, name_of
from leukemia.models import optim
from leukemia.models.checkpoint import load_classifier, load_network, read_checkpoint
from leukemia.models.classifier import CellClassifier
from leukemia.models.engine import Frozen
from leukemia.models.freezing import prefix
from leukemia.models.network import pixel_outputs
from leukemia.models.resnet import resnet

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:The number of training batches",
)
CELLS = 12  # in batches of 4
bce = nn.functional.binary_cross_entropy_with_logits


def cells(batch_size: int = 4) -> DataLoader:
    """Twelve pictures of noise, the positive ones brighter."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(CELLS) % 3 > 0).float()  # 8 of 12 are positive
    pixels = (
        torch.randint(128, (CELLS, 32, 32, 3), generator=generator) + 100 * labels[:, None, None, None].long()
    )
    rows = [{"pixels": p.to(torch.uint8), "label": label} for p, label in zip(pixels, labels, strict=True)]
    return DataLoader(rows, batch_size=batch_size)


def trainer(folder, epochs: int = 2, **settings) -> pl.Trainer:
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    given = quiet | {"accelerator": "cpu", "devices": 1, "default_root_dir": folder} | settings
    return pl.Trainer(max_epochs=epochs, **given)


@pytest.fixture
def make(tiny):
    """A classifier of the small network, made with these settings."""

    def made(**settings) -> CellClassifier:
        torch.manual_seed(0)
        return CellClassifier(tiny(), **{"trainable_from": "body", "head_lr_factor": 1, **settings})

    return made


def folded_logits(net, pixels):
    """The logits of a network whose frozen stages the engine computes."""
    return pixel_outputs(net, pixels, Frozen(prefix(net)))[0]


def trained(model, tmp_path, epochs: int = 2, **settings) -> CellClassifier:
    torch.manual_seed(1)
    trainer(tmp_path, epochs, **settings).fit(model, cells(), cells())
    return model


def test_it_fits_validates_tests_and_predicts_in_plain_lightning(make, tmp_path):
    model = make(optimizer=partial(torch.optim.Adam, lr=1e-2))
    logger = CSVLogger(tmp_path, name="log")
    best = ModelCheckpoint(tmp_path, filename="best", monitor="val/loss", save_on_train_epoch_end=True)
    plain = trainer(
        tmp_path, 4, logger=logger, callbacks=[best, EarlyStopping("val/loss")], enable_checkpointing=True
    )
    plain.fit(model, cells(), cells())
    [validated] = plain.validate(model, cells(), verbose=False)
    [tested] = plain.test(model, cells(), verbose=False)
    logits = torch.cat(plain.predict(model, cells()))
    assert validated["val/loss"] == pytest.approx(tested["test/loss"])
    assert logits.shape == (CELLS,)
    assert logits.dtype == torch.float32
    labels = torch.cat([batch["label"] for batch in cells()])
    assert tested["test/loss"] == pytest.approx(float(bce(logits, labels)))
    assert tested["test/accuracy"] == pytest.approx(float(((logits >= 0) == labels.bool()).float().mean()))
    assert [row["epoch"] for row in model.history] == [1, 2, 3, 4]
    assert {"train/loss", "val/loss", "val/auroc", "lr"} <= set(model.history[-1])
    assert model.history[-1]["train/loss"] < model.history[0]["train/loss"]
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "log"}


def test_training_leaves_the_frozen_stages_alone(make, tmp_path):
    model = make(trainable_from="last")
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    trained(model, tmp_path)
    moved = {name.split(".")[1] for name, tensor in model.net.state_dict().items()
             if not torch.equal(before[name], tensor)}  # fmt: skip
    assert moved == {"pool", "head"}


def test_with_few_batches_an_epoch_validation_sees_the_statistics_of_that_epoch(make, tmp_path):
    model = make(optimizer=partial(torch.optim.SGD, lr=1e-9))
    norm = model.net.stages.body[1]
    norm.running_mean.fill_(1e6)
    trained(model, tmp_path, epochs=1)  # three batches
    assert norm.running_mean.max() < 0.26e6


def test_a_schedule_thaws_stages_at_the_start_of_their_epoch(make, tmp_path):
    frozen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            if batch_idx == 0:
                frozen.append(
                    [name for name, stage in model.net.stages.named_children() if not stage.training]
                )

    model = trained(
        make(trainable_from="head", unfreeze={2: "pool", 3: "stem"}), tmp_path, 3, callbacks=[Look()]
    )
    assert frozen == [["stem", "body", "pool"], ["stem", "body"], []]
    assert model.boundary is None
    groups = [group["name"] for group in model.trainer.optimizers[0].param_groups]
    assert groups[0] == "stem"  # from the start, so that the optimizer's state fits a resumed run


def test_features_at_the_boundary_give_the_logits_of_their_pixels(make):
    model = make(trainable_from="pool").eval()
    pixels = next(iter(cells()))["pixels"]
    features = model.prefix(pixels)
    assert not features.requires_grad
    assert torch.equal(model.logits({"features": features}), model.logits({"pixels": pixels}))
    assert torch.equal(model(pixels), folded_logits(model.net, pixels))


def test_the_feature_cache_knows_it_as_a_frozen_prefix(make):
    model = make(trainable_from="pool")
    assert isinstance(model, FrozenPrefix)
    assert (model.boundary, model.boundary_moves) == ("pool", False)
    assert make(trainable_from="stem").boundary is None
    assert make(unfreeze={2: "stem"}).boundary_moves
    assert (
        model.prefix_hash()
        == make(trainable_from="pool").prefix_hash()
        != make(trainable_from="head").prefix_hash()
    )


# Criteria


class Scaled(nn.Module):
    """A criterion with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits, labels):
        return bce(self.scale * logits, labels) + self.scale.square()


def hinge(logits, labels, margin=1.0):
    return (margin - (2 * labels - 1) * logits).clamp(min=0).mean()


FOCAL = partial(sigmoid_focal_loss, alpha=-1, gamma=2.0, reduction="mean")


@pytest.mark.parametrize(
    "criterion",
    [nn.BCEWithLogitsLoss(), Scaled(), hinge, FOCAL, nn.MultiLabelSoftMarginLoss()],
    ids=["bce", "scaled", "hinge", "focal", "multi-label"],
)
def test_val_loss_is_the_criterion(make, tmp_path, criterion):
    model = trained(make(criterion=criterion), tmp_path)
    logits = torch.cat(model.trainer.predict(model, cells()))
    labels = torch.cat([batch["label"] for batch in cells()])
    assert model.history[-1]["val/loss"] == pytest.approx(float(criterion(logits, labels).detach()), rel=1e-5)


def test_focal_without_focus_is_the_cross_entropy(make, tmp_path):
    plain = trained(make(), tmp_path)
    focal = trained(
        make(criterion=partial(sigmoid_focal_loss, alpha=-1, gamma=0.0, reduction="mean")), tmp_path
    )
    assert focal.history[-1]["val/loss"] == pytest.approx(plain.history[-1]["val/loss"], rel=1e-4)


def test_a_criterion_with_parameters_is_trained_and_saved(make, tiny, tmp_path):
    model = trained(make(criterion=Scaled()), tmp_path)
    scale = model.criterion.scale.item()
    assert scale != 1
    model.trainer.save_checkpoint(tmp_path / "x.ckpt")
    twin = CellClassifier.load_from_checkpoint(tmp_path / "x.ckpt", net=tiny(), criterion=Scaled())
    assert twin.criterion.scale.item() == scale
    assert load_network(tmp_path / "x.ckpt", tiny()).epoch == 2  # a network needs no criterion


@pytest.mark.parametrize(
    ("criterion", "named"),
    [
        (nn.BCEWithLogitsLoss(reduction="none"), "and not one loss with a gradient"),
        (lambda logits, labels: 0.5, "gives 0.5 and not one loss"),
        (lambda logits, labels: (logits > 0).float().mean(), "not one loss with a gradient"),
        (lambda logits: logits.mean(), r"cannot be called with logits \(N,\) and labels \(N,\)"),
        (nn.BCEWithLogitsLoss, "BCEWithLogitsLoss.* cannot be called"),
        (nn.CTCLoss(), r"model.criterion \(torch.nn.modules.loss.CTCLoss\) cannot be called"),
        ("bce", "cannot be called"),
    ],
)
def test_a_criterion_of_another_kind_is_refused(make, criterion, named):
    with pytest.raises(InputError, match=named):
        make(criterion=criterion)


@pytest.mark.parametrize(
    "criterion",
    [nn.CrossEntropyLoss(), torch.nn.functional.cross_entropy, nn.SoftMarginLoss(), nn.HingeEmbeddingLoss(),
     nn.KLDivLoss(reduction="batchmean"), nn.PoissonNLLLoss(), nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(),
     nn.HuberLoss()],
    ids=name_of,
)  # fmt: skip
def test_a_loss_of_torch_for_other_labels_or_logits_is_refused(make, criterion):
    with pytest.raises(InputError, match="does not fit one logit a cell and labels 0 and 1"):
        make(criterion=criterion)


def test_trying_the_parts_draws_no_random_number(tiny):
    net = tiny()
    torch.manual_seed(3)
    CellClassifier(net, "body", criterion=lambda logits, labels: bce(logits + torch.rand(2), labels))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)


# Class weights


class Weighed(nn.BCEWithLogitsLoss):
    """Notes the weight of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, float | None]] = []

    def forward(self, logits, labels):
        weight = None if self.pos_weight is None else round(float(self.pos_weight), 4)
        self.seen.append((torch.is_grad_enabled(), weight))
        return super().forward(logits, labels)


class Cells(pl.LightningDataModule):
    """A data module that knows its cells, as CellDataModule does."""

    def __init__(self, labels=(1, 1, 0, 1)) -> None:
        import pandas as pd

        super().__init__()
        self.cells = pd.DataFrame({"split": "train", "label": labels})

    def train_dataloader(self):
        return cells()

    def val_dataloader(self):
        return cells()


def test_balanced_weighs_positive_cells_while_it_trains_and_leaves_no_trace(make, tmp_path):
    criterion = Weighed()
    model = make(criterion=criterion, class_weights="balanced")
    criterion.seen.clear()
    fit = trainer(tmp_path)
    fit.fit(model, datamodule=Cells())
    assert {weight for trains, weight in criterion.seen if trains} == {0.3333}
    assert {weight for trains, weight in criterion.seen if not trains} == {None}
    assert criterion.pos_weight is None
    fit.save_checkpoint(tmp_path / "x.ckpt")
    assert not [
        name
        for name in read_checkpoint(tmp_path / "x.ckpt")["state_dict"]
        if "weight" in name and "net" not in name
    ]


def test_a_function_gets_the_weight_as_an_argument(make, tmp_path):
    seen = []

    def criterion(logits, labels, pos_weight=None):
        seen.append(None if pos_weight is None else float(pos_weight))
        return bce(logits, labels, pos_weight=pos_weight)

    model = make(criterion=criterion, class_weights="balanced")
    seen.clear()
    trainer(tmp_path, 1).fit(model, datamodule=Cells((1, 1, 1, 1, 0)))
    assert set(seen) == {None, 0.25}


@pytest.mark.parametrize(
    "criterion",
    [FOCAL, hinge, nn.SoftMarginLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
     partial(bce, pos_weight=torch.ones(1)), torch.nn.functional.logsigmoid],
    ids=["focal", "hinge", "soft-margin", "bce-with-weight", "function-with-weight", "logsigmoid"],
)  # fmt: skip
def test_balanced_is_refused_where_the_criterion_does_not_take_a_weight(make, criterion):
    with pytest.raises(
        InputError, match=r"does not take it or has one already: use model.class_weights=none"
    ):
        make(criterion=criterion, class_weights="balanced")


def test_balanced_needs_cells_of_both_classes(make, tmp_path):
    with pytest.raises(
        InputError, match=r"both classes, and the training split has 0 of HEM and 2 of ALL: use"
    ):
        trainer(tmp_path).fit(make(class_weights="balanced"), datamodule=Cells((1, 1)))
    with pytest.raises(InputError, match=r"has 3 of HEM and 0 of ALL"):
        trainer(tmp_path).fit(make(class_weights="balanced"), datamodule=Cells((0, 0, 0)))
    with pytest.raises(InputError, match="train with datamodule="):
        trainer(tmp_path).fit(make(class_weights="balanced"), cells(), cells())


# Optimizers and schedules


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "NAdam", "AdamW", "Adafactor", "Rprop"])
def test_it_trains_with_any_optimizer(make, tmp_path, name):
    model = make(optimizer=partial(getattr(torch.optim, name), lr=1e-2))
    before = model.net.stages.head.weight.clone()
    trained(model, tmp_path, 1)
    assert not torch.equal(model.net.stages.head.weight, before)


class Rates(pl.Callback):
    """The learning rate of the head's group, batch by batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer, model, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[-1]["lr"])


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (partial(optim.step, step_epochs=[1]), [1, 1, 1, 0.1, 0.1, 0.1]),
        (partial(optim.warmup, warmup_epochs=1), [0.001, 1 / 3, 2 / 3, 1, 1, 1]),
        (optim.cosine, [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]),
        (partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), [1, 1, 1, 0.5, 0.5, 0.5]),
        (partial(lr_scheduler.ConstantLR, factor=0.25, total_iters=1), [0.25, 0.25, 0.25, 1, 1, 1]),
        (partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9), [1, 1, 1, 0.1, 0.1, 0.1]),
        (None, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_ours_step_after_each_batch_and_torchs_after_each_epoch(make, tmp_path, scheduler, expected):
    rates = Rates()
    trained(
        make(optimizer=partial(torch.optim.SGD, lr=1e-3), scheduler=scheduler), tmp_path, callbacks=[rates]
    )
    assert rates.seen == pytest.approx([1e-3 * factor for factor in expected])


def test_one_cycle_spans_all_batches(make, tmp_path):
    rates = Rates()
    cycle = partial(lr_scheduler.OneCycleLR, max_lr=0.1, pct_start=0.5)
    trained(make(scheduler=cycle), tmp_path, callbacks=[rates])
    assert len(rates.seen) == 6
    assert max(rates.seen) == pytest.approx(0.1)
    assert rates.seen[0] == pytest.approx(0.1 / 25)


def test_a_schedule_counts_steps_of_the_optimizer(make, tmp_path):
    rates = Rates()
    trained(make(scheduler=optim.cosine), tmp_path, callbacks=[rates], accumulate_grad_batches=3)
    assert rates.seen == pytest.approx([3e-4] * 3 + [1.5e-4] * 3)


@pytest.mark.parametrize("epochs", [-1, 99])
def test_a_schedule_ends_where_max_steps_ends_training(make, tmp_path, epochs):
    rates = Rates()
    trained(make(scheduler=optim.cosine), tmp_path, epochs, max_steps=6, callbacks=[rates])
    assert rates.seen[-1] == pytest.approx(3e-4 * (1 + math.cos(math.pi * 5 / 6)) / 2)


def test_a_plateau_follows_the_monitor_in_its_mode(make, tmp_path):
    rates = Rates()
    plateau = partial(lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0, threshold=10.0)
    model = make(optimizer=partial(torch.optim.SGD, lr=1e-6), scheduler=plateau, monitor="val/specificity")
    trained(model, tmp_path, 3, callbacks=[rates])
    config = model.trainer.lr_scheduler_configs[0]
    assert (config.monitor, config.scheduler.mode, config.interval) == ("val/specificity", "max", "epoch")
    assert rates.seen[::3] == pytest.approx([1e-6, 1e-6, 1e-7])


def test_stages_learn_at_their_own_rates(make, tmp_path):
    model = trained(make(stage_lr={"head": 1e-2, "last": 1e-5}), tmp_path, 1)
    rates = {
        group["name"].removesuffix("-no_decay"): group["lr"]
        for group in model.trainer.optimizers[0].param_groups
    }
    assert rates == {"body": 3e-4, "pool": 1e-5, "head": 1e-2}
    assert model.history[-1]["lr"] == 1e-2


def batches_of(values: torch.Tensor, labels: torch.Tensor, **settings) -> DataLoader:
    rows = [{"features": x, "label": y} for x, y in zip(values, labels, strict=True)]
    return DataLoader(rows, batch_size=16, **settings)


def test_by_default_a_frozen_network_is_trained_before_early_stopping_ends_it(demo_root, tmp_path):
    torch.manual_seed(0)
    frozen = CellClassifier(resnet(18, weights="none"), "head")
    data = CellDataModule(str(demo_root), protocol="holdout", image_size=64)
    found = {}
    for split in ("train", "test"):
        batches = [(frozen.prefix(batch["pixels"]), batch["label"]) for batch in data.batches(split)]
        found[split] = [torch.cat(parts) for parts in zip(*batches, strict=True)]

    def reached(**settings) -> float:
        torch.manual_seed(0)
        model = CellClassifier(resnet(18, weights="none"), "head", **settings)
        loaders = batches_of(*found["train"], shuffle=True), batches_of(*found["test"])
        trainer(tmp_path, 30, callbacks=[EarlyStopping("val/loss", patience=5)]).fit(model, *loaders)
        return min(epoch["val/loss"] for epoch in model.history)

    constant = math.log(2)
    assert reached() < reached(head_lr_factor=1) - 0.05  # at the rate of the other stages
    assert reached() < constant - 0.1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_gradients_are_clipped_in_every_precision(make, tmp_path, precision, kind):
    model = make(optimizer=partial(getattr(torch.optim, kind), lr=1e-3))
    trained(model, tmp_path, 1, precision=precision, gradient_clip_val=0.1)
    assert len(model.history) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            {"trainable_from": "layer4"},
            "model.trainable_from=layer4 is not a stage: use one of stem, body, pool, head",
        ),
        ({"unfreeze": {1: "stem"}}, "model.unfreeze: 1 is not an epoch"),
        ({"stage_lr": {"tail": 1}}, "model.stage_lr=tail is not a stage"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1)}, "model.optimizer.lr=-1"),
        ({"optimizer": partial(torch.optim.Adam, betas="x")}, "model.optimizer .* refuses its settings"),
        ({"scheduler": lr_scheduler.StepLR}, "model.scheduler .*missing.* 'step_size'"),
        ({"scheduler": optim.step}, "model.scheduler.step_epochs"),
        ({"class_weights": "some"}, "use one of none, balanced"),
        ({"monitor": "val/acc"}, "monitor=val/acc does not exist: use one of val/loss"),
        ({"optimizer": partial(torch.optim.Muon, lr=1e-3)}, "model.optimizer .*Muon.* refuses its settings"),
    ],
)
def test_bad_settings_are_refused_before_any_data_are_seen(make, settings, named):
    with pytest.raises(InputError, match=named):
        make(**settings)


# Checkpoints


def test_a_checkpoint_loads_with_the_network_at_hand(make, tiny, tmp_path):
    model = trained(make(trainable_from="last", stage_lr={"head": 1e-3}, classes=("a", "b")), tmp_path)
    model.trainer.save_checkpoint(tmp_path / "x.ckpt")
    pixels = next(iter(cells()))["pixels"]
    expected = model.eval()(pixels)
    for twin in (
        CellClassifier.load_from_checkpoint(tmp_path / "x.ckpt", net=tiny()).eval(),
        load_classifier(tmp_path / "x.ckpt", tiny()),
    ):
        assert torch.equal(twin(pixels), expected)
        assert twin.history == model.history
        assert (twin.trainable_from, twin.stage_lr, twin.hparams["classes"]) == (
            "pool",
            {"head": 1e-3},
            ["a", "b"],
        )


def test_it_resumes_in_plain_lightning_as_if_it_had_never_stopped(make, tmp_path):
    settings = {"scheduler": partial(optim.step, step_epochs=[2]), "unfreeze": {3: "stem"}}
    whole = trained(make(**settings), tmp_path, 4)
    half = trained(make(**settings), tmp_path, 2)
    half.trainer.save_checkpoint(tmp_path / "half.ckpt")
    twin = make(**settings)
    trainer(tmp_path, 4).fit(twin, cells(), cells(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert twin.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), whole.parameters(), strict=True))


def test_an_epoch_without_a_validation_has_no_metrics_of_an_earlier_one(make, tmp_path):
    model = trained(make(), tmp_path, 3, check_val_every_n_epoch=2)
    assert ["val/loss" in row for row in model.history] == [False, True, False]


def test_a_loss_that_is_not_finite_ends_training_with_the_remedy(make, tmp_path):
    def broken(logits, labels):
        return bce(logits, labels) * (float("nan") if len(labels) == 4 else 1)

    with pytest.raises(
        DivergedError, match=r"not finite at step 0 \(epoch 1, learning rate 0.0003\): lower model.opt"
    ):
        trained(make(criterion=broken), tmp_path)


# Compiling and copying


def test_both_parts_are_compiled_and_give_what_they_gave_also_after_a_thaw(make):
    model, pixels = make(trainable_from="pool", unfreeze={2: "body"}).eval(), next(iter(cells()))["pixels"]
    expected = model(pixels)
    seen = []

    def backend(graph, inputs):
        seen.append(len(graph.graph.nodes))
        return graph

    model.compile_parts(backend=backend)
    torch.testing.assert_close(model(pixels), expected)
    assert len(seen) == 2  # prefix and suffix, without a break in either
    model.set_boundary("body")
    torch.testing.assert_close(model(pixels), expected)
    assert len(seen) == 4
    assert model.prefix(pixels).shape == model.net.stages.stem(torch.zeros(4, 3, 32, 32)).shape


def test_a_copy_of_a_classifier_trains_apart_from_it(make, tmp_path):
    model = make(trainable_from="pool")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin = trained(copy.deepcopy(model), tmp_path, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(twin.net.stages.head.weight, model.net.stages.head.weight)
    pixels = next(iter(cells()))["pixels"]
    assert torch.equal(twin.eval()(pixels), folded_logits(twin.net, pixels))
