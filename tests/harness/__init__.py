"""What tests run against: a real gateway and a scripted engine, each a real HTTP server on its own thread."""

from tests.harness.anthropic import ScriptedAnthropic
from tests.harness.backend import ScriptedBackend
from tests.harness.gateway import Running

__all__ = ["Running", "ScriptedAnthropic", "ScriptedBackend"]
