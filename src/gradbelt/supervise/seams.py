"""The places where a running script is met: every patch and hook, put on together and taken off together."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._functorch import eager_transforms
from torch.optim import Optimizer

# from the module: torch.optim.optimizer as an attribute is deleted by torch.optim itself
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

from gradbelt.supervise.calls import is_transformed
from gradbelt.supervise.clipping import Clipping
from gradbelt.supervise.names import CALLED, STANDS_FOR, leaves
from gradbelt.supervise.sites import here

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient

ORPHANS = 20  # backward passes without a step after which an optimizer that exists is taken to be unused
UNSCALED = "_gradbelt_unscaled"
SCALER = "_gradbelt_scaler"
CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")


class Seams:
    """All hooks into torch for one patient; `close` leaves torch as it was found."""

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._close: list[Callable[[], None]] = []
        self._inside = threading.local()
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._made_at: weakref.WeakKeyDictionary[Optimizer, str] = weakref.WeakKeyDictionary()
        self._stepped = 0  # optimizer steps that reached the optimizer
        self._scaled = False  # a loss scaler was asked for a step: whether one came of it or not, it is no loop by hand
        self._backwards = 0
        self._leaves: list[weakref.ref[Tensor]] = []
        self._roots: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._fitted: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._clipping = None if patient.buckle is None else Clipping(patient.buckle, self.optimizers)

    def open(self) -> None:
        self._swap(torch.autograd, "backward", self._backward)
        self._swap(torch.autograd, "grad", self._grad)
        if hasattr(eager_transforms, "grad_and_value_impl"):  # torch's own: grad calls it, too
            self._swap(eager_transforms, "grad_and_value_impl", self._functional)
        self._swap(torch.optim.Optimizer, "__init__", self._optimizer_init)
        self._swap(torch.amp.GradScaler, "scale", self._scale)
        self._swap(torch.amp.GradScaler, "step", self._scaler_step)
        self._swap(torch.amp.GradScaler, "unscale_", self._unscale)
        for name in CLIPS:
            if hasattr(torch.nn.utils, name):  # torch 2.4 lacks the last
                self._swap(torch.nn.utils, name, functools.partial(self._clip, name))
            if (old := getattr(torch.nn.utils.clip_grad, name, None)) is not None:
                setattr(torch.nn.utils.clip_grad, name, getattr(torch.nn.utils, name))
                self._close.append(functools.partial(setattr, torch.nn.utils.clip_grad, name, old))
        self._keep(register_optimizer_step_pre_hook(self._pre_step))
        self._keep(register_optimizer_step_post_hook(self._post_step))
        if self._patient.at_model or self._patient.at_call:
            self._swap(nn.Module, "__call__", self._call)

    def fit(self, acts: Sequence[Callable[[Optimizer], None]]) -> None:
        """Done to every optimizer that has stepped; the patient's list is for those that are still to come."""
        for optimizer in list(self._fitted):
            self._fit(acts, optimizer)

    def _fit(self, acts: Sequence[Callable[[Optimizer], None]], optimizer: Optimizer) -> None:
        for act in acts:
            self._patient.guarded(act, optimizer)

    def close(self) -> None:
        while self._close:
            self._close.pop()()

    def made_at(self, optimizer: Optimizer) -> str | None:
        """Where the script constructed the optimizer."""
        return self._made_at.get(optimizer)

    def held_by_hand(self) -> list[Tensor]:
        """The parameters of a loop without an optimizer."""
        return [leaf for leaf in (ref() for ref in self._leaves) if leaf is not None]

    # ------------------------------------------------------------------------------------------------------- the seams

    def _backward(self, original: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._inside, "backward", False) or torch._C._current_graph_task_id() != -1:
            return original(tensors, *args, **kwargs)  # checkpointing calls backward within backward
        losses: list[Tensor] = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        self._patient.guarded(self._before_backward, losses)
        self._inside.backward = True
        try:
            result = original(tensors, *args, **kwargs)
        finally:
            self._inside.backward = False
        if self._clipping is not None:
            self._clipping.after_backward(
                next((each for loss in losses if (each := getattr(loss, SCALER, None))), None)
            )
        self._patient.guarded(self._after_backward, losses)
        return result

    def _grad(self, original: Callable[..., Any], outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Gradients asked for by a loop that has no optimizer and updates by hand; not those of a penalty."""
        if getattr(self._inside, "grad", False):
            return original(outputs, inputs, *args, **kwargs)  # a function mode leads torch's own grad back to us
        self._inside.grad = True
        try:
            result = original(outputs, inputs, *args, **kwargs)
        finally:
            self._inside.grad = False
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        if (
            not kwargs.get("create_graph")
            and not self.optimizers
            and all(w.is_leaf and w.requires_grad for w in wanted)
        ):
            self._patient.guarded(self._after_grad, outputs, wanted, result)
        return result

    def _after_grad(self, outputs: Any, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        self._see([outputs] if isinstance(outputs, Tensor) else outputs)
        self._step_by_hand(inputs, gradients)

    def _functional(
        self, original: Callable[..., Any], func: Any, argnums: Any, has_aux: bool, args: Any, kwargs: Any
    ) -> Any:
        """torch.func.grad and grad_and_value, called by the script itself: the value is a loss, and in a loop without
        optimizer the gradient with respect to a tree of tensors is a step. One tensor alone may be an input."""
        result = original(func, argnums, has_aux, args, kwargs)
        if not is_transformed() and not torch.compiler.is_compiling():
            loss = result[1][0] if has_aux else result[1]
            wanted = args[argnums] if isinstance(argnums, int) else [args[place] for place in argnums]
            self._patient.guarded(self._after_functional, loss, wanted, result[0])
        return result

    def _after_functional(self, loss: Tensor, wanted: Any, gradients: Any) -> None:
        if isinstance(wanted, Tensor):
            return
        self._see([loss])
        if not self.optimizers:
            named = tree_flatten_with_path(wanted)[0]
            self._step_by_hand([leaf for _, leaf in named], tree_leaves(gradients), [key for key, _ in named])

    def _step_by_hand(
        self, inputs: Sequence[Tensor], gradients: Sequence[Tensor | None], keys: Sequence[Any] = ()
    ) -> None:
        """A step of a loop that is about to use gradients which belong to no tensor. `keys`: Where each of its tensors
        lies in a tree."""
        stand_ins = []
        for i, (parameter, gradient) in enumerate(zip(inputs, gradients, strict=True)):
            if gradient is not None:
                stand_in = parameter.detach()
                stand_in.grad = gradient  # the very tensor the script is about to use
                setattr(stand_in, STANDS_FOR, parameter)
                if keys:
                    setattr(stand_in, CALLED, ".".join(str(key).strip("[].'") for key in keys[i]))
                stand_ins.append(stand_in)
        self._patient.step_by_hand(stand_ins)
        for stand_in, gradient in zip(stand_ins, (g for g in gradients if g is not None), strict=True):
            if stand_in.grad is not gradient:  # the step is left out: its gradient was replaced by zeros
                gradient.zero_()

    def _see(self, losses: Sequence[Tensor]) -> None:
        """Notes the losses for the step to come, without the factor of a loss scaler, under the line that asked."""
        where = here()
        for loss in losses:
            value = getattr(loss, UNSCALED, loss).detach()
            self._patient.belt.see(value if value.numel() == 1 else value.float().mean(), where)

    def _before_backward(self, losses: Sequence[Tensor]) -> None:
        self._see(losses)
        if self._patient.buckle is not None:
            self._patient.buckle.saw(losses[0], here())
        for act in self._patient.at_backward:
            act(losses)
        if (
            self._by_hand() and (self._backwards & (self._backwards - 1)) == 0
        ):  # 0, 1, 2, 4, 8, ...: the graph may change
            self._leaves = [weakref.ref(leaf) for loss in losses for leaf in leaves(loss)]
        self._backwards += 1

    def _after_backward(self, losses: Sequence[Tensor]) -> None:
        for act in self._patient.after_backward:
            act(losses)
        if self._by_hand():
            self._patient.step_by_hand(self.held_by_hand())

    def _by_hand(self) -> bool:
        """Whether the script updates its weights itself: it has no optimizer, or has one and never steps it."""
        return self._stepped == 0 and not self._scaled and (not self.optimizers or self._backwards >= ORPHANS)

    def _pre_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._stepped == 0 and self._patient.belt.calls:
            self._patient.start_over()  # what was counted by backward belongs to an optimizer after all
        self._stepped += 1
        self._patient.stepped_at = where = here()
        self._patient.steps_at[where] = None
        if optimizer not in self._fitted:
            self._fitted.add(optimizer)
            self._patient.made_at[self.made_at(optimizer) or "?"] = None
            self._patient.steppers.append((type(optimizer).__name__, where))
            self._fit(self._patient.at_optimizer, optimizer)
        if self._clipping is not None:
            self._clipping.before_step(optimizer)
        return self._patient.guarded(self._patient.belt.pre_step, optimizer, args, kwargs)

    def _post_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._patient.guarded(self._patient.belt.post_step, optimizer, args, kwargs)
        self._patient.guarded(self._patient.completed)

    def _optimizer_init(self, original: Callable[..., Any], optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        result = original(optimizer, *args, **kwargs)
        self.optimizers.add(optimizer)
        self._made_at[optimizer] = here()
        return result

    def _scale(self, original: Callable[..., Any], scaler: Any, outputs: Any) -> Any:
        scaled = original(scaler, outputs)
        if isinstance(outputs, Tensor) and isinstance(scaled, Tensor):
            setattr(scaled, UNSCALED, outputs.detach())
            setattr(scaled, SCALER, scaler if scaler.is_enabled() else None)
        return scaled

    def _scaler_step(self, original: Callable[..., Any], scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        self._scaled, belt = True, self._patient.belt
        calls, left_out, belt.scaler = belt.calls, belt.num_left_out, scaler
        if self._clipping is not None:
            self._clipping.before_scaler_step(optimizer)
        try:
            result = original(scaler, optimizer, *args, **kwargs)
        finally:
            if self._clipping is not None:
                self._clipping.after_scaler_step()
        if belt.calls == calls:
            self._patient.guarded(self._patient.left_out, scaler, belt.num_left_out > left_out)
        return result

    def _unscale(self, original: Callable[..., Any], scaler: Any, optimizer: Any) -> Any:
        if self._clipping is not None:
            self._clipping.before_unscale(optimizer)
        return original(scaler, optimizer)

    def _clip(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._clipping is not None and args:
            parameters, *rest = args
            if isinstance(parameters, Iterator):  # can be read once, and we read it first
                parameters = list(parameters) or parameters  # torch warns of a generator that is empty
            args = (parameters, *rest)
            limit = rest[0] if rest else kwargs.get("max_norm", kwargs.get("clip_value"))
            self._clipping.before_clip(name, parameters, limit)
        total = original(*args, **kwargs)
        if self._clipping is not None:
            self._clipping.after_clip(total)
        if name == "clip_grad_norm_" and isinstance(total, Tensor):
            self._patient.belt.unclipped = total.detach()
        return total

    def _call(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Each outermost module once, before its first forward: the moment when a model can still be changed; under
        torch.func what it holds then are stand-ins."""
        if not torch.compiler.is_compiling() and module not in self._roots and not is_transformed():
            self._roots.update(module.modules())
            for act in self._patient.at_model:
                self._patient.guarded(act, module)
            for look in self._patient.at_call:
                self._patient.guarded(look, module, args, kwargs)
        return original(module, *args, **kwargs)

    # ------------------------------------------------------------------------------------------------------- the craft

    def _swap(self, owner: Any, name: str, ours: Callable[..., Any]) -> None:
        """Replaces `owner.name` by `ours(original, ...)` until `close`."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            return ours(original, *args, **kwargs)

        setattr(owner, name, patched)
        self._close.append(lambda: setattr(owner, name, original))

    def _keep(self, handle: Any) -> None:
        self._close.append(handle.remove)
