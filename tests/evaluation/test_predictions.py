"""The table as people write it: spelling of subjects, separators, empty fields, numbers that cannot be."""

import pandas as pd

from leukemia.evaluation.bootstrap import evaluate
from leukemia.evaluation.metrics import cell_metrics, subject_metrics
from leukemia.evaluation.predictions import parse_table, read_predictions
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

    def test_a_data_frame_of_a_notebook_has_the_figures_of_plain_names(self):
        table, plain = spelled(cells()), cells().assign(subject=lambda t: "S" + t["subject"])
        assert evaluate([table], draws=20) == evaluate([plain], draws=20)
        assert subject_metrics(table) == subject_metrics(plain)
        assert cell_metrics(table)["n_subjects"] == 28

    def test_a_name_of_blanks_is_missing(self):
        table = parse_table("path,subject,label,logit\na, ,1,2\nb,x,0,1\n", "t.csv")
        assert table["subject"].isna().tolist() == [True, False]
        assert evaluate([table], draws=5)["unit"] == "cell"

    def test_numbers_as_names_stay_numbers(self):
        table = pd.DataFrame({"path": list("abcd"), "subject": [1, 1, 2, 2], "label": [1, 1, 0, 0],
                              "logit": [1.0, 2.0, -1.0, 1.0]})  # fmt: skip
        assert evaluate([table], draws=5)["n_subjects"] == 2
