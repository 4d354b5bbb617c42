"""Remedies tried on the user's own script, in child processes, against an unchanged control.

`arms` says what to try next, `run` runs it within the budget, `judge` says what became of it.
"""
