"""Small honest experiments: training scripts as users write them, and what is measured on them.

char_rnn    a character model that explodes; what `gradbelt demo` shows
calibrate   how often the detectors are right, over trainings whose end is known
"""

from __future__ import annotations

EXPERIMENTS = {
    "calibrate": "How early explosions are found, how often alarms are false; beside the rules of others.",
    "char_rnn": "A character model that explodes: what `gradbelt demo` shows. Prints its script.",
}
