"""What makes a rise matter: the loss is on its way back to where the run began."""

from __future__ import annotations

import math
import statistics

from gradbelt._types import Course


def given_back(course: Course) -> bool:
    """Whether the median of the last losses has given back half of what had been learnt, counted as a ratio.

    Of a loss that is flat, always; of one that jumps a hundredfold from 1e-6 where it began at 1, no. A loss that goes
    below zero has no ratio, so its differences count.
    """
    if not course.recent or course.start is None or not math.isfinite(course.best):
        return False
    now = statistics.median(math.inf if math.isnan(point.loss) else point.loss for point in course.recent)
    best, start = course.best, course.start
    # no product, and no root: the first overflows, and the second lies above a loss that stands still
    return now / best >= start / now if best > 0 and start > 0 else now >= best / 2 + start / 2
