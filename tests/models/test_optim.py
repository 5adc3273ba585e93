"""Who learns how fast."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.errors import InputError
from leukemia.models.classifier import CellClassifier
from leukemia.models.optim import parameter_groups, schedule_factor
from leukemia.models.resnet import STAGES, StagedResNet


@pytest.mark.parametrize("stage", STAGES)
def test_groups_hold_exactly_what_will_train(stage):
    model = StagedResNet(18, stage)
    grouped = [
        parameter for group in parameter_groups(model, stage, lr=1e-3) for parameter in group["params"]
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(p) for p in grouped} == {id(p) for p in trained}
    assert len(grouped) == len(trained)


def test_weight_decay_spares_one_dimensional_parameters():
    for group in parameter_groups(StagedResNet(18, "stem"), "stem", lr=1e-3, weight_decay=0.1):
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.1) == (parameter.ndim > 1)


def test_a_stage_learns_at_its_own_rate():
    groups = parameter_groups(StagedResNet(18, "layer4"), "layer4", lr=1e-4, stage_lr={"head": 1e-2})
    assert {group["name"].removesuffix("-no_decay"): group["lr"] for group in groups} == {
        "layer4": 1e-4,
        "head": 1e-2,
    }


@given(epoch=st.floats(0, 30), warmup=st.floats(0, 5), schedule=st.sampled_from(["none", "cosine"]))
def test_a_factor_lies_between_0_and_1(epoch, warmup, schedule):
    assert 0 <= schedule_factor(schedule, 30, warmup)(epoch) <= 1


def test_cosine_and_step_have_the_values_worked_out_by_hand():
    cosine = schedule_factor("cosine", 10, warmup_epochs=2)
    assert [cosine(epoch) for epoch in (1, 2, 6, 10)] == pytest.approx([0.5, 1, 0.5, 0])
    step = schedule_factor("step", 6, step_epochs=[2, 4])
    assert [step(epoch) for epoch in (0, 1.9, 2, 4)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"lr": 0}, "model.optimizer.lr=0"),
        ({"lr": math.nan}, "model.optimizer.lr=nan"),
        ({"lr": "fast"}, "model.optimizer.lr=fast"),
        ({"stage_lr": {"layer5": 1e-3}}, "layer5 is no stage"),
        ({"stage_lr": {"head": -1}}, "model.stage_lr.head=-1"),
        ({"optimizer": "sgd"}, "use one of adam, adamw"),
        ({"weight_decay": -1}, "model.optimizer.weight_decay=-1"),
        ({"schedule": "linear"}, "use one of none, cosine, step"),
        ({"schedule": "step"}, "model.scheduler.step_epochs"),
        ({"class_weights": "some"}, "use one of none, balanced"),
    ],
)
def test_what_cannot_be_is_refused_by_name(setting, named):
    with pytest.raises(InputError, match=named):
        CellClassifier(weights="none", **setting)
