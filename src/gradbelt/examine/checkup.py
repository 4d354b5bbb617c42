"""What a check hands on: Look (measured in the child) -> Checkup (what it means). Plain values; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gradbelt._types import ClipAdvice, Risk
from gradbelt.examine.profiles import Trend

EVENT = "look"  # the kind of event that holds a Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One call of a layer that has a weight matrix, in the order of the calls."""

    name: str
    kind: str  # its class
    width: int  # output features or channels
    given: float  # RMS of what went in
    made: float  # RMS of what came out
    peak: float  # largest absolute value that came out
    grad: float | None = None  # L2 norm of the loss's gradient with respect to what came out; None: none arrived
    he: float | None = None  # standard deviation of its weights over He's
    xavier: float | None = None  # over Xavier's
    run: int = 0  # how often it had been called before


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen up to the first step. None: there was none, or it could not be seen."""

    layers: tuple[Layer, ...] = ()
    stepped: bool = False  # a step, or its backward, was seen; or a factory's model was built
    num_norms: int = 0
    num_skips: int = 0
    recurrent: tuple[str, ...] = ()  # classes of the recurrent layers
    attention: bool = False
    sequence: int | None = None  # steps the longest recurrence was unrolled over
    lags: tuple[float, ...] = ()  # gradient of the recurrence's last output with respect to its input, the last first
    lags_of: str | None = None
    broken: str | None = None  # first layer that made nan or inf out of finite numbers
    loss: float | None = None  # what backward was called on, without a loss scaler's factor
    guess: float | None = None  # what that would be for an answer that is the same to everything
    cross_entropy: float | None = None
    classes: int | None = None
    logits: float | None = None  # largest absolute value that a classifying loss was given
    attended: float | None = None  # largest absolute value that attention's softmax was given
    input_rms: float | None = None
    input_peak: float | None = None
    input_spread: float | None = None  # largest over median standard deviation of its columns
    input_finite: bool = True
    target_rms: float | None = None  # of a regression's target
    target_finite: bool = True
    half: str | None = None  # float16 or bfloat16, where layers make it
    optimizer: str | None = None
    lr: float | None = None
    moves: Mapping[str, float] | None = None  # weight matrix -> first update over its norm
    summed: int = 0  # numbers that the loss adds up without dividing by how many they are
    again: tuple[tuple[int, float, float, float], ...] = ()  # (update, share of it, loss of its batch before, after)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Look:
        """A look as the black box kept it."""
        known: dict[str, Any] = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        known["layers"] = [Layer(**layer) for layer in known.get("layers", ())]
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What a check comes to: nothing to fear where there are no risks."""

    risks: tuple[Risk, ...]
    clip: ClipAdvice
    forward: Trend | None  # RMS of what the layers make
    backward: Trend | None  # gradient of the loss, from the last layer to the first
    norm: float | None  # first total gradient norm
    headroom: float | None  # largest float16 over the largest value a layer made

    @property
    def module(self) -> str | None:
        """The first suspicious module."""
        return next((risk.module for risk in self.risks if risk.module is not None), None)
