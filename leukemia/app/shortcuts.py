"""Which keys decide."""

RESERVED = frozenset("bglmnuz")  # back, Grad-CAM, lighter, model, next, unsure, undo


def keys_of(classes: tuple[str, str]) -> tuple[str, str]:
    """The key of each class, negative and positive: its first letter where that is free and tells the two apart, else
    1 and 2 (which work always).

    >>> keys_of(("HEM", "ALL")), keys_of(("healthy", "ig")), keys_of(("benign", "blast"))
    (('h', 'a'), ('h', 'i'), ('1', '2'))
    """
    negative, positive = (name[:1].lower() for name in classes)
    free = all(key.isascii() and key.isalpha() and key not in RESERVED for key in (negative, positive))
    return (negative, positive) if free and negative != positive else ("1", "2")
