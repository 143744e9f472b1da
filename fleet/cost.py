"""What an answer costs, and what it is worth for that. Pure.

The ratio is that of Jang and Morabito, "Edge-First Language Model Inference", 2025 (arXiv:2505.16508):
PCR = (a·Q + (1 - a)·R) / CPR, with quality Q and responsiveness R, and CPR the cost of one response.
"""

JOULES_PER_KWH = 3_600_000
HOURS_PER_YEAR = 8766


def energy_cost(joules: float, price_kwh: float) -> float:
    """What energy costs."""
    return joules / JOULES_PER_KWH * price_kwh


def hardware_cost(price: float, num_nodes: int, hours: float, years: float) -> float:
    """The part of the price of nodes that falls on some hours of a life of so many years."""
    return price * num_nodes * hours / (years * HOURS_PER_YEAR)


def performance_cost_ratio(quality: float, responsiveness: float, cost_per_response: float, weight: float) -> float:
    """What is had for the money; `weight` is that of quality. Infinite for what costs nothing."""
    worth = weight * quality + (1 - weight) * responsiveness
    return worth / cost_per_response if cost_per_response > 0 else float("inf")
