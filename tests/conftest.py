"""Laws are tried on the same examples in every run; `pytest --hypothesis-profile=explore` draws others each time."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, print_blob=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile("same")
