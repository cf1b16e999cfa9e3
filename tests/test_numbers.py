"""Numbers as text have no exponent, and read back as the same numbers."""

import math
import re
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracking.numbers import decimal, real

XSD_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False, allow_infinity=False))
@example(0.00002)
@example(-4e-05)
@example(-0.0)
@example(1e-320)
@example(struct.unpack("f", b"\xff\xff\x7f\x7f")[0])
@example(1e16)
@example(5e-13)
def test_a_number_has_no_exponent_and_is_read_back(number: float) -> None:
    text = decimal(number)
    assert XSD_DECIMAL.fullmatch(text)
    read = float(text)
    assert read == number or (abs(number) < 1e-4 and abs(read - number) <= 5.1e-13)


@given(st.floats(-1e20, 1e20))
def test_a_number_in_a_query_is_read_as_every_program_writes_it(number: float) -> None:
    assert real(repr(number)) == real(f"{number:.17e}") == number
    assert math.isclose(real(decimal(number)) or 0.0, number, abs_tol=1e-12)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-Infinity", "", ".", "-", "1e", "1_0", "0x1", "1,5", "1 2", "٤", "1\n", "1" * 25]
)
def test_what_is_no_number(text: str) -> None:
    assert real(text) is None
