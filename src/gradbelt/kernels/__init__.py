"""One read of the gradients, one write where something must change.

    read         gradients -> (P,) L2 norms, float64 on the host; at most one wait for the device
    total        (P,) norms -> the norm over all of them
    survey       both at once, and the norms of the weights
    look         a survey, with the largest magnitude and share of zeros of each gradient
    what_is_bad  which gradients hold inf, which only nan
    scale_       multiply in place            clamp_   clamp every element in place
    scale_each_  each by its own factor       clip_units_  each row against the norm of its weights
    read_p       norms of another order than 2      rms_of_updates  how large Adam's updates are going to be
    send         numbers to the host, without waiting for them

`triton` reads on CUDA devices, where Triton is installed, `foreach` everywhere else, `oracle` slowly and obviously; the
tests hold the fast ones against the last. Norms never overflow and never vanish: a finite gradient has a finite norm, a
gradient that is not all zero has a norm above zero.

Each tensor is taken as often as it is passed. A parameter that two modules share (tied weights) is listed once by its
optimizer, but twice by a caller who collects over modules: pass each gradient once.

>>> import torch
>>> from gradbelt import kernels
>>> norms = kernels.read([torch.tensor([3.0, 4.0]), torch.full((2,), 2e19), torch.tensor([0.0, float("nan")])])
>>> [f"{norm:.4g}" for norm in norms]
['5', '2.828e+19', 'nan']
>>> f"{kernels.total(norms[:2]):.4g}"
'2.828e+19'
"""

from gradbelt.kernels.foreach import clamp_ as clamp_
from gradbelt.kernels.foreach import read as read
from gradbelt.kernels.foreach import scale_ as scale_
from gradbelt.kernels.foreach import scale_each_ as scale_each_
from gradbelt.kernels.foreach import survey as survey
from gradbelt.kernels.foreach import total as total
from gradbelt.kernels.foreach import what_is_bad as what_is_bad
from gradbelt.kernels.moments import Moment as Moment
from gradbelt.kernels.moments import rms_of_updates as rms_of_updates
from gradbelt.kernels.orders import read_p as read_p
from gradbelt.kernels.reading import look as look
from gradbelt.kernels.send import send as send
from gradbelt.kernels.units import clip_units_ as clip_units_

__all__ = [
    "Moment", "clamp_", "clip_units_", "look", "read", "read_p", "rms_of_updates", "scale_", "scale_each_", "send",
    "survey", "total", "what_is_bad",
]  # fmt: skip
