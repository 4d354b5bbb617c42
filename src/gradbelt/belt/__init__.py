"""The belt: measure, derive, judge, decide, apply, and `fasten`, the loop that calls them.

Each stage is a module of that name. `derive` and `judge` load no torch, so a record can be replayed without it.
"""
