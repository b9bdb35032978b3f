import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handinger.agent.demo import arithmetic
from handinger.agent.demo.arithmetic import CannotCompute, Quantity


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        # Symbols, with the usual precedence.
        ("(3+4)*7", "`(3+4)*7` = 49"),
        ("compute 3*14", "`3*14` = 42"),
        ("2^10", "`2^10` = 1024"),
        ("7 // 2", "`7 // 2` = 3"),
        ("17 mod 5", "`17 mod 5` = 2"),
        ("-5 + 3", "`-5 + 3` = -2"),
        ("2(3+4)", "`2(3+4)` = 14"),
        ("007 + 1", "`007 + 1` = 8"),
        ("6 × 7", "`6 × 7` = 42"),  # noqa: RUF001 - the sign that people type
        # Exact fractions, and what has no end is rounded visibly.
        ("0.1 + 0.2", "`0.1 + 0.2` = 0.3"),
        ("10/4", "`10/4` = 2.5"),
        ("10/3", "`10/3` ≈ 3.33333333333 (10/3)"),
        ("sqrt(144)", "`sqrt(144)` = 12"),
        ("the square root of 2", "`square root of 2` ≈ 1.41421356237"),
        ("1,234 * 2", "`1,234 * 2` = 2468"),
        ("2**200 * 2**100", "`2**200 * 2**100` = 20370359763344860862…6183397376 (91 digits)"),
        # Per cent: of something, and on top of something.
        ("What is 12.5% of 240?", "`12.5% of 240` = 30"),
        ("15 percent of 80", "`15 percent of 80` = 12"),
        ("200 + 10%", "`200 + 10%` = 220"),
        # Words.
        ("seven times six", "`seven times six` = 42"),
        ("twenty-five plus one hundred and five", "`twenty-five plus one hundred and five` = 130"),
        ("half of 90", "`half of 90` = 45"),
        ("5 squared", "`5 squared` = 25"),
        # Lists.
        ("sum of 1, 2 and 3", "`sum of 1, 2 and 3` = 6"),
        ("the average of 3, 4 and 8", "`average of 3, 4 and 8` = 5"),
        ("sum of 1,000, 2,000 and 3", "`sum of 1,000, 2,000 and 3` = 3003"),
        ("max of 1,2,3", "`max of 1,2,3` = 3"),
        ("sum of the numbers from 1 to 100", "`sum of the numbers from 1 to 100` = 5050"),
        ("subtract 3 from 10", "`subtract 3 from 10` = 7"),
        ("divide 10 by 4", "`divide 10 by 4` = 2.5"),
        # Only the arithmetic of a longer sentence is quoted.
        ("what is 3*14 in total", "`3*14` = 42"),
    ],
)
def test_a_calculation_is_answered(asked: str, answer: str):
    assert str(arithmetic.compute(asked)) == answer


@pytest.mark.parametrize(
    "text", ["", "hello", "what is 2024-05-01", "call 5 people", "version 1.2.3+4", "((((1"]
)
def test_what_is_no_calculation_has_no_answer(text: str):
    assert arithmetic.compute(text) is None


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("1/0", "divides by zero"),
        ("0**-1", "divides by zero"),
        ("9**9**9", "too many digits"),
        ("2**999999999", "too many digits"),
        ("2**0.5**-99999", "too many digits"),
        ("sqrt(0-4)", "not real"),
        ("sum of the numbers from 1 to 999999999", "longer list"),
    ],
)
def test_what_has_no_printable_result_is_refused(asked: str, reason: str):
    with pytest.raises(CannotCompute, match=reason):
        arithmetic.compute(asked)


@given(st.text(alphabet="0123456789.+-*/%()^, sqrtabound", max_size=60))
def test_no_text_breaks_the_calculator(text: str):
    with contextlib.suppress(CannotCompute):
        assert len(str(arithmetic.compute(text))) < 300


@given(st.fractions(max_denominator=10**6), st.sampled_from("+-*"), st.fractions())
def test_results_are_those_of_exact_fractions(left: Fraction, operator: str, right: Fraction):
    expression = f"({left}){operator}({right})"
    expected = {"+": left + right, "-": left - right, "*": left * right}[operator]
    assert arithmetic.evaluate(expression) == Quantity(expected)
