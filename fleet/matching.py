"""Which nodes fit a query. Pure."""

import operator
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from fleet.fields import Record, values_of
from fleet.query import And, Compare, Not, Op, Or, Query


def fits(query: Query, record: Record, now_ms: int) -> bool:
    """Whether a node fits.

    Of several values (models, pools) one is enough. There are only yes and no: what is not known fits nothing, so it
    does fit `not …`, and `a!=b` is always `not a=b`.
    """
    match query:
        case And(terms):
            return all(fits(term, record, now_ms) for term in terms)
        case Or(terms):
            return any(fits(term, record, now_ms) for term in terms)
        case Not(term):
            return not fits(term, record, now_ms)
        case Compare(field, "!=", value):
            return value not in values_of(field, record, now_ms)
        case Compare(field, op, value):
            return any(_OPS[op](found, value) for found in values_of(field, record, now_ms))


def _is_like(found: str, pattern: str) -> bool:
    """Patterns cover the whole text; without `*` and `?` any part does."""
    found, pattern = found.lower(), pattern.lower()
    if "*" not in pattern and "?" not in pattern:
        return pattern in found
    return fnmatchcase(found, pattern.replace("[", "[[]"))  # brackets are no part of our language


_OPS: dict[Op, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": _is_like,
}
