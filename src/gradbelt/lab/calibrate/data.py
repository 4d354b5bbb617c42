"""Real data that needs no download: Python's own help texts, scikit-learn's digits and diabetes."""

from __future__ import annotations

import functools
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from gradbelt.errors import UsageError

CHARACTERS = 64  # kinds told apart, the rarer ones as one


@functools.cache
def text() -> tuple[Tensor, Tensor]:
    """The help texts as numbers below CHARACTERS, and their last 20 000 held out."""
    whole = "".join(topics[name] for name in sorted(topics))
    ranked = sorted(set(whole), key=lambda c: (-whole.count(c), c))[: CHARACTERS - 1]
    index = {character: i for i, character in enumerate(ranked)}
    numbers = torch.tensor([index.get(character, CHARACTERS - 1) for character in whole])
    return numbers[:-20_000], numbers[-20_000:]


def characters(source: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Rows of text, and the same rows one character further on. Both (rows, length)."""
    starts = torch.randint(len(source) - length - 1, (rows, 1))
    found = source[starts + torch.arange(length + 1)]
    return found[:, :-1], found[:, 1:]


@functools.cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 64) of about unit variance and labels, 1500 to learn from, 297 held out."""
    loaded = _load("load_digits")
    order = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(0))
    x = (torch.tensor(loaded.data, dtype=torch.float32)[order] - 4.884) / 6.017
    y = torch.tensor(loaded.target)[order]
    return x[:1500], y[:1500], x[1500:], y[1500:]


@functools.cache
def diabetes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten standardised features, and the disease's progress as it stands (25 to 346); 342 to learn from, 100 held
    out."""
    loaded = _load("load_diabetes")
    order = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(loaded.data, dtype=torch.float32)[order] * len(order) ** 0.5
    y = torch.tensor(loaded.target, dtype=torch.float32)[order, None]
    return x[:342], y[:342], x[342:], y[342:]


def some(count: int, *of: Tensor) -> tuple[Tensor, ...]:
    """The same `count` rows of each, drawn with replacement."""
    rows = torch.randint(len(of[0]), (count,))
    return tuple(each[rows] for each in of)


def _load(name: str) -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UsageError("the corpus needs scikit-learn's data: pip install scikit-learn") from error
    return getattr(datasets, name)()
