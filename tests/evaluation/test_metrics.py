import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from leukemia.errors import InputError
from leukemia.evaluation.metrics import (
    METRICS,
    SUBJECT_METRICS,
    auroc,
    calibration_error,
    cell_metrics,
    confusion,
    direction,
    monitored_names,
    subject_metrics,
    subject_table,
    validate_predictions,
)


def predictions(label: list[int], logit: list[float], subject: list[str] | None = None) -> pd.DataFrame:
    paths = [f"cell_{number}.bmp" for number in range(len(label))]
    return pd.DataFrame({"path": paths, "subject": subject, "label": label, "logit": logit})


def random_predictions(seed: int, n: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    label = random.random(n) < 0.65
    logit = np.round(random.normal(0, 1.5, n) + label, 1)  # rounding makes ties, and logits of exactly 0
    return predictions(
        label.astype(int).tolist(), logit.tolist(), [f"S{k}" for k in random.integers(0, 9, n)]
    )


two_classes = st.lists(
    st.tuples(st.booleans(), st.integers(-8, 8)), min_size=2, max_size=60
).filter(lambda cells: len({label for label, _ in cells}) == 2)  # fmt: skip


class TestRegistry:
    def test_it_names_what_the_tables_hold(self) -> None:
        table = random_predictions(0).assign(subject=lambda t: t["label"].map({0: "a", 1: "b"}))
        counts = {"majority_accuracy", "n_images", "n_subjects"}
        assert cell_metrics(table).keys() == METRICS.keys() | counts
        assert (subject_metrics(table) or {}).keys() == SUBJECT_METRICS.keys() | {"n"}
        assert all(name == metric.name for name, metric in METRICS.items())

    def test_a_curve_can_be_monitored_in_its_own_direction(self) -> None:
        assert monitored_names() == [
            "val/loss", "val/accuracy", "val/balanced_accuracy", "val/f1_weighted", "val/auroc",
            "val/sensitivity", "val/specificity",
        ]  # fmt: skip
        assert [direction(name) for name in monitored_names()] == ["min"] + ["max"] * 6
        for monitor in ("val/ece", "train/loss", "loss"):
            with pytest.raises(InputError):
                direction(monitor)

    @pytest.mark.parametrize("name", METRICS)
    def test_a_better_model_is_better_in_its_direction(self, name: str) -> None:
        label = np.array([True] * 20 + [False] * 20)
        noise = np.random.default_rng(0).normal(0, 1, 40)
        worse, better = (METRICS[name].function(label, skill * (2 * label - 1) + noise) for skill in (0, 9))
        assert worse is not None
        assert better is not None
        assert (better > worse) == (METRICS[name].direction == "max")

    def test_it_is_there_without_torch_and_scikit_learn(self) -> None:
        code = (
            "import sys, leukemia.evaluation.metrics; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "set()"


class TestCellMetrics:
    @given(two_classes)
    def test_agree_with_scikit_learn(self, cells: list[tuple[bool, int]]) -> None:
        label, score = [int(a) for a, _ in cells], [b / 2 for _, b in cells]
        called = [int(s >= 0) for s in score]
        ours = cell_metrics(predictions(label, score))
        assert ours["accuracy"] == pytest.approx(sk.accuracy_score(label, called))
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, called))
        weighted = sk.f1_score(label, called, average="weighted", zero_division=0)
        assert ours["f1_weighted"] == pytest.approx(weighted)
        assert ours["auroc"] == pytest.approx(sk.roc_auc_score(label, score))
        assert ours["sensitivity"] == pytest.approx(sk.recall_score(label, called, zero_division=0))
        assert ours["specificity"] == pytest.approx(
            sk.recall_score(label, called, pos_label=0, zero_division=0)
        )
        probability = 1 / (1 + np.exp(-np.array(score)))
        assert ours["loss"] == pytest.approx(sk.log_loss(label, probability))

    def test_a_case_by_hand(self) -> None:
        # Called: 1 1 0 0 1. Of 3 positive cells 2 are called so, of 2 negative ones 1.
        ours = cell_metrics(predictions([1, 1, 1, 0, 0], [2, 0, -1, -3, 1]))
        assert ours["accuracy"] == 3 / 5
        assert ours["sensitivity"] == 2 / 3
        assert ours["specificity"] == 1 / 2
        assert ours["balanced_accuracy"] == pytest.approx(7 / 12)
        # F1 of positive: 2*2/(3+3); of negative: 2*1/(2+2); weights 3 and 2.
        assert ours["f1_weighted"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
        # Pairs (positive, negative) in order: 2>-3, 2>1, 0>-3, -1>-3 of six.
        assert ours["auroc"] == pytest.approx(4 / 6)
        assert ours["majority_accuracy"] == 3 / 5
        assert ours["n_images"] == 5

    def test_the_metrics_of_predicting_all_always_are_those_of_the_challenge(self) -> None:
        ours = cell_metrics(predictions([1] * 1219 + [0] * 648, [1.0] * 1867))
        assert round(ours["accuracy"], 4) == 0.6529
        assert round(ours["f1_weighted"], 3) == 0.516
        assert ours["majority_accuracy"] == ours["accuracy"]
        assert ours["auroc"] == 0.5

    def test_a_logit_of_zero_is_positive(self) -> None:
        assert cell_metrics(predictions([1, 0], [0.0, -1e-17]))["accuracy"] == 1.0

    def test_extreme_logits_have_a_finite_and_exact_loss(self) -> None:
        assert cell_metrics(predictions([1, 0], [1000.0, -1000.0]))["loss"] == 0.0
        assert cell_metrics(predictions([0, 1], [1000.0, -1000.0]))["loss"] == 1000.0
        assert cell_metrics(predictions([1], [40.0]))["loss"] == pytest.approx(math.exp(-40), rel=1e-9)

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class_leaves_metrics_undefined_and_never_nan(self, label: int) -> None:
        ours = cell_metrics(predictions([label] * 4, [1.0, -1.0, 2.0, 0.5]))
        assert ours["auroc"] is None
        assert ours["balanced_accuracy"] is None
        assert ours["sensitivity" if label == 0 else "specificity"] is None
        assert ours["majority_accuracy"] == 1.0
        assert all(value is None or value == value for value in ours.values())

    def test_values_are_plain_python(self) -> None:
        table = random_predictions(0).assign(subject=lambda t: t["label"].map({0: "a", 1: "b"}))
        values = [*cell_metrics(table).values(), *(subject_metrics(table) or {}).values()]
        assert {type(value) for value in values} <= {float, int}

    def test_subjects_are_counted_only_where_all_are_known(self) -> None:
        table = predictions([1, 0, 1], [1, 1, 1], ["a", "b", "a"])
        assert cell_metrics(table)["n_subjects"] == 2
        assert cell_metrics(table.assign(subject=["a", None, "a"]))["n_subjects"] is None
        assert cell_metrics(table.assign(subject=["a", "", "a"]))["n_subjects"] is None
        assert cell_metrics(table.drop(columns="subject"))["n_subjects"] is None

    def test_confusion_counts_rows_by_true_class(self) -> None:
        table = random_predictions(1)
        expected = sk.confusion_matrix(table["label"], table["logit"] >= 0)
        assert confusion(table).tolist() == expected.tolist()


class TestCalibrationError:
    def test_a_case_by_hand_with_a_confidence_of_exactly_one(self) -> None:
        confidence, correct = [0.6, 0.7, 0.8, 0.9, 1.0, 1.0], [True, False, True, True, True, False]
        # Two bins of three. Lower: |2/3 - 0.7| = 1/30, upper: |2/3 - 2.9/3| = 0.3.
        assert calibration_error(confidence, correct, bins=2) == pytest.approx((1 / 30 + 0.3) / 2)
        # Three bins of two, the two of confidence 1 together: 0.15, 0.15, 0.5.
        assert calibration_error(confidence, correct, bins=3) == pytest.approx((0.15 + 0.15 + 0.5) / 3)
        # Six bins: the two of confidence 1 still share one, so 0.4, 0.7, 0.2, 0.1 and twice 0.5.
        expected = (0.4 + 0.7 + 0.2 + 0.1 + 2 * 0.5) / 6
        assert calibration_error(confidence, correct, bins=6) == pytest.approx(expected)

    def test_certain_and_right_is_zero_and_certain_and_wrong_is_one(self) -> None:
        assert cell_metrics(predictions([1, 0], [100.0, -800.0]))["ece"] == 0.0
        assert cell_metrics(predictions([0, 1], [100.0, -800.0]))["ece"] == 1.0

    def test_it_is_of_the_decision_and_not_of_the_positive_class(self) -> None:
        # Confidence 0.8 in "negative", right in 8 of 10: calibrated, though P(positive) is 0.2.
        table = predictions([0] * 8 + [1] * 2, [math.log(0.2 / 0.8)] * 10)
        assert cell_metrics(table)["ece"] == pytest.approx(0.0)

    def test_fifteen_bins_of_equal_mass_and_fewer_for_few_cells(self) -> None:
        random = np.random.default_rng(0)
        confidence = np.sort(random.uniform(0.5, 1, 300))
        correct = random.random(300) < confidence
        parts = np.split(np.abs(np.add.reduceat(correct - confidence, np.arange(0, 300, 20))), 15)
        assert calibration_error(confidence, correct) == pytest.approx(np.sum(parts) / 300)
        some, right = confidence[::10], correct[::10]  # 30 cells: three bins of ten
        expected = np.abs((right - some).reshape(3, 10).sum(axis=1)).sum() / 30
        assert calibration_error(some, right) == pytest.approx(expected)

    @given(
        st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.75, 1.0]), st.booleans()), min_size=1, max_size=80)
    )
    def test_the_order_of_the_rows_does_not_matter(self, cells: list[tuple[float, bool]]) -> None:
        confidence, correct = map(list, zip(*cells, strict=True))
        forward = calibration_error(confidence, correct)
        assert forward == pytest.approx(calibration_error(confidence[::-1], correct[::-1]))
        assert 0 <= forward <= 1


class TestSubjectMetrics:
    # Subject a (1): called 1 1 0; b (1): 1 0, a tie that its mean logit decides as 0; c (0): 0 0; d (0): 1.
    table = predictions(
        [1, 1, 1, 1, 1, 0, 0, 0], [1, 2, -1, 1, -3, -1, -2, 0.5], ["a", "a", "a", "b", "b", "c", "c", "d"]
    )

    def test_a_case_by_hand(self) -> None:
        assert subject_metrics(self.table) == {
            "n": 4,
            "accuracy": 2 / 4,
            "balanced_accuracy": 0.5,
            "sensitivity": 1 / 2,
            "specificity": 1 / 2,
            # Mean logits: a 2/3, b -1, c -1.5, d 0.5; of the four pairs a>c, a>d, b>c are in order.
            "auroc": 3 / 4,
            "mean_cell_accuracy": pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4),
        }

    def test_the_table_behind_it(self) -> None:
        subjects = subject_table(self.table)
        assert subjects.index.tolist() == ["A", "B", "C", "D"]  # as the index of cells spells names
        assert subjects["n"].tolist() == [3, 2, 2, 1]
        assert subjects["vote"].tolist() == [1, 0, 0, 1]
        assert subjects["label"].tolist() == [1, 1, 0, 0]
        assert subjects["share_positive"].tolist() == pytest.approx([2 / 3, 1 / 2, 0, 1])

    def test_a_subject_of_both_classes_leaves_no_label_to_vote_for(self) -> None:
        found = subject_metrics(predictions([1, 0, 1], [1, 1, 1], ["a", "a", "b"]))
        assert found is not None
        assert found["n"] == 2
        assert found["accuracy"] is None
        assert found["auroc"] is None
        assert found["mean_cell_accuracy"] == 0.75

    def test_none_without_subjects(self) -> None:
        assert subject_metrics(predictions([1, 0], [1, 1])) is None
        assert subject_metrics(predictions([1, 0], [1, 1], ["a", ""])) is None


class TestValidation:
    def test_missing_columns_are_named(self) -> None:
        with pytest.raises(InputError, match=r"label, logit missing .*it has: path, score"):
            validate_predictions(pd.DataFrame({"path": ["a"], "score": [1.0]}))

    def test_empty(self) -> None:
        with pytest.raises(InputError, match="no rows"):
            validate_predictions(predictions([], []))

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), "high"])
    def test_a_logit_that_is_not_a_finite_number_is_named_by_row_and_path(self, bad: object) -> None:
        table = predictions([1, 0, 1], [1, 1, 1]).astype({"logit": object})
        table.loc[1, "logit"] = bad
        with pytest.raises(InputError, match=r"logit .* in row 2 \(cell_1.bmp\)"):
            validate_predictions(table)

    @pytest.mark.parametrize("bad", [-1, 2, 0.5, "ALL", None])
    def test_labels_are_0_and_1(self, bad: object) -> None:
        table = predictions([1, 0, 1], [1, 1, 1]).astype({"label": object})
        table.loc[2, "label"] = bad
        with pytest.raises(InputError, match=r"label .* in row 3 \(cell_2.bmp\): write 1"):
            validate_predictions(table)

    def test_a_cell_counts_once(self) -> None:
        table = predictions([1, 0, 1], [1, 1, 1]).assign(path=["a", "b", "a"])
        with pytest.raises(InputError, match="row 3"):
            cell_metrics(table)

    def test_numbers_that_were_read_as_text_will_do(self) -> None:
        table = random_predictions(2)
        assert cell_metrics(table.astype({"label": str, "logit": str})) == cell_metrics(table)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([True, False]), np.array([0.3, 0.3])) == 0.5
    assert auroc(np.array([True, True, False]), np.array([0.3, 0.5, 0.3])) == 0.75
