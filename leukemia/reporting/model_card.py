"""The report's model card (Mitchell et al. 2019): the origin of the metrics, and their limits."""

from typing import Any

import pandas as pd

from leukemia.evaluation.policy import Policy
from leukemia.reporting import summary, words
from leukemia.reporting.text_tables import is_synthetic

CNMC = (
    "C-NMC 2019 (Gupta and Gupta, The Cancer Imaging Archive, DOI 10.7937/tcia.2019.dc64i46r), licence CC BY 3.0: cite "
    "it. Single white cells, segmented and stain-normalised; leukemic blasts (ALL) and normal cells (HEM)"
)
PROTOCOLS = {
    "official": "official: the training subjects train, the preliminary set chooses the epoch and is reported, as in "
    "the seed study; nothing is held out",
    "holdout": "holdout: a fold of the training subjects chooses the epoch, the preliminary set is the test split",
    "subject_kfold": "subject_kfold: each fold of the subjects is the test split once; another fold chooses the epoch",
    "image": "image: cells of one subject may lie in several splits, so the metrics are too good for new patients",
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
    weights = sorted({_weights(of) for of in known})
    networks = list(dict.fromkeys(map(words.network, runs["network"])))
    return {
        "Model": f"{', '.join(networks)}, one logit, from weights: {', '.join(weights)}. Weights, and the pictures "
        "that they were trained on, have a licence of their own",
        "Data": _data(runs),
        "Protocol": "; ".join(
            PROTOCOLS.get(str(name), str(name)) for name in dict.fromkeys(runs["protocol"])
        ),
        "Leaks": summary.leak_statement(results)[1],
        "Chosen on": summary.chosen_statement(results)
        or "The epoch was chosen on cells that are not reported.",
        "Review": _review(policies),
        "Intended use": "Research: comparing transfer-learning choices, and studying how a classifier and an expert's "
        "review can share the work",
        "Not for": "Diagnosis or any decision about a patient. It is not a medical device. It was trained on segmented "
        "single cells of one source; nothing is known about whole smears, or about other stains, scanners, hospitals, "
        "age groups and cell types",
        "Known limits": "Few subjects: intervals over subjects are wide, and with n subjects of a class they are still "
        "too narrow by about 1/(2n). Every subject of C-NMC has one class, so a difference between subjects can pass "
        "for disease. Cell size alone separates the classes in part: see the handcrafted baseline",
    }


def _weights(settings: dict[str, Any]) -> str:
    """The weights of a run: their name, or their path and the hash of the file."""
    name, found = "model.net.weights", settings.get("files.model.net.weights")
    return f"{words.value(settings.get(name))}{f' (SHA-256 {found}...)' if found else ''}"


def _data(runs: pd.DataFrame) -> str:
    classes = ", ".join(dict.fromkeys(words.value(value) for value in runs["classes"]))
    cells = _span(runs["n_images"])
    subjects = _span(runs["n_subjects"])
    what = f"Images of the classes {classes}"
    if is_synthetic(runs):
        what = "Synthetic cells, drawn by this software: they are not evidence about leukemia"
    elif set(runs["classes"]) == {words.SEED_STUDY_CLASSES}:
        what = CNMC
    of = f"{subjects} subjects" if subjects != "–" else "unknown subjects"
    return f"{what}. Reported: {cells} cells a run, of {of}"


def _review(policies: list[tuple[str, Policy]]) -> str:
    if not policies:
        return "No triage policy: an expert has to see every cell"
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
