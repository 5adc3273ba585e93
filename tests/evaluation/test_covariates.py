"""Metrics by a covariate are those of its cells alone."""

import numpy as np
import pandas as pd

from leukemia.evaluation.bootstrap import evaluate
from leukemia.evaluation.covariates import by_covariate, covariates


def test_each_value_has_the_metrics_of_its_cells_with_intervals_over_its_subjects():
    random = np.random.default_rng(1)
    subject = np.arange(600) % 40
    label = (subject % 3 > 0).astype(int)
    table = pd.DataFrame({
        "path": [f"{n}.bmp" for n in range(600)], "subject": [f"S{n}" for n in subject], "label": label,
        "logit": 2 * label - 1 + random.normal(size=600),
    })  # fmt: skip
    site = pd.Series(np.where(subject < 16, "Delhi", "Pune"), index=table["path"]).where(subject > 0)
    found = by_covariate([table], site, draws=200)
    assert list(found) == ["Delhi", "Pune"]
    for name, of in found.items():
        alone = table[(site == name).to_numpy()].reset_index(drop=True)
        assert of == evaluate([alone], draws=200)
        assert of["unit"] == "subject"
    assert sum(of["n_images"] for of in found.values()) == 600 - 15  # the cells of S0 have no site


def test_a_column_of_one_value_or_of_many_is_not_a_covariate():
    cells = pd.DataFrame(
        {"site": list("aabb") * 5, "one": "x", "number": range(20), "batch": [1, 2, None, 1] * 5}
    )
    assert covariates(cells) == ["site", "batch"]
