"""The report's model card (Mitchell et al. 2019): what the figures are of, and what they are not good for."""

from typing import Any

import pandas as pd

from leukemia.evaluation.policy import Policy
from leukemia.reporting import summary, words
from leukemia.reporting.text_tables import is_synthetic

CNMC = (
    "C-NMC 2019 (Gupta and Gupta, The Cancer Imaging Archive, DOI 10.7937/tcia.2019.dc64i46r), licence CC BY 3.0: cite "
    "it. Single white cells, segmented and stain-normalised; leukemic blasts (ALL) and normal cells (HEM)"
)
SPLITS = {
    "official": "official: the training subjects train, the preliminary set chooses the epoch and is reported, as in "
    "the seed study; nothing is held out",
    "holdout": "holdout: a fold of the training subjects chooses the epoch, the preliminary set is the test split",
    "subject_kfold": "subject_kfold: each fold of the subjects is the test split once; another fold chooses the epoch",
    "image": "image: cells of one subject may lie on both splits, so the figures are too good for new patients",
}


def model_card(
    results: pd.DataFrame, settings: list[dict[str, Any]], policies: list[tuple[str, Policy]]
) -> dict[str, str]:
    """Term and text of each entry.

    Args:
        results: the table of the sweep, with a finished run at least.
        settings: of its runs, by dotted names.
        policies: the triage policies beside its runs, with their names.
    """
    runs = results[results["accuracy"].notna()]
    known = [of for of in settings if of]
    weights = sorted({words.value(of.get("model.net.weights")) for of in known})
    depths = sorted({words.network(depth) for depth in runs["depth"]})
    return {
        "Model": f"{', '.join(depths)} (torchvision), one logit, from weights: {', '.join(weights)}. The licence of "
        "weights, and of the pictures that they were trained on, is not that of this software",
        "Data": _data(runs),
        "Split": "; ".join(SPLITS.get(str(split), str(split)) for split in dict.fromkeys(runs["protocol"])),
        "Leaks": summary.leak_statement(results)[1],
        "Chosen on": summary.chosen_statement(results)
        or "The epoch was chosen on other cells than those reported.",
        "Review": _review(policies),
        "Intended use": "Research: comparing transfer-learning choices, and studying how an expert's review and a "
        "classifier can share the work",
        "Not for": "Diagnosis or any decision about a patient. It is no medical device; it has seen segmented single "
        "cells of one source, and says nothing about whole smears, other stains, scanners, hospitals, age groups or "
        "cell types than its two classes",
        "Known limits": "Few subjects: intervals over subjects are wide, and with n of a class in a resample they are "
        "narrower than they should be by about 1/(2n). Every subject of C-NMC has one class, so what tells subjects "
        "apart can pass for disease. Cell size alone separates the classes in part: see the baselines",
    }


def _data(runs: pd.DataFrame) -> str:
    classes = ", ".join(dict.fromkeys(words.value(value) for value in runs["classes"]))
    cells = _span(runs["n_images"])
    subjects = _span(runs["n_subjects"])
    what = f"The project's own images of classes {classes}"
    if is_synthetic(runs):
        what = "Synthetic cells, drawn by this software: they are no evidence about leukemia"
    elif set(runs["classes"]) == {words.SEED_STUDY_CLASSES}:
        what = CNMC
    of = f"{subjects} subjects" if subjects != "–" else "subjects that are not known"
    return f"{what}. Reported: {cells} cells a run, of {of}"


def _review(policies: list[tuple[str, Policy]]) -> str:
    if not policies:
        return "No triage policy: nothing says which cells an expert has to see"
    return "; ".join(
        f"{name}: {'certified' if policy.certified else f'not certified ({policy.why_not})'} for missed at most "
        f"{policy.max_missed:g} and false alarm at most {policy.max_false_alarm:g}, confidence {policy.confidence:g}, "
        + ("mean over subjects" if policy.unit == "subject" else "share of cells, taken as independent")
        for name, policy in policies
    )


def _span(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "–"
    low, high = words.whole(known.min()), words.whole(known.max())
    return low if low == high else f"{low} to {high}"
