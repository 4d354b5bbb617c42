"""Numbers on their way from a device to the host, while the host goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gradbelt._types import Floats


def send(pieces: Sequence[Tensor]) -> Callable[[], Floats]:
    """Starts bringing tensors to the host; the answer hands over all their numbers, in order, as one float64 array.

    Sending never waits. Asking waits for what is still under way and for nothing that was begun later, so the numbers
    are never half there; after any later wait for the device they have long come. Every call has memory of its own: one
    still on its way is not overwritten by the next. Only CUDA can do this; other devices are waited for at once.

    >>> arrived = send([torch.tensor(1.0), torch.tensor([[2.0, 3.0]])])
    >>> arrived()
    array([1., 2., 3.])
    """
    ends = np.cumsum([0, *(piece.numel() for piece in pieces)]).tolist()
    numbers = np.empty(ends[-1])
    away: list[tuple[slice, Tensor]] = []
    with torch.no_grad():
        for start, end, piece in zip(ends[:-1], ends[1:], pieces, strict=True):
            if piece.device.type == "cpu":
                torch.from_numpy(numbers[start:end]).copy_(piece.reshape(-1))
            else:
                away.append((slice(start, end), piece))
        if not away:
            return lambda: numbers
        home = away[0][1].device
        wide = torch.float32 if home.type == "mps" else torch.float64
        together = torch.cat([piece.reshape(-1).to(home, wide, non_blocking=True) for _, piece in away])
        pinned = home.type == "cuda"
        host = torch.empty(len(together), dtype=wide, pin_memory=pinned)
        host.copy_(together, non_blocking=pinned)
        event = torch.cuda.current_stream(home).record_event() if pinned else None

    def arrived() -> Floats:
        if event is not None:
            event.synchronize()
        come = np.split(host.numpy(), np.cumsum([piece.numel() for _, piece in away])[:-1])
        for (place, _), part in zip(away, come, strict=True):
            numbers[place] = part
        return numbers

    return arrived
