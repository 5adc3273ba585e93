import pytest

from leukemia.app.shortcuts import class_shortcuts


@pytest.mark.parametrize(
    ("classes", "keys"),
    [(("HEM", "ALL"), ("h", "a")), (("healthy", "ig"), ("h", "i")), (("benign", "blast"), ("1", "2")),
     (("1", "2"), ("1", "2")), (("Éa", "b"), ("1", "2")), (("unknown", "all"), ("1", "2")),
     (("quiet", "all"), ("1", "2"))],
)  # fmt: skip
def test_shortcuts_are_first_letters_where_those_are_free(classes, keys):
    assert class_shortcuts(classes) == keys
