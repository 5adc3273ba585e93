"""An ensemble is the mean of its members' logits, on cells that are held out for every member."""

import numpy as np
import pandas as pd
import pytest

from leukemia.errors import InputError
from leukemia.evaluation.ensemble import NoSharedCells, combined, mean_predictions


def predictions(paths, logits, **columns):
    table = pd.DataFrame({"path": list(paths), "label": 1, "logit": logits, "split": "test"})
    return table.assign(**columns)


def test_scores_are_the_mean_logit_and_the_sample_deviation_of_the_probabilities():
    found = combined([[0.0, 2.0], [np.log(3), 2.0]])  # probabilities 0.5 and 0.75
    np.testing.assert_allclose(found["logit"], [np.log(3) / 2, 2.0])
    np.testing.assert_allclose(found["probability_sd"], [0.25 / np.sqrt(2), 0.0])


def test_one_network_does_not_disagree_with_itself():
    assert list(combined([[1.0, 2.0]])) == ["logit"]


def test_cells_are_those_of_all_members_whatever_their_order():
    found = mean_predictions([predictions("abc", [1.0, 2.0, 3.0]), predictions("dcb", [9.0, 5.0, 4.0])])
    assert found["path"].tolist() == ["b", "c"]
    assert found["logit"].tolist() == [3.0, 4.0]
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-found["logit"])))


def test_a_cell_that_chose_the_epoch_of_one_member_is_not_held_out():
    chosen = predictions("ab", [1.0, 1.0], split=["test", "val"])
    assert mean_predictions([predictions("ab", [0.0, 0.0]), chosen])["split"].tolist() == ["test", "val"]


def test_folds_without_a_common_cell_are_refused_with_the_reason():
    with pytest.raises(NoSharedCells, match="each of them trained another member"):
        mean_predictions([predictions("ab", [0.0, 0.0]), predictions("cd", [0.0, 0.0])])


@pytest.mark.parametrize("name", ["label", "fold"])
def test_members_that_contradict_each_other_are_refused(name):
    tables = [predictions("ab", [0.0, 0.0], **{name: value}) for value in (0, 1)]
    with pytest.raises(InputError, match=f"another {name} for the same cells"):
        mean_predictions(tables)


def test_the_gate_that_stops_a_cell_most_speaks_for_the_ensemble():
    gated = predictions("abc", [0.0, 0.0, 0.0], unlike_by=[0.5, 3.0, 0.1], unlike=[None, "larger", None])
    other = predictions(
        "abc", [0.0, 0.0, 0.0], unlike_by=[0.7, 2.0, np.nan], unlike=[None, "redder", "bluer"]
    )
    found = mean_predictions([gated, other])
    np.testing.assert_allclose(found["unlike_by"], [0.7, 3.0, np.inf])
    assert found["unlike"].tolist()[1:] == ["larger", "bluer"]
    assert pd.isna(found["unlike"][0])
    alone = mean_predictions([gated.drop(columns="unlike_by"), other.iloc[:2]])
    assert alone["unlike"].tolist()[1:] == ["redder"]
