"""Checks of untrusted values. A function returns the value in the form in which it is stored, if
that is another, and raises RequestError with the name of the field."""

from __future__ import annotations

from numbers import Integral, Real
from reprlib import Repr
from typing import cast

from ipadapter_demo.errors import RequestError

_SHOWN = Repr()  # short, whatever it is of
_SHOWN.maxstring = _SHOWN.maxother = 80


def number(field: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are some
        raise RequestError(f"{field} must be a number, got {_SHOWN.repr(value)}")
    if not low <= cast(float, value) <= high:  # also rejects NaN
        raise RequestError(f"{field} must be from {low:g} to {high:g}, got {_SHOWN.repr(value)}")
    return float(cast(float, value))


def strength(field: str, value: object) -> float:
    share = number(field, value, 0.0, 1.0)
    if share == 0.0:
        raise RequestError(
            f"{field} must be above 0 and at most 1, got {value!r:.80}: at 0 nothing would change"
        )
    return share


def integer(field: str, value: object, low: int, high: int) -> int:
    whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:  # JSON and sliders may deliver 20.0 for 20
        raise RequestError(f"{field} must be a whole number, got {_SHOWN.repr(value)}")
    if not low <= (given := cast(int, value)) <= high:
        raise RequestError(f"{field} must be from {low} to {high}, got {_SHOWN.repr(value)}")
    return int(given)


def window(field: str, value: object) -> tuple[float, float]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise RequestError(f"{field} must be a (start, end) pair, got {_SHOWN.repr(value)}")
    start, end = (number(field, bound, 0.0, 1.0) for bound in value)
    if not start < end:
        raise RequestError(f"{field} must start before it ends, got ({start:g}, {end:g})")
    return start, end


def text(field: str, value: object, most: int) -> None:
    if not isinstance(value, str):
        raise RequestError(f"{field} must be text, got {_SHOWN.repr(value)}")
    if len(value) > most:
        raise RequestError(f"{field} must have at most {most} characters, got {len(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):  # half of one, as in UTF-16
        raise RequestError(f"{field} must be text that UTF-8 can hold, got {value!a:.80}")


def flag(field: str, value: object) -> None:
    if not isinstance(value, bool):  # any text, "false" too, would count as true
        raise RequestError(f"{field} must be true or false, got {_SHOWN.repr(value)}")


def one_of(field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{field} must be one of {', '.join(choices)}, got {_SHOWN.repr(value)}")


def all_of(field: str, values: object, kind: type, most: int) -> tuple:
    if not isinstance(values, (tuple, list)) or not all(isinstance(v, kind) for v in values):
        raise RequestError(f"{field} must be a tuple of {kind.__name__}, got {values!r:.80}")
    if len(values) > most:
        raise RequestError(f"{field} must have at most {most} entries, got {len(values)}")
    return tuple(values)
