"""What an answer costs, and what it is worth for that."""

import pytest

from fleet.cost import energy_cost, hardware_cost, performance_cost_ratio


def test_energy_and_hardware_are_money() -> None:
    """3.6 MJ are a kilowatt-hour; of ten nodes for 4 years a year costs a quarter."""
    assert energy_cost(3_600_000, 0.3) == 0.3
    assert hardware_cost(100.0, 10, 8766, 4.0) == 250.0


def test_the_ratio_weighs_quality_and_responsiveness_against_cost() -> None:
    """As the formula says, at both ends of the weight and in between; what costs nothing is worth anything."""
    assert performance_cost_ratio(0.8, 0.4, 0.01, 1.0) == pytest.approx(80)
    assert performance_cost_ratio(0.8, 0.4, 0.01, 0.0) == pytest.approx(40)
    assert performance_cost_ratio(0.8, 0.4, 0.01, 0.5) == pytest.approx(60)
    assert performance_cost_ratio(0.8, 0.4, 0.0, 0.5) == float("inf")
