"""Arithmetic in symbols or words, exact wherever the result is rational.

Nothing is executed: an expression is parsed and walked. What would grow without bound is refused.
"""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException, localcontext
from fractions import Fraction
from math import isqrt, prod

from handinger.agent.demo import spans

_MAX_TEXT_CHARACTERS = 2_000
_MAX_EXPRESSION_CHARACTERS = 300
_MAX_DEPTH = 60
_MAX_BITS = 8_192
_MAX_LISTED_DIGITS = 60
_APPROXIMATE_DIGITS = 30

_UNITS = dict(
    zero=0, one=1, two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10,
    eleven=11, twelve=12, thirteen=13, fourteen=14, fifteen=15, sixteen=16, seventeen=17,
    eighteen=18, nineteen=19,
)  # fmt: skip
_TENS = dict(
    twenty=20, thirty=30, forty=40, fifty=50, sixty=60, seventy=70, eighty=80, ninety=90,
)  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_WORD = "|".join([*_UNITS, *_TENS, *_SCALES])
_NUMBER_WORDS = re.compile(
    rf"\b(?:{_WORD})\b(?:(?:[ -]|(?<=hundred) and |(?<=thousand) and )(?:{_WORD})\b)*"
)

# Words become symbols in this order; each pattern is bounded.
_SYMBOLS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), symbol)
    for pattern, symbol in (
        (r"[$€£]", ""),
        (r"[\u00d7\u00b7\u22c5]", "*"),
        (r"\u00f7", "/"),
        (r"[\u2212\u2013]", "-"),
        (r"\bmultiplied by\b|\btimes\b|(?<=\d) ?x ?(?=\d)", "*"),
        (r"\bdivided by\b|\bover\b", "/"),
        (r"\bplus\b", "+"),
        (r"\bminus\b", "-"),
        (r"\b(?:raised )?to the power(?: of)?\b|\^", "**"),
        (r"\b(?:the )?square of (\d{1,100})", r"\1**2"),
        (r"\b(?:the )?cube of (\d{1,100})", r"\1**3"),
        (r"\bsquared\b|²", "**2"),
        (r"\bcubed\b|³", "**3"),
        (r"√ ?|\b(?:the )?square root of ", "sqrt "),
        (r"\bsqrt ?(\d{1,100}(?:\.\d{1,100})?)", r"sqrt(\1)"),
        (r"\bper ?cent\b", "%"),
        (r"\b(?:a )?half of\b", "(1/2)*"),
        (r"\b(?:a |one )?third of\b", "(1/3)*"),
        (r"\b(?:a |one )?quarter of\b", "(1/4)*"),
        (r"\b(?:twice|double)\b", "2*"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(\d{1,100}(?:\.\d{1,100})?) ?% ?of\b(?: the\b)?", r"(\1/100)*"),
        (r"\bmod(?:ulo)?\b", "%%"),
    )
]
_ADDED_PERCENT = re.compile(r"(.{1,200}?) ?([+-]) ?(\d{1,30}(?:\.\d{1,30})?) ?%")
_PERCENT = re.compile(r"(\d{1,100}(?:\.\d{1,100})?) ?%(?!%)(?! ?[\d(])")
_RUN = re.compile(r"(?:sqrt|abs|round|[0-9.()+*/% -])+")
_ALLOWED = re.compile(r"(?:sqrt|abs|round|[0-9.()+*/% -])+")
_OPEN_END = re.compile(rf"{_RUN.pattern}(?<=[*/+] )[a-z]|{_RUN.pattern}(?<=[*/+])[a-z]")
_OPERATION = re.compile(r"[\d)] ?(?:\*\*|//|%%|[-+*/%]) ?[-(\ds]|(?:sqrt|abs|round) ?\(")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_IMPLIED_PRODUCT = re.compile(r"(?<=[\d)]) ?(?=\()|(?<=\)) ?(?=\d)")
_LOOKS_LIKE_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}\.\d{1,2}\.\d{2,4}")

_LISTED = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d{1,60})(?:\.\d{1,60})?(?![\w])")
_LISTED_PLAINLY = re.compile(r"(?<![\w.])-?\d{1,60}(?:\.\d{1,60})?(?![\w])")
_FROM_TO = re.compile(
    r"\b(?:from|between|numbers|integers) (-?\d{1,9}) (?:to|and|through) (-?\d{1,9})\b"
)
_LEAD = re.compile(
    r"^[\s,;:]*(?:(?:and|then|also|now|please|so) )*"
    r"(?:(?:what(?:'s| is| are)|how much is|compute|calculate|evaluate|work out|solve|tell me"
    r"|give me)\b:?)?"
    r" *(?:the result of )?(?:the )?",
    re.IGNORECASE,
)


class CannotCompute(Exception):
    """The message says in one clause why there is no result."""


class NotArithmetic(CannotCompute):
    """What was taken for an expression is none."""

    def __init__(self) -> None:
        super().__init__("it is not an expression that I can read")


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Fraction
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Calculation:
    """The question as it was asked; `relation` tells an exact answer from a rounded one."""

    question: str
    relation: str
    answer: str

    def __str__(self) -> str:
        return f"`{self.question}` {self.relation} {self.answer}"


def compute(text: str) -> Calculation | None:
    """The result of the first calculation in the text, or None if there is none in it.

    Raises CannotCompute for a calculation without a (printable) result.
    """
    if len(text) > _MAX_TEXT_CHARACTERS or not text.strip():
        return None
    plain = _digits_for_words(" ".join(text.lower().split()).replace("`", " "))
    question = _LEAD.sub("", " ".join(text.replace("`", "").split())).rstrip(" ?.,;:!=")
    listed = _computed_list(plain)
    if listed is None:
        expression = find_expression(plain)
        if expression is None:
            return None
        if not _whole(plain, expression):
            question = expression
        try:
            listed = evaluate(expression)
        except NotArithmetic:
            return None
    relation = "=" if listed.exact else "≈"
    if listed.exact and not _is_short_decimal(listed.value):
        relation = "≈"
    return Calculation(spans.shortened(question, 120), relation, written(listed))


def find_expression(text: str) -> str | None:
    """The longest run of the text that is arithmetic with at least one operation, in symbols."""
    for pattern, symbol in _SYMBOLS:
        text = pattern.sub(symbol, text)
    if _LOOKS_LIKE_DATE.search(text):
        return None
    # `5% of the total` goes on in words that have no value here.
    complete = (found for found in _RUN.finditer(text) if not _OPEN_END.match(text, found.start()))
    runs = (_trimmed(found.group()) for found in complete)
    usable = [run for run in runs if _OPERATION.search(run) or re.search(r"\d ?%$", run)]
    longest = max(usable, key=len, default=None)
    if longest is None or len(longest) > _MAX_EXPRESSION_CHARACTERS:
        return None
    return longest


def evaluate(expression: str) -> Quantity:
    """Walk an expression of numbers, + - * / // % ** ( ) and sqrt, abs, round.

    Raises CannotCompute, also for what is no such expression.
    """
    if added := _ADDED_PERCENT.fullmatch(expression):
        expression = f"({added[1]})*(1{added[2]}{added[3]}/100)"
    expression = _PERCENT.sub(r"(\1/100)", expression).replace("%%", "%")
    expression = _LEADING_ZEROS.sub("", _IMPLIED_PRODUCT.sub("*", expression)).strip()
    expression = re.sub(r"(?<=sqrt)\*(?=\()|(?<=abs)\*(?=\()|(?<=round)\*(?=\()", "", expression)
    if len(expression) > _MAX_EXPRESSION_CHARACTERS or not _ALLOWED.fullmatch(expression):
        raise NotArithmetic
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotArithmetic from error
    return _walk(tree.body, expression, 0)


def written(quantity: Quantity) -> str:
    """A number for people: in full while it is short, rounded to twelve digits otherwise."""
    value = quantity.value
    if quantity.exact and value.denominator == 1:
        digits = str(value.numerator)
        if len(digits) <= _MAX_LISTED_DIGITS:
            return digits
        return f"{digits[:20]}…{digits[-10:]} ({len(digits.lstrip('-'))} digits)"
    if quantity.exact and _is_short_decimal(value):
        return _rounded(value, _APPROXIMATE_DIGITS)
    rounded = _rounded(value, 12)
    if quantity.exact and value.denominator < 1_000 and abs(value.numerator) < 100_000:
        return f"{rounded} ({value.numerator}/{value.denominator})"
    return rounded


def _digits_for_words(text: str) -> str:
    return _NUMBER_WORDS.sub(lambda found: _spelled(found.group()), text)


def _spelled(words: str) -> str:
    """`twenty-five` becomes 25; words that do not combine, such as `two three`, stay apart."""
    numbers: list[int] = []
    total = current = 0
    smallest: float = float("inf")
    for word in re.split(r"[ -]", words):
        if word == "and":
            continue
        if word in _SCALES and current:
            scale = _SCALES[word]
            current *= scale
            if scale >= 1_000:
                total, current = total + current, 0
            smallest = scale
            continue
        value = _UNITS.get(word, _TENS.get(word, _SCALES.get(word, 0)))
        size = 10 if word in _TENS else 1
        if (total or current) and (size >= smallest or value == 0):
            numbers.append(total + current)
            total = current = 0
        current += value
        smallest = size
    numbers.append(total + current)
    return " ".join(map(str, numbers))


def _computed_list(text: str) -> Quantity | None:
    """`sum of 1, 2 and 3`, `the average of the numbers from 1 to 10`, `add 5 to 7`."""
    for pattern, least, operation in _LIST_OPERATIONS:
        found = pattern.search(text)
        if found is None:
            continue
        rest = text[found.end() :]
        if _OPERATION.search(rest):
            continue
        numbers = _range_numbers(rest, operation) or _listed_numbers(rest)
        if len(numbers) >= least:
            return operation(numbers)
    return None


def _range_numbers(text: str, operation: Callable[[list[Fraction]], Quantity]) -> list[Fraction]:
    found = _FROM_TO.search(text)
    if found is None or operation in (_difference, _ratio):
        return []
    first, last = sorted((int(found[1]), int(found[2])))
    if last - first > 10_000:
        raise CannotCompute("that is a longer list than I take (10,000 numbers)")
    return [Fraction(number) for number in range(first, last + 1)]


def _listed_numbers(text: str) -> list[Fraction]:
    # `1,000, 2,000` groups thousands; `1,2,3` and `100,200` are lists.
    pattern = _LISTED if ", " in text else _LISTED_PLAINLY
    return [Fraction(number.replace(",", "")) for number in pattern.findall(text)[:10_000]]


def _sum(numbers: list[Fraction]) -> Quantity:
    return Quantity(sum(numbers, Fraction(0)))


def _mean(numbers: list[Fraction]) -> Quantity:
    return Quantity(sum(numbers, Fraction(0)) / len(numbers))


def _median(numbers: list[Fraction]) -> Quantity:
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return Quantity(ordered[middle])
    return Quantity((ordered[middle - 1] + ordered[middle]) / 2)


def _product(numbers: list[Fraction]) -> Quantity:
    if sum(number.numerator.bit_length() for number in numbers) > _MAX_BITS:
        raise CannotCompute("the result has too many digits")
    return Quantity(prod(numbers, start=Fraction(1)))


def _largest(numbers: list[Fraction]) -> Quantity:
    return Quantity(max(numbers))


def _smallest(numbers: list[Fraction]) -> Quantity:
    return Quantity(min(numbers))


def _difference(numbers: list[Fraction]) -> Quantity:
    return Quantity(abs(numbers[0] - numbers[1]))


def _ratio(numbers: list[Fraction]) -> Quantity:
    return _divide(numbers[0], numbers[1])


_LIST_OPERATIONS: Sequence[tuple[re.Pattern[str], int, Callable[[list[Fraction]], Quantity]]] = [
    (re.compile(rf"\b(?:{words})\b"), least, operation)
    for words, least, operation in (
        ("sum|total|add(?: up)?", 2, _sum),
        ("average|mean", 1, _mean),
        ("median", 1, _median),
        ("product|multiply", 2, _product),
        ("difference|subtract", 2, _difference),
        ("divide", 2, _ratio),
        ("maximum|max|largest|highest|biggest", 2, _largest),
        ("minimum|min|smallest|lowest", 2, _smallest),
    )
]


def _trimmed(run: str) -> str:
    """A run without what cannot begin or end an expression, its parentheses balanced."""
    run = run.strip().lstrip("*/%.)+ ").rstrip("*/+-.( ")
    while run.count("(") > run.count(")") and run.startswith("("):
        run = run[1:].lstrip()
    while run.count(")") > run.count("(") and run.endswith(")"):
        run = run[:-1].rstrip()
    return run


def _whole(text: str, expression: str) -> bool:
    """Whether the expression is all that the text asks, so that its own wording can be quoted."""
    for pattern, symbol in _SYMBOLS:
        text = pattern.sub(symbol, text)
    return _LEAD.sub("", text).strip(" ?.,;:!=") == expression


def _walk(node: ast.expr, source: str, depth: int) -> Quantity:
    if depth > _MAX_DEPTH:
        raise CannotCompute("it is nested too deeply")
    match node:
        case ast.Constant():
            return _literal(node, source)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _walk(operand, source, depth + 1)
            return Quantity(-inner.value, inner.exact)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand, source, depth + 1)
        case ast.BinOp(left=left, op=operator, right=right):
            first = _walk(left, source, depth + 1)
            second = _walk(right, source, depth + 1)
            return _bounded(_apply(operator, first, second))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return _bounded(_call(name, _walk(argument, source, depth + 1)))
        case _:
            raise NotArithmetic


def _literal(node: ast.Constant, source: str) -> Quantity:
    # The source, not the parsed float, so that 0.1 is a tenth.
    digits = source[node.col_offset : node.end_col_offset]
    try:
        return Quantity(Fraction(digits))
    except ValueError as error:
        raise CannotCompute(f"`{spans.shortened(digits, 40)}` is not a number") from error


def _apply(operator: ast.operator, first: Quantity, second: Quantity) -> Quantity:
    left, right = first.value, second.value
    match operator:
        case ast.Add():
            result = Quantity(left + right)
        case ast.Sub():
            result = Quantity(left - right)
        case ast.Mult():
            result = Quantity(left * right)
        case ast.Div():
            result = _divide(left, right)
        case ast.FloorDiv():
            result = Quantity(Fraction(_divide(left, right).value.__floor__()))
        case ast.Mod():
            _divide(left, right)
            result = Quantity(left % right)
        case ast.Pow():
            result = _power(left, right)
        case _:
            raise NotArithmetic
    return Quantity(result.value, result.exact and first.exact and second.exact)


def _divide(left: Fraction, right: Fraction) -> Quantity:
    if right == 0:
        raise CannotCompute("it divides by zero")
    return Quantity(left / right)


def _power(base: Fraction, exponent: Fraction) -> Quantity:
    if base == 0 and exponent < 0:
        raise CannotCompute("it divides by zero")
    if exponent.denominator != 1:
        return _root_power(base, exponent)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and size * abs(exponent.numerator) > _MAX_BITS:
        raise CannotCompute("the result has too many digits")
    if base in (0, 1, -1):
        even = exponent.numerator % 2 == 0
        return Quantity(Fraction(1) if exponent == 0 or (even and base) else base)
    return Quantity(base**exponent.numerator)


def _root_power(base: Fraction, exponent: Fraction) -> Quantity:
    if base < 0:
        raise CannotCompute("a root of a negative number is not real")
    if exponent == Fraction(1, 2):
        return _square_root(base)
    return _approximately(lambda: _decimal(base) ** _decimal(exponent))


def _square_root(value: Fraction) -> Quantity:
    if value < 0:
        raise CannotCompute("a root of a negative number is not real")
    above, below = isqrt(value.numerator), isqrt(value.denominator)
    if above * above == value.numerator and below * below == value.denominator:
        return Quantity(Fraction(above, below))
    return _approximately(lambda: _decimal(value).sqrt())


def _call(name: str, argument: Quantity) -> Quantity:
    match name:
        case "sqrt":
            root = _square_root(argument.value)
            return Quantity(root.value, root.exact and argument.exact)
        case "abs":
            return Quantity(abs(argument.value), argument.exact)
        case "round":
            return Quantity(Fraction(round(argument.value)), argument.exact)
        case _:
            raise NotArithmetic


def _bounded(quantity: Quantity) -> Quantity:
    size = quantity.value.numerator.bit_length() + quantity.value.denominator.bit_length()
    if size > _MAX_BITS:
        raise CannotCompute("the result has too many digits")
    return quantity


def _approximately(calculation: Callable[[], Decimal]) -> Quantity:
    try:
        with localcontext() as context:
            context.prec = _APPROXIMATE_DIGITS
            result = calculation()
    except DecimalException as error:
        raise CannotCompute("the result has too many digits") from error
    if not result.is_finite() or abs(result.adjusted()) > _MAX_BITS // 4:
        raise CannotCompute("the result has too many digits")
    return Quantity(Fraction(result), exact=False)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _is_short_decimal(value: Fraction) -> bool:
    """Whether the value can be written out in full: no endless digits, and not many."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    whole_digits = len(str(abs(value.numerator) // value.denominator))
    if value.denominator == 1:
        return True
    return rest == 1 and value.denominator <= 10**15 and whole_digits <= 15


def _rounded(value: Fraction, digits: int) -> str:
    with localcontext() as context:
        context.prec = digits
        rounded = _decimal(value).normalize()
    if -7 <= rounded.adjusted() < 21:
        return f"{rounded:f}"
    return f"{rounded:E}".replace("E+", "e").replace("E", "e")
