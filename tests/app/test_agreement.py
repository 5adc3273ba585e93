from leukemia.app.agreement import agreement

CLASSES = ("HEM", "ALL")


def test_only_cells_that_both_raters_labelled_and_are_sure_of_count():
    first = {"a": "ALL", "b": "HEM", "c": "artefact", "d": "ALL", "e": "ALL"}
    second = {"a": "ALL", "b": "ALL", "c": "ALL", "d": "unsure", "f": "HEM"}
    found = agreement(first, second, CLASSES, ("Ann", "Bob"))
    assert (found.n, found.left_out, found.share) == (2, 2, 0.5)
    assert found.counts.tolist() == [[0, 1], [0, 1]]  # Ann's HEM is Bob's ALL
    assert found.low < 0.5 < found.high


def test_without_common_cells_there_is_no_agreement():
    found = agreement({"a": "ALL"}, {"b": "ALL"}, CLASSES, ("Ann", "Bob"))
    assert (found.n, found.share, found.kappa.value) == (0, None, None)
