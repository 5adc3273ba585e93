"""A run folder of the wrong shape is refused in a line that names file and key; nothing else reaches a reader."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leukemia.data.run_files import RunData, class_names, run_data
from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.runs import Run

DATA = {"root": "cells", "classes": ["HEM", "ALL"], "image_size": 32, "resize": "crop", "native_size": None}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def result_or_refusal(read):
    try:
        return read()
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600
    return None


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("config.yaml", "a: 1", "data"),
        ("config.yaml", "data: 3", "data"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"image_size": float("nan")}}), "data.image_size"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"tta": [1, 2]}}), "data.tta"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"classes": ["unsure", "ALL"]}}), "data.classes"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"classes": ["ALL", "ALL"]}}), "data.classes"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"classes": ["A", "B", "C"]}}), "data.classes"),
        ("config.yaml", yaml.safe_dump({"data": DATA | {"root": "r" * 5000}}), "data.root"),
        ("config.yaml", yaml.safe_dump({"data": DATA, "trainer": "x"}), "trainer"),
        ("config.yaml", yaml.safe_dump({"data": DATA, "trainer": {"devices": {"a": 1}}}), "trainer.devices"),
        ("config.yaml", yaml.safe_dump({"data": DATA, "trainer": {"num_nodes": "x"}}), "trainer.num_nodes"),
        ("config.yaml", yaml.safe_dump({"data": DATA, "trainer": {"max_epochs": "x"}}), "trainer.max_epochs"),
        ("metrics.json", '{"classes": 1}', "classes"),
        ("metrics.json", '{"classes": ["Review", "b"]}', "classes"),
        ("metrics.json", '{"split": ["test"]}', "split"),
        ("metrics.json", '{"subjects": 3}', "subjects"),
        ("metrics.json", '{"leaks": "many"}', "leaks"),
        ("history.csv", "train/loss\n1\n", "epoch"),
        ("history.csv", "epoch,train/loss\n1,low\n", "train/loss"),
        ("history.csv", "epoch\n1\n1\n", "epoch"),
        ("cells.csv", "path\na\n", "split"),
        ("cells.csv", "path,subject,label,split,pixel_hash\na,1,2,test,h\n", "label"),
        ("cells.csv", "path,subject,label,split,pixel_hash\na,1,1,test,h\na,1,1,test,h\n", "twice"),
    ],
)  # fmt: skip
def test_a_wrong_shape_is_named(tmp_path, name, content, key):
    (tmp_path / name).write_text(content)
    read = {"config.yaml": "data"}.get(name, name.partition(".")[0])
    with pytest.raises(InputError) as refusal:
        getattr(Run(tmp_path), read)
    assert name in str(refusal.value)
    assert key in str(refusal.value)


@given(changes=st.dictionaries(st.sampled_from(sorted([*DATA, "tta"])), ANY))
def test_any_settings_of_the_data_are_typed_or_refused(changes):
    found = result_or_refusal(lambda: run_data({"data": DATA | changes}, "config.yaml"))
    if found is not None:
        assert isinstance(found, RunData)
        assert isinstance(found.image_size, int)
        assert found.native_size is None or found.native_size > 0
        assert len(set(found.classes)) == 2


@given(config=st.dictionaries(st.sampled_from(["data", "trainer", "model"]), ANY))
def test_any_configuration_is_read_or_refused(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("data", "precision", "engine"):
        result_or_refusal(lambda name=name: getattr(Run(folder), name))


@given(
    metrics=st.dictionaries(
        st.sampled_from(["classes", "split", "subjects", "leaks", "best_epoch", "synthetic", "side"]), ANY
    )
)
def test_any_metrics_are_read_or_refused(tmp_path_factory, metrics):
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    result_or_refusal(lambda: Run(folder).metrics)


POLICY = Policy(-1.0, 1.0, 1.0, 0.0, 0.1, 0.2, 0.95, "subject", certified=True).to_json()


@given(
    changes=st.dictionaries(st.sampled_from(sorted(POLICY)), ANY),
    inner=st.dictionaries(st.text(max_size=4), ANY),
)
def test_any_policy_decides_or_is_refused(changes, inner):
    for content in (POLICY | changes, POLICY | {"thresholds": {"low": None, "high": None} | inner}):
        policy = result_or_refusal(lambda content=content: Policy.from_json(content))
        if policy is not None:
            assert set(policy.decide([-5.0, 0.0, 5.0], ("HEM", "ALL"))) <= {"HEM", "ALL", "review"}


@pytest.mark.parametrize("value", [10**400, 10**4000, float("inf"), True, "1"])
def test_a_threshold_is_a_number_of_usual_size(value):
    with pytest.raises(InputError, match="low="):
        Policy.from_json(POLICY | {"thresholds": {"low": value, "high": None}})


@given(value=ANY)
def test_class_names_are_two_different_words(value):
    found = result_or_refusal(lambda: class_names(value, "classes"))
    assert found is None or len(set(found)) == 2
