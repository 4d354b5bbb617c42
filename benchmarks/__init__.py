"""Timings: `python -m benchmarks`. See `__main__`."""
