"""Forward passes, seen through hooks that are on for one step and then off again.

    begin    a step is over: hooks go on, if the coming step is to be sampled
    end      a step takes place: they come off, and what was seen is on its way to the host
    close    everything is off, for good

Between sampled steps no hook is on, so they cost nothing. How often one is sampled follows from what the last one
took: over the run it is at most the share of time that was asked for, and what is lent so that short runs are seen,
too: a hundredth of a second at once, and by and by, at half of that share, a twentieth. A run of a second or more pays
3 % of its time, where 2 % were asked for, and a long one 2 %. The first look is free: before it nobody knows its cost.

What modules put out is seen by torch's global module hooks. A function between two modules shows in what the second is
given: the node that made it in the autograd graph has its name, and the tensor is its value. What goes into a softmax
is seen in the functions themselves (`taps`), replaced while an outermost module runs, those of a loss until
one is called: outside of a forward pass someone might pickle one. No tensor is kept, changed or given a hook of its
own, no random number is drawn, and nothing waits for a device.

A pass without gradients, a recomputation in backward, another thread, a trace, a capture, a pass under a dispatch mode
or under torch.func: none is looked at. Nothing is, for good, from the moment on at which torch.compile has compiled
anything: what is compiled has no hooks, and a replaced function would have it compiled anew.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradbelt._types import BEGAN, Activation
from gradbelt.belt.activations import Taken, grid, is_usual, kind_of, of_rows, send
from gradbelt.belt.taps import ATTENTION, LOSSES, Look

EVERY = 10  # of the steps at most every tenth is sampled, after the first BEGAN
AT_ONCE, LOAN = 0.01, 0.05  # seconds
MOST_SITES = 1000  # places of a model that are looked at
MOST_CALLS = 100_000  # of modules, after which the hooks come off though no step has come
MOST_STEPS = 20  # of other optimizers, likewise

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a path that a model gets by being wrapped."""


class Forward:
    """The hooks, what they have seen, and the account of what that took.

    Args:
        share: Of the time from step to step, that looking may take; 0 for never, inf for at every step.
        name: What a parameter is called, or None; its module is called alike.
        warn: Called with one sentence if looking fails; it is then over for good, and the run goes on.
    """

    def __init__(
        self,
        share: float = 0.0,
        *,
        name: Callable[[Tensor], str | None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.share = share
        self._name_of, self._warn = name, warn
        self._off: list[Callable[[], None]] = []  # what takes the hooks off,
        self._within: list[Callable[[], None]] = []  # and puts functions back after an outermost module's forward,
        self._after: list[Callable[[], None]] = []  # and those of a loss once it is known
        self._thread = 0
        self._by: int | None = None  # the optimizer whose step opened, and whose next one closes
        self._steps, self._num_samples, self._last = 0, 0, -math.inf
        self.spent = 0.0  # seconds that looking has taken so far,
        self._spent = 0.0  # and had taken before the last sample
        self._since = 0.0  # when the first step was over
        self._names: weakref.WeakKeyDictionary[nn.Module, Mapping[int, str]] = weakref.WeakKeyDictionary()
        self._clear()

    @property
    def on(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._off)

    # --------------------------------------------------------------------------------------------------- what is called

    def begin(self, index: int, *, eager: bool = False) -> None:
        """A step of this optimizer is over: the hooks go on if the next one is due to be sampled.

        `eager`: it is worth looking before the next sample would be due.
        """
        if not self.share > 0 or self.on:
            return
        now = time.perf_counter()
        self._since = self._since or now
        self._steps += 1
        if self._due(now, eager):
            self._spent = self.spent
            self._guarded(self._open, index)
            self.spent += time.perf_counter() - now

    def end(self, index: int) -> Callable[[], tuple[Activation, ...]]:
        """A step of this optimizer takes place: what was seen since the last is on its way; the answer hands it over.

        () where nothing was sampled.
        """
        if not self.on:
            return tuple
        now = time.perf_counter()
        taken = list((self._seen or self._aside).values())
        self._clear(calls=self._calls, others=self._others + 1)
        if index == self._by or self._others > MOST_STEPS:
            self._close()
        arrived = self._guarded(send, taken) if taken else None
        self.spent += time.perf_counter() - now

        def said() -> tuple[Activation, ...]:
            now = time.perf_counter()
            shown = self._guarded(arrived) if arrived is not None else None
            self.spent += time.perf_counter() - now
            return shown or ()

        return said

    def close(self) -> None:
        """Every hook is off and every function is as it was found; nothing is looked at any more."""
        self.share = 0.0
        self._close()

    # ------------------------------------------------------------------------------------------------------- on and off

    def _due(self, now: float, eager: bool) -> bool:
        if _has_compiled():
            self.close()
            return False
        if self.share == math.inf or self._num_samples == 0:
            return True
        far = eager or self._num_samples < BEGAN or self._steps - self._last >= EVERY
        earned, next_one = self.share * (now - self._since), self.spent - self._spent  # it will take what the last took
        return far and self.spent + next_one <= earned + min(LOAN, max(AT_ONCE, earned / 2))

    def _open(self, index: int) -> None:
        self._clear()
        self._by, self._thread = index, threading.get_ident()
        self._num_samples, self._last = self._num_samples + 1, self._steps
        module = torch.nn.modules.module
        self._off.append(module.register_module_forward_pre_hook(_weak(self._hook, Forward._enter, self._off)).remove)
        # also where forward raises, so that the path of modules that are running stays right
        leave = _weak(self._hook, Forward._leave, self._off)
        self._off.append(module.register_module_forward_hook(leave, always_call=True).remove)

    def _close(self) -> None:
        for undone in (self._off, self._within, self._after):
            _undo(undone)
        self._by = None
        self._clear()

    def _clear(self, *, calls: int = 0, others: int = 0) -> None:
        self._seen: dict[tuple[str, str], Taken] = {}  # in passes of modules that are training,
        self._aside: dict[tuple[str, str], Taken] = {}  # and of others, which count where there are none
        self._running: list[int] = []  # modules, by id, outermost first
        self._times: dict[tuple[str, str], int] = {}
        self._path: Mapping[int, str] = {}
        self._training = True
        self._made: Callable[[], Tensor | None] = lambda: None  # what a module put out last,
        self._version = -1  # before it was changed in place,
        self._made_as: tuple[str, str] | None = None  # and under which name it is kept
        self._calls, self._others = calls, others
        self._inside = False

    def _guarded(self, act: Callable[..., Any], *args: Any) -> Any:
        """Calls one of ours; if it fails, looking is over, and the run goes on."""
        try:
            return act(*args)
        except Exception as error:
            self.close()
            self._warn(f"activations are looked at no more: {type(error).__name__}: {error}")
            return None

    # --------------------------------------------------------------------------------------------------- what hooks see

    def _watching(self) -> bool:
        """Whether what runs now is an ordinary forward pass of the thread whose steps are sampled."""
        return not (
            torch.compiler.is_compiling()  # first: the compiler reads no further
            or threading.get_ident() != self._thread
            or torch._C._current_graph_task_id() != -1
            or torch._C._is_tracing()
            or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._functorch.peek_interpreter_stack() is not None
            or _is_capturing()
        )

    def _hook(self, see: Callable[..., None], module: nn.Module, args: Any, *out: Any) -> None:
        if not self._watching() or (not self._running and not torch.is_grad_enabled()):
            return
        now = time.perf_counter()
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._guarded(see, self, module, args, *out)
        finally:
            self.spent += time.perf_counter() - now

    def enters(self) -> bool:
        """A function that is looked at is called, and it is not part of one that is looked at already."""
        if not self._off or self._inside or not self._watching():
            return False
        self._inside = True
        return True

    def sees(self, look: Look, args: Any, kwargs: Any) -> None:
        """With these arguments."""
        self._look(look, args, kwargs)

    def leaves(self) -> None:
        """It has returned."""
        self._inside = False

    def _look(self, look: Look, args: Any, kwargs: Any) -> None:
        if not self._running and not torch.is_grad_enabled():
            return
        now = time.perf_counter()
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                found = self._guarded(lambda: look(*args, **kwargs))
                if found is not None:
                    self._guarded(self._rows, *found)
                if not self._running:
                    _undo(self._after)
        finally:
            self.spent += time.perf_counter() - now

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._calls += 1
        if self._calls > MOST_CALLS:
            self._close()
            return
        if not self._running:
            self._path, self._training = self._paths(module), module.training
            self._within = self._within or [tap.show(self) for tap in ATTENTION]
            self._after = self._after or [tap.show(self) for tap in LOSSES]
        self._running.append(id(module))
        given = args[0] if args else None
        if isinstance(given, Tensor) and is_usual(given) and self._is_new(given):
            kind = kind_of(given)
            if kind:
                self._keep(f"{self._name(module)}.input", kind, given)

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        if id(module) not in self._running:
            return  # it was running when the hooks came on
        while self._running.pop() != id(module):
            pass  # modules within it whose forward raised
        made = _first(out)
        if made is not None and is_usual(made):
            if self._is_new(made):
                if isinstance(module, nn.RNN | nn.RNNCell):
                    self._keep(self._name(module), module.nonlinearity, made)
                    self._made_as = None  # no answer, whoever hands it on
                else:
                    self._keep(self._name(module), kind_of(made), made)
            if not self._running and _has_weights(module):
                self._is_answer()
        if not self._running:
            _undo(self._within)

    def _is_new(self, value: Tensor) -> bool:
        """Whether it is not what was kept last; a container hands on what its last part made."""
        return value is not self._made() or value._version != self._version

    def _is_answer(self) -> None:
        """What was made last is what the outermost module answers: it may lie flat, so it is of no kind."""
        seen, key = self._seen if self._training else self._aside, self._made_as
        if key is not None and key[1] and key in seen:
            seen[key[0], ""] = Taken(Activation(name=key[0]), seen.pop(key).numbers)

    def _keep(self, name: str, kind: str, value: Tensor) -> None:
        key = self._made_as = (name, kind)
        self._made, self._version = weakref.ref(value), value._version
        if self._wanted(key):
            self._put(key, grid(value))

    def _wanted(self, key: tuple[str, str]) -> bool:
        """Whether this call is kept: the first of a place in a step, and in its stead the second, the fourth, ..."""
        times = self._times[key] = self._times.get(key, 0) + 1
        return times & (times - 1) == 0 and (times > 1 or len(self._times) <= MOST_SITES)

    def _put(self, key: tuple[str, str], numbers: Tensor) -> None:
        name, kind = key
        (self._seen if self._training else self._aside)[key] = Taken(Activation(name=name, kind=kind), numbers)

    def _rows(self, kind: str, logits: Callable[[], Tensor | None]) -> None:
        """Keeps what rows of logits say, under the name of the module that is running."""
        key = ((self._path.get(self._running[-1]) if self._running else None) or kind, kind)
        found = logits() if self._wanted(key) else None
        if found is not None:
            self._put(key, of_rows(found))

    # ------------------------------------------------------------------------------------------------------------ names

    def _paths(self, root: nn.Module) -> Mapping[int, str]:
        known = self._names.get(root)
        if known is None:
            prefix = self._prefix(root)
            known = {id(each): _joined(prefix, path) for path, each in root.named_modules()}
            self._names[root] = known
        return known

    def _prefix(self, root: nn.Module) -> str:
        """Where an outermost module lies in the model, or which of several it is, by the name of a parameter."""
        for path, parameter in root.named_parameters():
            known, own = self._name_of(parameter), _joined("", path)
            if known is not None and known.endswith(own):
                return known.removesuffix(own).rstrip(".")
        return ""

    def _name(self, module: nn.Module) -> str:
        return self._path.get(id(module)) or type(module).__name__


# --------------------------------------------------------------------------------------------------------- what is what


def _first(out: Any) -> Tensor | None:
    """The tensor a module put out: of several the first with real numbers."""
    if isinstance(out, Tensor):
        return out
    several = out.values() if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()
    return next((each for each in several if isinstance(each, Tensor) and each.is_floating_point()), None)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _joined(prefix: str, path: str) -> str:
    """A path as the model has it without its wrappers."""
    return ".".join(part for part in (prefix, *path.split(".")) if part and part not in WRAPPERS)


def _is_capturing() -> bool:
    """Whether a CUDA graph is being made of what runs."""
    initialized: Any = torch.cuda.is_initialized
    return bool(initialized()) and torch.cuda.is_current_stream_capturing()


def _weak(hook: Callable[..., None], see: Callable[..., None], off: list[Callable[[], None]]) -> Callable[..., None]:
    """A module hook that doesn't keep whoever looks alive, and goes when they are gone.

    Not at the moment they go: the garbage is collected at any time, also while someone walks through the hooks.
    """
    method = weakref.WeakMethod(hook)

    def called(module: nn.Module, args: Any, *out: Any) -> None:
        if torch.compiler.is_compiling():  # first: the compiler reads no further
            return
        mine = method()
        if mine is None:
            _forget(off)
        else:
            mine(see, module, args, *out)

    return called


def _forget(off: list[Callable[[], None]]) -> None:
    """Whoever looked is gone."""
    _undo(off)
    for tap in (*ATTENTION, *LOSSES):
        tap.end(None)


def _undo(undone: list[Callable[[], None]]) -> None:
    while undone:
        undone.pop()()


def _has_compiled() -> bool:
    """Whether torch.compile has compiled anything in this process, or tried to."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counters.get("frames"))
