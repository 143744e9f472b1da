"""Settings of all unit tests."""

from hypothesis import HealthCheck, settings

# No deadline for one example: the machine may be busy, and a test that fails then teaches nothing. Tests of speed set
# their own, generous limit.
settings.register_profile("shoal", deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shoal")
