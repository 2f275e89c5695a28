"""The stub NVML library for these tests."""

from tests.stubs.nvml.fixtures import nvml_library, script, watch

__all__ = ["nvml_library", "script", "watch"]
