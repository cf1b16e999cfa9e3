"""Numbers as text, written and read. Every exported file and every decimal number in a query uses this one form. No I/O."""

import re

_DECIMAL = re.compile(r"[+-]?(\d{1,24}(\.\d{0,24})?|\.\d{1,24})([eE][+-]?\d{1,3})?", re.ASCII)


def decimal(number: float) -> str:
    """A finite number without an exponent, as xsd:decimal and spreadsheets require it.

    If Python writes an exponent, 12 decimals are kept. In degrees that is a ten-thousandth of a millimetre. Any other number is
    the shortest text that reads back as the same number.
    """
    text = repr(number)
    if "e" not in text:
        return text
    text = f"{number:.12f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def real(text: str) -> float | None:
    """A decimal number, with or without an exponent; None for any other text.

    A number too large for a float is infinite. The caller's range check refuses it.
    """
    return float(text) if _DECIMAL.fullmatch(text) else None
