from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

collect_ignore = ["play.py"]  # a rank, not tests

PLAY = Path(__file__).with_name("play.py")
RANKS = 4
LIMIT = 200  # seconds for all scenarios together


@pytest.fixture(scope="session")
def played(tmp_path_factory) -> Callable[[str], list]:
    """What the four ranks answered in a scenario of play.py, in their order. All are played once, in four processes."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    logs = [(folder / f"log.{rank}").open("w") for rank in range(RANKS)]
    ranks = [
        subprocess.Popen([sys.executable, str(PLAY), str(rank), str(folder)], stdout=log, stderr=log, env=environment)
        for rank, log in enumerate(logs)
    ]
    try:
        end = time.monotonic() + LIMIT
        for rank in ranks:
            rank.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # the scenarios that were not finished say so
    finally:
        for rank, log in zip(ranks, logs, strict=True):
            rank.kill()
            rank.wait()
            log.close()

    def answers(scenario: str) -> list:
        found = []
        for rank in range(RANKS):
            file = folder / f"{scenario}.{rank}"
            if not file.exists():
                pytest.fail(f"rank {rank} never finished {scenario!r}\n{(folder / f'log.{rank}').read_text()[-2000:]}")
            went_well, answer = pickle.loads(file.read_bytes())
            if not went_well:
                pytest.fail(f"rank {rank} in {scenario!r}: {answer}")
            found.append(answer)
        return found

    return answers
