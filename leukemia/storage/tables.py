"""Tables for a spreadsheet: no text in them runs as a formula."""

from typing import Any

import pandas as pd

FORMULA = tuple("=+-@\t\r")  # a spreadsheet runs a text that begins so


def no_formula(value: Any) -> Any:
    """A value, with an apostrophe in front of a text that a spreadsheet would run, as OWASP advises (CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def spreadsheet_csv(table: pd.DataFrame, header: bool = True) -> str:
    """A table as csv whose texts went through `no_formula`."""
    texts = table.select_dtypes(exclude="number").columns
    safe = table.assign(**{name: table[name].map(no_formula, na_action="ignore") for name in texts})
    return safe.rename(columns=no_formula).to_csv(index=False, header=header)
