"""Examples may be slow on a busy machine; that is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gateway", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gateway")
