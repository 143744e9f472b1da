"""Who may do what."""

import itertools

import pytest

from fleet.roles import LADDER, Caller, may


@pytest.mark.parametrize(("role", "least"), list(itertools.product(LADDER, LADDER)))
def test_a_higher_role_may_all_that_a_lower_one_may(role: str, least: str) -> None:
    """Viewer, operator, admin: each may what those before it may."""
    order = ["viewer", "operator", "admin"]
    assert may(Caller("a", role), least) == (order.index(role) >= order.index(least))  # type: ignore[arg-type]  # words


@pytest.mark.parametrize("least", LADDER)
def test_a_client_is_no_operator(least: str) -> None:
    """It may what is for clients, and nothing else, however low the role."""
    assert not may(Caller("c", "client"), least)  # type: ignore[arg-type]  # words
    assert may(Caller("c", "client"), least, clients=True)  # type: ignore[arg-type]  # words
