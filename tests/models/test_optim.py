"""Who learns how fast: parameter groups, any optimizer and any schedule, and the refusal of bad settings."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from leukemia.errors import InputError
from leukemia.models import optim
from leukemia.models.freezing import freeze, stage_names
from leukemia.models.optim import (
    build_optimizer,
    build_scheduler,
    check_stage_lr,
    depends_on_epochs,
    head_rate,
    parameter_groups,
    try_step,
)


@pytest.fixture
def net(tiny):
    return tiny()


def test_groups_hold_exactly_the_parameters_that_will_train(net):
    for stage in stage_names(net):
        freeze(net, stage)
        grouped = [parameter for group in parameter_groups(net, stage) for parameter in group["params"]]
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        assert {id(p) for p in grouped} == {id(p) for p in trained}
        assert len(grouped) == len(trained)


def test_weight_decay_spares_one_dimensional_parameters(net):
    optimizer = build_optimizer(
        partial(torch.optim.Adam, weight_decay=0.1), parameter_groups(net, "stem"), fused=False
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.1) == (parameter.ndim > 1)


def test_a_stage_learns_at_its_own_rate(net):
    groups = parameter_groups(net, "pool", {"head": 1e-2})
    optimizer = build_optimizer(partial(torch.optim.Adam, lr=1e-4), groups, fused=False)
    rates = {group["name"].removesuffix("-no_decay"): group["lr"] for group in optimizer.param_groups}
    assert rates == {"pool": 1e-4, "head": 1e-2}


OWN_RULES = {  # and what they say of a network
    "LBFGS": "per-parameter options",
    "Muon": "2D parameters",
    "SparseAdam": "dense gradients",
}
OPTIMIZERS = sorted(
    name for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_of_torch_takes_a_step_or_is_refused_by_its_own_rule(net, name):
    make = getattr(torch.optim, name)
    groups = parameter_groups(net, "stem", decays=optim.takes_weight_decay(make))

    def step():
        optimizer = build_optimizer(make, groups, fused=True)
        try_step(make, None)
        net.stages(torch.randn(2, 3, 32, 32)).sum().backward()
        optimizer.step()

    before = net.stages.head.weight.clone()
    if name in OWN_RULES:
        with pytest.raises(
            InputError, match=rf"model\.optimizer \(torch\.optim\..*{name}\).*{OWN_RULES[name]}"
        ):
            step()
    else:
        step()
    assert torch.equal(net.stages.head.weight, before) == (name in OWN_RULES)


def test_fused_kernels_are_used_where_the_class_has_them_and_nothing_else_was_asked_for(net):
    def fused(make, asked=True):
        return build_optimizer(make, parameter_groups(net, "head"), asked).defaults.get("fused")

    class Mine(torch.optim.Adam):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)

    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        assert fused(kind) is True
        assert not fused(kind, asked=False)
        assert not fused(partial(kind, fused=False))
        assert not fused(partial(kind, foreach=True))
    assert not fused(torch.optim.Adagrad)  # a GPU has no fused kernel of it
    assert not fused(partial(Mine, lr=1e-3))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (partial(torch.optim.Adam, lr=-1), r"model.optimizer.lr=-1 is out of range"),
        (partial(torch.optim.Adam, lr=0), r"model.optimizer.lr=0 is out of range"),
        (partial(torch.optim.Adam, lr=float("nan")), r"model.optimizer.lr=nan is out of range"),
        (partial(torch.optim.Adam, lr="fast"), r"model.optimizer.lr=fast is out of range"),
        (partial(torch.optim.Adam, weight_decay=-1), r"model.optimizer.weight_decay=-1 is out of range"),
        (partial(torch.optim.Adam, betas="x"), r"model.optimizer \(torch.optim.adam.Adam\) refuses its settings"),
        (partial(torch.optim.Adam, betas=0.9), r"refuses its settings"),
        (partial(torch.optim.Adam, betas=[]), r"refuses its settings"),
        (partial(torch.optim.SGD, momentum="much"), r"refuses its settings"),
        (partial(torch.optim.Adam, beta=1), r"unexpected keyword argument 'beta'"),
        (lambda groups: None, r"gives a NoneType and not an Optimizer"),
        (3, r"refuses its settings: 'int' object is not callable"),
    ],
)  # fmt: skip
def test_bad_settings_of_an_optimizer_are_refused_by_name(make, named):
    with pytest.raises(InputError, match=named):
        try_step(make, None)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (partial(optim.step), "model.scheduler.step_epochs=(): name the epochs"),
        (partial(optim.step, step_epochs=3), "model.scheduler.step_epochs=3: name the epochs"),
        (partial(optim.step, step_epochs=["a"]), "model.scheduler.step_epochs=a is out of range"),
        (
            partial(optim.step, step_epochs=[2], step_factor=0),
            "model.scheduler.step_factor=0 is out of range",
        ),
        (partial(optim.cosine, warmup_epochs=-1), "model.scheduler.warmup_epochs=-1 is out of range"),
        (lr_scheduler.StepLR, "refuses its settings: .*step_size"),
        (partial(lr_scheduler.CosineAnnealingLR, T_max="x"), "refuses its settings"),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=0), "refuses its settings"),
        (partial(lr_scheduler.MultiStepLR, milestones=5), "refuses its settings"),
        (partial(lr_scheduler.OneCycleLR, max_lr="x"), "refuses its settings"),
        (partial(lr_scheduler.ReduceLROnPlateau, mode="best"), "refuses its settings"),
        (lambda optimizer: "constant", "gives a str and not an LRScheduler"),
    ],
)
def test_bad_settings_of_a_schedule_are_refused_by_name(make, named):
    with pytest.raises(InputError, match=named.replace("(", r"\(").replace(")", r"\)")):
        try_step(torch.optim.Adam, make)


def scheduled(make, epochs=10, steps=4, monitor="val/loss", mode="min"):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, momentum=0.9)
    return build_scheduler(make, optimizer, epochs, steps, monitor, mode)


def rates(make, epochs, steps):
    """The learning rate before each batch or epoch, as Lightning steps."""
    found = scheduled(make, epochs, steps)
    scheduler, values = found["scheduler"], []
    for _ in range(epochs * steps if found["interval"] == "step" else epochs):
        values.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return values


def test_our_schedules_step_after_each_batch_with_the_values_worked_out_by_hand():
    cosine = rates(partial(optim.cosine, warmup_epochs=2), epochs=10, steps=4)
    assert [cosine[4 * epoch] for epoch in (1, 2, 6)] == pytest.approx([0.5, 1, 0.5])
    assert cosine[-1] < 0.01
    step = rates(partial(optim.step, step_epochs=[2, 4]), epochs=6, steps=2)
    assert step == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 4)
    warmup = rates(optim.warmup, epochs=2, steps=4)
    assert warmup == pytest.approx([0.001, 0.25, 0.5, 0.75, 1, 1, 1, 1])


@given(epochs=st.integers(1, 30), steps=st.integers(1, 9), warmup=st.floats(0, 5))
def test_a_rate_lies_between_0_and_the_optimizers(epochs, steps, warmup):
    for make in (optim.cosine, optim.warmup, partial(optim.step, step_epochs=[1, 3])):
        assert all(0 <= rate <= 1 for rate in rates(partial(make, warmup_epochs=warmup), epochs, steps))


@pytest.mark.parametrize(
    ("make", "interval"),
    [
        (partial(lr_scheduler.StepLR, step_size=1), "epoch"),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=3), "epoch"),
        (partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1), "epoch"),  # its `mode` is another one
        (lr_scheduler.ReduceLROnPlateau, "epoch"),
        (partial(lr_scheduler.OneCycleLR, max_lr=1.0), "step"),
        (lambda optimizer, steps_per_epoch: lr_scheduler.ConstantLR(optimizer), "step"),
    ],
)
def test_a_schedule_steps_after_each_epoch_unless_it_takes_steps_per_epoch(make, interval):
    assert scheduled(make)["interval"] == interval
    try_step(torch.optim.SGD if interval == "epoch" else partial(torch.optim.SGD, momentum=0.9), make)


def test_one_cycle_spans_the_whole_training():
    assert scheduled(partial(lr_scheduler.OneCycleLR, max_lr=1.0))["scheduler"].total_steps == 40


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/auroc", "max")])
def test_plateau_follows_the_root_monitor_in_its_mode(monitor, mode):
    found = scheduled(lr_scheduler.ReduceLROnPlateau, monitor=monitor, mode=mode)
    assert (found["monitor"], found["scheduler"].mode) == (monitor, mode)
    found = scheduled(partial(lr_scheduler.ReduceLROnPlateau, mode="max"), monitor=monitor, mode=mode)
    assert found["scheduler"].mode == "max"


def test_it_is_known_which_schedules_depend_on_the_number_of_epochs():
    assert not any(map(depends_on_epochs, (None, optim.warmup, optim.step, lr_scheduler.ReduceLROnPlateau)))
    assert all(
        map(depends_on_epochs, (optim.cosine, lr_scheduler.OneCycleLR, lr_scheduler.CosineAnnealingLR))
    )


@pytest.mark.parametrize(
    ("stage_lr", "named"),
    [
        ({"layer5": 1e-3}, "model.stage_lr=layer5 is not a stage"),
        ({"head": -1}, "model.stage_lr.head=-1 is out of range"),
        (1e-3, "model.stage_lr=0.001 has no stages"),
    ],
)
def test_a_rate_of_an_unknown_stage_is_refused(net, stage_lr, named):
    with pytest.raises(InputError, match=named):
        check_stage_lr(net, stage_lr)


def test_last_names_a_stage_here_too(net):
    assert check_stage_lr(net, {"last": 1e-3}) == {"pool": 1e-3}


def test_the_head_learns_at_a_multiple_of_the_optimizers_rate():
    assert head_rate(partial(torch.optim.Adam, lr=3e-4), 10) == {"head": pytest.approx(3e-3)}
    assert head_rate(torch.optim.Adam, 10) == {"head": pytest.approx(1e-2)}  # of its own default
    assert head_rate(partial(torch.optim.Adam, lr=3e-4), 1) == {}
    assert head_rate(lambda groups: None, 10) == {}
