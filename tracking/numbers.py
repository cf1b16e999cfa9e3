"""Numbers as text, written and read: one form for every file we export and every decimal number in a query. No I/O."""

import re

_DECIMAL = re.compile(r"[+-]?(\d{1,24}(\.\d{0,24})?|\.\d{1,24})([eE][+-]?\d{1,3})?", re.ASCII)


def decimal(number: float) -> str:
    """A finite number without an exponent, as xsd:decimal and spreadsheets want it.

    Where Python writes one, 12 digits behind the point are kept: of degrees a ten-thousandth of a millimetre. All else is the
    shortest text that reads back as the same number.
    """
    text = repr(number)
    if "e" not in text:
        return text
    text = f"{number:.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def real(text: str) -> float | None:
    """A decimal number, with an exponent or without, as programs write a float; None for any other text.

    Infinite where it is too large for a float: the caller's range refuses that.
    """
    return float(text) if _DECIMAL.fullmatch(text) else None
