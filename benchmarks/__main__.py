"""Run every `bench_*.py` beside this file and print its tables; never fails because something is slow.

    python -m benchmarks                     all of them
    python -m benchmarks clip watch          those two
    python -m benchmarks --save              also write benchmarks/results/<date>-<device>.md

A benchmark is a module with `def run(device: str) -> list[Table]`. On CPU set OMP_NUM_THREADS=1: on a shared machine
two threads measure the scheduler.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import sys
import traceback
from pathlib import Path

import torch

HERE = Path(__file__).parent


def main() -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Print a table of timings.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(known)}; all if none is given"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results as well")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(known)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(known)}")

    texts = [about(args.device)]
    print(texts[0])
    failed = False
    for name in args.names or known:
        try:
            tables = importlib.import_module(f"benchmarks.bench_{name}").run(args.device)
        except Exception:  # one that breaks must not hide the others
            traceback.print_exc()
            failed = True
            continue
        for table in tables:
            texts.append(table.markdown())
            print(texts[-1], flush=True)
    if args.save:
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{datetime.date.today().isoformat()}-{args.device.replace(':', '')}.md"
        path.write_text("\n".join(texts))
        print(f"written to {path}")
    return 1 if failed else 0


def about(device: str) -> str:
    """Where and with what the figures were taken."""
    kind = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    return (
        f"# Timings on {device}\n\n"
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}, {kind}, "
        f"{torch.get_num_threads()} of {os.cpu_count()} threads. Command: `{command}`\n"
    )


if __name__ == "__main__":
    sys.exit(main())
