"""Functions that a training script imports from a second file."""

import torch


def ratio(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Used by a fault elsewhere."""
    return part / whole  #! forward div


def spread(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(0)
    square = (centred * centred).sum(0)
    return square.sqrt()  #! backward sqrt
