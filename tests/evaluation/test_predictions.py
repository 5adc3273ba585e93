"""The table as people write it: spelling of subjects, separators, empty fields, numbers that cannot be."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from leukemia.errors import InputError
from leukemia.evaluation.bootstrap import evaluate
from leukemia.evaluation.calibration import calibration_metrics
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.evaluation.predictions import parse_table, read_predictions, sigmoid, validate_predictions
from tests.evaluation.test_bootstrap import cells


def spelled(table):
    """The same subjects, each spelled in three ways."""
    ways = (str.lower, lambda name: name + "  ", lambda name: " " + name.upper())
    return table.assign(subject=[ways[row % 3]("s" + name) for row, name in enumerate(table["subject"])])


class TestSubjects:
    def test_a_csv_has_each_subject_once_however_it_is_spelled(self, tmp_path):
        spelled(cells()).to_csv(tmp_path / "table.csv", index=False)
        table = read_predictions(tmp_path / "table.csv")
        assert table["subject"].nunique() == 28
        assert set(table["subject"]) == {f"S{name}" for name in cells()["subject"]}

    def test_a_data_frame_of_a_notebook_has_the_metrics_of_plain_names(self):
        table, plain = spelled(cells()), cells().assign(subject=lambda t: "S" + t["subject"])
        assert evaluate([table], draws=20) == evaluate([plain], draws=20)
        assert subject_metrics(table) == subject_metrics(plain)
        assert cell_metrics(table)["n_subjects"] == 28

    def test_a_name_of_blanks_is_missing(self):
        table = parse_table("path,subject,label,logit\na, ,1,2\nb,x,0,1\n", "t.csv")
        assert table["subject"].isna().tolist() == [True, False]
        assert evaluate([table], draws=5)["unit"] == "cell"

    def test_rows_with_more_fields_than_the_header_are_refused_and_not_moved(self):
        with pytest.raises(InputError, match="more fields than its header"):
            parse_table("path,subject,label,logit\na,x,1,2,\nb,y,0,1,\n", "t.csv")

    def test_numbers_as_names_stay_numbers(self):
        table = pd.DataFrame({"path": list("abcd"), "subject": [1, 1, 2, 2], "label": [1, 1, 0, 0],
                              "logit": [1.0, 2.0, -1.0, 1.0]})  # fmt: skip
        assert evaluate([table], draws=5)["n_subjects"] == 2


class TestRefused:
    GOOD = pd.DataFrame({"path": ["a", "b", "c"], "label": [1, 0, 1], "logit": [1.0, -1.0, 2.0]})

    @pytest.mark.parametrize(
        ("column", "values", "said"),
        [
            ("logit", [1.0, float("nan"), 2.0], "logit (empty) in row 2 (b): it has to be a finite number"),
            ("logit", [1.0, "x", 2.0], "logit 'x' in row 2 (b): it has to be a finite number"),
            (
                "logit",
                [1.0, -1e155, 2.0],
                "logit -1e+155 in row 2 (b): it has to lie between -1e+100 and 1e+100",
            ),
            ("label", [1, 2, 1], "label 2 in row 2 (b): write 1"),
            ("path", ["a", " ", None], "path ' ' in row 2 (and 1 more): it is empty"),
            ("path", ["a", "b", "a"], "path 'a' in row 3: it is there twice"),
        ],
    )
    def test_says_what_where_and_the_remedy_in_plain_text(self, column, values, said):
        with pytest.raises(InputError) as refused:
            validate_predictions(self.GOOD.assign(**{column: values}))
        assert said in str(refused.value)

    @pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs")])
    def test_another_separator_is_named(self, tmp_path, sign, name):
        self.GOOD.to_csv(tmp_path / "t.csv", index=False, sep=sign)
        with pytest.raises(InputError, match=f"its fields are separated by {name}, write commas"):
            read_predictions(tmp_path / "t.csv")

    def test_the_largest_logits_overflow_nothing(self):
        table = cells()
        table["logit"] = table["logit"] / table["logit"].abs().max() * 1e100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = [
                *calibration_metrics(table)["before"].values(),
                evaluate([table], draws=5)["cells"]["loss"]["high"],
            ]
        assert all(np.isfinite(values))


def test_the_sigmoid_is_that_of_scipy_at_every_size():
    logit = np.concatenate([np.linspace(-750, 750, 3001), [np.inf, -np.inf, np.nan]])
    np.testing.assert_allclose(sigmoid(logit), expit(logit), rtol=1e-15, atol=1e-307)
