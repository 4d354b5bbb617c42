"""Where the mass of a gradient lies: a few numbers of each, on their way to the host while the norms are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradbelt import kernels
from gradbelt._types import BINADES, BUCKETS, LOWEST, Counts, Floats
from gradbelt.kernels import shards
from gradbelt.kernels.foreach import REAL, flattened

NUMBERS = 255  # of a gradient, at most, so that a byte counts them
ENOUGH = 32  # of them, to say what share of a gradient lies somewhere
FEW = 4  # numbers beneath an edge, or sizes of them, from which on they are not so by chance
FAINT = 2.0**-20  # below it float16, which goes down to 2**-24, has at most four of its eleven bits left
PILE = 0.05  # share at an edge from which it is looked at what lies beneath


@dataclass(frozen=True, slots=True)
class Sample:
    """Magnitudes of N numbers of P gradients, only finite ones other than 0; on the host, gradient after gradient."""

    gradients: int  # P
    of: npt.NDArray[np.int64]  # (N,) which gradient each is of, ascending
    size: Floats  # (N,)

    def piled(self) -> Floats:
        """(P,) share of the numbers of each gradient that lie at the largest of them; nan where that says nothing.

        It says nothing of fewer than ENOUGH numbers. Nor where an edge has no pile that something set there but numbers
        that are few by nature: those of a loss whose gradient has one size (L1, a sum), of one example of zeros and
        ones, of a coarse format. A clip leaves what lies beneath its bound as it was, nearly all different; so a pile
        counts where half of the numbers beneath it are, or more, in all gradients together that end there.

        >>> clipped = np.minimum(np.arange(1.0, 101.0), 80.0)
        >>> Sample(2, np.repeat([0, 1], 100), np.concatenate([clipped, np.ones(100)])).piled().tolist()
        [0.21, nan]
        """
        found = np.full(self.gradients, np.nan)
        if not len(self.of):
            return found
        starts = np.flatnonzero(np.diff(self.of, prepend=-1))
        edge = np.zeros(self.gradients)
        edge[self.of[starts]] = np.maximum.reduceat(self.size, starts)
        at_edge = self.size == edge[self.of]
        counts = np.bincount(self.of, minlength=self.gradients)
        known = counts >= ENOUGH
        found[known] = np.bincount(self.of[at_edge], minlength=self.gradients)[known] / counts[known]
        for bound in set(edge[found >= PILE].tolist()):
            ends = edge == bound
            beneath = self.size[~at_edge & ends[self.of]]
            if len(beneath) < FEW or 2 * len(np.unique(beneath)) < len(beneath):
                found[ends] = np.nan
        return found

    def faint(self, lifted: float = 1.0) -> Floats | None:
        """(P,) share of the numbers of each float16 gradient that lie below FAINT; nan for what is none. None where all
        are none.

        A gradient is of float16 where it has ENOUGH numbers and that format holds each of them to the bit: also one
        that autocast has made there and a float32 parameter has got. `lifted` is what the numbers are to be multiplied
        by to be as they were then, under a loss scale. Of fewer than FEW sizes they may as well be counts over a power
        of two, in any format, which is what the gradient of a mean can be.

        >>> half = np.float16(np.geomspace(2**-24, 2**-16, 40)).astype(float)
        >>> Sample(2, np.repeat([0, 1], 40), np.concatenate([half, half / 3])).faint().round(2).tolist()
        [0.5, nan]
        """
        numbers = self.size * lifted
        with np.errstate(over="ignore", under="ignore"):
            foreign = numbers.astype(np.float16) != numbers
        counts, others, low = (
            np.bincount(self.of[which], minlength=self.gradients)
            for which in (slice(None), foreign, numbers < FAINT)
        )  # fmt: skip
        known = (counts >= ENOUGH) & (others == 0)
        for i in np.flatnonzero(known & (low > 0)).tolist():
            known[i] = len(np.unique(numbers[slice(*np.searchsorted(self.of, [i, i + 1]))])) >= FEW
        return np.where(known, low / np.maximum(counts, 1), np.nan) if known.any() else None

    def exponents(self, scale: float = 1.0) -> Counts:
        """(P, BUCKETS) how many of the numbers, divided by `scale`, lie in each bucket of powers of two.

        Bucket 0 holds what is below 2**(LOWEST + BINADES), the last what is above all others.

        >>> np.flatnonzero(Sample(1, np.zeros(4, int), np.array([1e-30, 0.25, 0.9, 1.0])).exponents()[0]).tolist()
        [0, 23, 24]
        """
        powers = np.frexp(self.size / scale)[1] - 1
        buckets = np.clip((powers - LOWEST) // BINADES, 0, BUCKETS - 1)
        counts = np.bincount(self.of * BUCKETS + buckets, minlength=self.gradients * BUCKETS)
        return counts.astype(np.uint8).reshape(self.gradients, BUCKETS)


def sample(gradients: Sequence[Tensor]) -> Callable[[], Sample]:
    """At most NUMBERS of the numbers of each gradient, at even strides; the answer has them, once they have come.

    None of a gradient that is sharded, sparse or complex. Reads as many numbers, whatever the size of a gradient, and
    changes nothing; asking waits for no more than a read of the norms that was begun later does.
    """
    places = [i for i, each in enumerate(gradients) if _is_plain(each)]
    places.sort(key=lambda i: str(gradients[i].device))  # a piece for each device is sent faster than one a gradient
    with torch.no_grad():
        flat = [flattened(gradients[i].detach()).view(-1) for i in places]
        # an odd stride, so that it is not the same column over and over
        some = [each[:: -(-each.numel() // NUMBERS) | 1] for each in flat]
        together = groupby(some, key=lambda each: each.device)
        arrived = kernels.send([torch.cat(list(same)) for _, same in together])
    of = np.repeat(np.array(places, dtype=np.int64), [len(each) for each in some])

    def taken() -> Sample:
        size = np.abs(arrived())
        kept = np.flatnonzero((size > 0.0) & (size < np.inf))
        kept = kept[np.argsort(of[kept], kind="stable")]
        return Sample(len(gradients), of[kept], size[kept])

    return taken


def _is_plain(gradient: Tensor) -> bool:
    return (
        gradient.dtype in REAL
        and gradient.layout is torch.strided
        and gradient.device.type != "meta"
        and not shards.is_sharded(gradient)
    )
