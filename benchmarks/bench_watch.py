"""What the belt, and `gradbelt run --watch-only`, add to a real training step."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradbelt
from benchmarks.table import Table, interleaved, median, milliseconds, ratio
from gradbelt.blackbox import Writer
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.plan import Plan

TEXT = "".join(topics[name] for name in sorted(topics))
CHARACTERS = sorted(set(TEXT))
NEVER = 1e9


class Lstm(nn.Module):
    """A two-layer LSTM over characters; batch and length are those of Karpathy's char-rnn."""

    batch, length = 50, 50

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 64)
        self.lstm = nn.LSTM(64, width, num_layers=2, batch_first=True)
        self.out = nn.Linear(width, len(CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.lstm(self.embedding(x))[0])
        return logits


class Gpt(nn.Module):
    """Eight pre-norm transformer blocks of width 384: 14.3 M parameters in 100 tensors."""

    batch, length = 8, 128

    def __init__(self, width: int = 384, depth: int = 8) -> None:
        super().__init__()
        self.token = nn.Embedding(len(CHARACTERS), width)
        self.position = nn.Embedding(256, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 6, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        h = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h, src_mask=mask, is_causal=True)
        return functional.linear(self.norm(h), self.token.weight)


class Training:
    """One model, its AdamW and its batches; calling it is one step, as a script would write it."""

    def __init__(self, kind: type[Lstm] | type[Gpt], device: torch.device, clip: bool = False) -> None:
        torch.manual_seed(0)
        self.model = kind().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        index = {character: i for i, character in enumerate(CHARACTERS)}
        self.data = torch.tensor([index[character] for character in TEXT], device=device)
        self.shape, self.clip, self.step = (kind.batch, kind.length), clip, 0
        self.see: Callable[[Tensor], Tensor] = lambda loss: loss

    def loss(self) -> Tensor:
        """Of the next batch."""
        batch, length = self.shape
        self.step += 1
        starts = torch.randint(
            len(self.data) - length - 1, (batch, 1), generator=torch.Generator().manual_seed(self.step)
        )
        windows = self.data[starts.to(self.data.device) + torch.arange(length + 1, device=self.data.device)]
        logits = self.model(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.see(self.loss()).backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), NEVER)
        self.optimizer.step()
        if self.data.device.type == "cuda":
            torch.cuda.synchronize(self.data.device)


def run(device: str) -> list[Table]:
    rows = []
    for kind, name, rounds in ((Lstm, "LSTM, 0.9 M", 80), (Gpt, "GPT, 14 M", 20)):
        rows += compare(kind, name, torch.device(device), rounds)
    return [
        Table(
            title="The belt on a real step",
            columns=("model", "step", "bare", "with it", "added", "with it / bare", "25 % to 75 %", "fastest"),
            rows=tuple(rows),
            note=(
                "Forward, backward and fused AdamW on characters of pydoc_data.topics (LSTM: 50 x 50, GPT: 8 x 128), "
                "one copy of the model each, steps interleaved. Times are medians, ratios medians within a round; "
                "fastest: the ratio of the fastest tenths, which other load touches least. bare again: a "
                "second copy, so the noise of it all. belt, watching: fasten(clip=None, guard=False). belt, clipping: "
                "fasten(clip=1e9), measured and never scaled. gradbelt run: seams, belt and black box around a loop "
                "that knows nothing of them. To reach: 1.02 for the belt, 1.05 for gradbelt run."
            ),
        )
    ]


def compare(kind: type[Lstm] | type[Gpt], name: str, device: torch.device, rounds: int) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            "bare": Training(kind, device),
            "bare again": Training(kind, device),
            "torch's clip_grad_norm_": Training(kind, device, clip=True),
            "belt, watching": belted(Training(kind, device), clip=None, guard=False),
            "belt, clipping": belted(Training(kind, device), clip=NEVER),
        }
        patient = watched(Path(folder))
        tasks["gradbelt run"] = Training(kind, device)  # made while the seams are on, as in a script
        patient.seams.close()
        seconds = interleaved(
            tasks,
            rounds=rounds,
            before=lambda task: patient.seams.open() if task == "gradbelt run" else None,
            after=lambda task: patient.seams.close() if task == "gradbelt run" else None,
        )
        patient.belt.release()
        assert patient.writer is not None
        patient.writer.close()
    bare = seconds.pop("bare")
    return [
        (
            name,
            step,
            milliseconds(median(bare)),
            milliseconds(median(mine)),
            milliseconds(statistics.median(a - b for a, b in zip(mine, bare, strict=True))),
            f"{ratio(mine, bare):.3f}",
            "{0:.3f} to {2:.3f}".format(*statistics.quantiles((a / b for a, b in zip(mine, bare, strict=True)), n=4)),
            f"{fastest(mine) / fastest(bare):.3f}",
        )
        for step, mine in seconds.items()
    ]


def fastest(seconds: list[float]) -> float:
    """The 10 % quantile."""
    return statistics.quantiles(seconds, n=10)[0]


def belted(training: Training, **how: Any) -> Training:
    training.see = gradbelt.fasten(training.model, training.optimizer, **how).see
    return training


def watched(folder: Path) -> Patient:
    """A patient with its seams on and its black box open, as in the child of `gradbelt run --watch-only`."""
    patient = Patient(Plan(script="bench_watch.py", folder=str(folder), seed=0), warn=print)
    patient.writer = Writer(folder / "run", {}, warn=print)
    patient._torch_is_here(torch)
    return patient
