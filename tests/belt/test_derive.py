"""What a step is judged against."""

import statistics

from hypothesis import example, given, settings
from hypothesis import strategies as some

from gradbelt.belt.derive import middle_and_spread

numbers = some.one_of(some.floats(-700.0, 700.0), some.sampled_from([0.0, -0.0, 1.0, 1.5, 1e-300]))


@given(some.lists(numbers, min_size=1, max_size=60))
@example([1.0])
@example([2.0, 1.0])
@example([3.0] * 7)
@settings(max_examples=1000, deadline=None)
def test_middle_and_spread_are_median_and_mad_to_the_bit(values):
    """So that a record from before finds what it found then."""
    middle, spread = middle_and_spread(values)
    assert middle == statistics.median(values)
    assert spread == statistics.median([abs(value - middle) for value in values]) * 1.4826
