"""Mean and standard deviation of what comes in by a door, learnt from its first rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 1000  # after so many the numbers stay as they are
SMALL, LARGE = 1e-3, 4.0  # root mean squares between which data is left alone


class Standard:
    """Running mean and deviation of each feature along `axis`; numbers that are not finite are not counted.

    >>> import torch
    >>> standard = Standard(torch.tensor([[1.0, 10.0], [3.0, 30.0]]), axis=1)
    >>> standard.usual, standard.apply(torch.tensor([[2.0, 30.0]])).tolist()
    (False, [[0.0, 1.0]])
    """

    def __init__(self, first: Tensor, axis: int | None) -> None:
        """`axis`: where the features lie; None: all numbers are of one kind."""
        import torch

        self.axis = None if axis is None else axis - first.dim()  # from the end: batches may lack a dimension
        self.rows = 0
        self._count: Any = 0.0
        self._sum: Any = 0.0
        self._square: Any = 0.0
        self.see(first)
        size = (self._square / torch.as_tensor(self._count).clamp_min(1)).sqrt().max()
        self.usual = not bool(size > LARGE) and not 0 < float(size) < SMALL  # a tensor of zeros is no data

    def see(self, batch: Tensor) -> None:
        """Counts one more batch, unless enough were seen."""
        import torch

        if self.rows >= ROWS:
            return
        values = batch.detach().double()
        finite = torch.isfinite(values)
        values = torch.where(finite, values, 0.0)
        others = tuple(range(values.dim())) if self.axis is None else self._others(values)
        self._count = self._count + finite.double().sum(others, keepdim=True)
        self._sum = self._sum + values.sum(others, keepdim=True)
        self._square = self._square + values.square().sum(others, keepdim=True)
        self.rows += max(1, values.shape[0] if values.dim() else 1)

    def _others(self, values: Tensor) -> tuple[int, ...]:
        assert self.axis is not None
        return tuple(dim for dim in range(values.dim()) if dim != values.dim() + self.axis)

    def moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, in the shape that broadcasts with `like`; a feature that never changes has deviation
        1."""
        import torch

        count = torch.as_tensor(self._count).clamp_min(1)
        mean = self._sum / count
        spread = (self._square / count - mean.square()).clamp_min(0).sqrt()
        spread = torch.where(spread > 1e-6 * (1 + mean.abs()), spread, 1.0)
        if self.axis is not None:
            shape = [1] * like.dim()
            shape[self.axis] = -1
            mean, spread = mean.reshape(shape), spread.reshape(shape)
        else:
            mean, spread = mean.reshape(()), spread.reshape(())
        return mean.to(like), spread.to(like)

    def constants(self) -> dict[str, Any]:
        """Mean and deviation of each feature as numbers, and the features' axis from the end; None: one for all."""
        import torch

        size = 1 if self.axis is None else torch.as_tensor(self._sum).numel()
        like = torch.zeros([1] * max(1, -(self.axis or 0)), dtype=torch.float64)
        if self.axis is not None:
            like = like.expand([size if dim == like.dim() + self.axis else 1 for dim in range(like.dim())])
        mean, spread = self.moments(like)
        return {"mean": mean.flatten().tolist(), "std": spread.flatten().tolist(), "axis": self.axis}

    def apply(self, batch: Tensor) -> Tensor:
        """(batch - mean) / deviation."""
        mean, spread = self.moments(batch)
        return (batch - mean) / spread
