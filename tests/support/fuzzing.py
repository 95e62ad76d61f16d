"""How many examples a fuzz test takes: a few of always the same, and those of ``--hypothesis-profile=fuzz``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

IS_QUICK = settings.get_current_profile_name() != "fuzz"
FUZZED = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    **({"max_examples": 50, "derandomize": True, "database": None} if IS_QUICK else {}),
)
