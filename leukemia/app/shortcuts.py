"""Keyboard shortcuts of the two classes."""

RESERVED = frozenset(
    "bcglmnquxz"
)  # back, comment, Grad-CAM, lighter, model, next, poor quality, unsure, artefact, undo


def class_shortcuts(classes: tuple[str, str]) -> tuple[str, str]:
    """The key of each class, negative and positive.

    A key is the first letter of its class. If those letters are equal or reserved, the keys are 1 and 2, which always
    work.

    >>> class_shortcuts(("HEM", "ALL")), class_shortcuts(("healthy", "ig")), class_shortcuts(("benign", "blast"))
    (('h', 'a'), ('h', 'i'), ('1', '2'))
    """
    negative, positive = (name[:1].lower() for name in classes)
    free = all(key.isascii() and key.isalpha() and key not in RESERVED for key in (negative, positive))
    return (negative, positive) if free and negative != positive else ("1", "2")
