"""How a sweep ends: figures of its pooled folds, a triage policy of them, and the report."""

import logging
from pathlib import Path

from leukemia.errors import InputError
from leukemia.evidence import models_of
from leukemia.reporting.evaluated import evaluated
from leukemia.reporting.html import write_report
from leukemia.triage import triage

log = logging.getLogger(__name__)


def finish_sweep(folder: Path) -> Path:
    """Write the report of a sweep. Where folds are pooled, first print their figures with intervals, and where they
    are of one setting, choose a policy too, which says that it is not certified.

    Returns:
        The path of report.html.
    """
    try:
        models = models_of(folder)
        if any(model.pooled for model in models):
            print(evaluated(folder))
            if len(models) == 1:
                triage(folder)
    except InputError as problem:  # of what is pooled; the report says what is wrong with runs
        log.warning("pooled folds are not evaluated: %s", problem)
    return write_report(folder)
