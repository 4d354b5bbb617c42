"""A training loop as the black box sees it, to be run, limited and killed from outside.

    python loop.py FOLDER [--steps N] [--pause SECONDS] [--limit BYTES] [--say-calls]

Says `call time` on stdout for every call that is through, and `warned: ...` on stderr for every warning.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

import numpy as np

from gradbelt._types import StepRecord
from gradbelt.blackbox import Writer

NAMES = tuple(f"blocks.{i}.weight" for i in range(100))


def row(call: int) -> StepRecord:
    """A step whose every number can be told from its call."""
    return StepRecord(
        call=call,
        step=call,
        optimizer=0,
        time=time.monotonic(),
        lr=1e-3,
        total=float(call),
        total_after=float(call),
        action="keep",
        losses={"train.py:61": float(call)},
        names=NAMES,
        norm=np.full(len(NAMES), call, np.float32),
        weight=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--say-calls", action="store_true")
    asked = parser.parse_args()
    if asked.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked.limit, asked.limit))
    writer = Writer(asked.folder, {"script": "loop.py"}, warn=lambda text: print("warned:", text, file=sys.stderr))
    for call in range(asked.steps):
        now = row(call)
        writer.step(now)
        if asked.say_calls:
            os.write(1, f"{call} {now.time}\n".encode())
        time.sleep(asked.pause)
    writer.note(finished=True)
    writer.close()
    print("trained to the end")


if __name__ == "__main__":
    main()
