"""The script's own clipping and loss scaling, seen through the seams: what is put on wrongly, and what is not."""

from __future__ import annotations

import pytest
import torch

from gradbelt.blackbox import load_run
from gradbelt.supervise.names import named_parameters
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.plan import Plan


@pytest.fixture(scope="module", autouse=True)
def _alone():
    """Models that other tests left alive are no part of these scripts: their gradients would be held by nobody."""
    for _, parameter in named_parameters():
        parameter.grad = None


@pytest.fixture
def patient(tmp_path):
    """A patient that watches this process until the test ends."""
    patient = Patient(Plan(script="x", folder=str(tmp_path / "run"), seed=0), warn=pytest.fail)
    patient._torch_is_here(torch)
    yield patient
    patient.seams.close()
    patient.belt.release()


def kinds(patient):
    return [found.kind for found in patient.buckle.found]


class Script:
    """A training script under a GradScaler; each `act` is what it does between backward and the end of the step."""

    def __init__(self, *, fused=False, steps=25, scale=2.0**12, set_to_none=True):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.held = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.held, lr=1e-3, fused=fused)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0)
        self.steps, self.set_to_none = steps, set_to_none

    def train(self, *acts):
        for _ in range(self.steps):
            self.optimizer.zero_grad(set_to_none=self.set_to_none)
            x = torch.randn(32, 6)
            loss = (self.model(x) - 9 * x[:, :1]).square().mean()
            self.scaler.scale(loss).backward()
            for act in acts:
                act(self)

    def clip(self, limit=1.0):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def clip_times_scale(self):
        torch.nn.utils.clip_grad_norm_(filter(lambda p: p.requires_grad, self.held), self.scaler.get_scale())

    def unscale(self):
        self.scaler.unscale_(self.optimizer)

    def unscale_by_hand(self):
        for parameter in self.held:
            parameter.grad.data.div_(self.scaler.get_scale())

    def step(self):
        self.optimizer.step()

    def scaler_step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


S = Script


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("acts", "wrong"),
    [
        ((S.scaler_step,), []),
        ((S.unscale, S.clip, S.scaler_step), []),
        ((S.unscale_by_hand, S.clip, S.step), []),
        ((S.unscale, S.step, lambda s: s.scaler.update()), []),
        ((S.clip_times_scale, S.scaler_step), []),
        ((S.clip, S.scaler_step), ["clip_before_unscale"]),
        ((S.step,), ["step_on_scaled"]),
        ((S.clip, S.step), ["step_on_scaled"]),
        ((S.clip, S.unscale, S.scaler_step), ["clip_before_unscale"]),
    ],
)  # fmt: skip
def test_clipping_and_stepping_under_a_loss_scaler(acts, wrong, fused, patient):
    """Told by the bits: a gradient that is still what the scaled backward pass left is still scaled."""
    Script(fused=fused).train(*acts)
    assert kinds(patient) == wrong


def test_a_scaler_that_is_off_scales_nothing(patient):
    Script(scale=1.0).train(S.clip, S.step)
    assert kinds(patient) == []


def test_gradients_that_overflowed_are_not_taken_for_scaled_ones(patient):
    """inf / scale is inf: bits that unscaling does not change tell nothing."""
    Script(scale=2.0**127).train(S.unscale, S.clip, S.scaler_step)
    assert kinds(patient) == []


@pytest.mark.parametrize("set_to_none", [True, False])
def test_clipping_after_the_step_is_found_however_gradients_are_zeroed(set_to_none, patient):
    Script(scale=1.0, set_to_none=set_to_none).train(S.step, S.clip)
    assert kinds(patient) == ["clip_after_step"]


@pytest.mark.parametrize("function", ["clip_grad_norm_", "clip_grads_with_norm_"])
def test_raw_gradients_are_told(function, patient):
    if not hasattr(torch.nn.utils, function):
        pytest.skip("this torch has no such function")
    more = () if function == "clip_grad_norm_" else (torch.tensor(2.0),)

    def clip(script):
        getattr(torch.nn.utils, function)((p.grad for p in script.held), 1.0, *more)

    Script(scale=1.0).train(clip, S.step)
    assert kinds(patient) == ["raw_gradients"]


def test_generators_are_clipped_as_ever(patient):
    """What can be read only once is read by us first, and still clipped; an empty one still draws torch's warning."""
    script = Script(scale=1.0, steps=1)
    script.train(lambda s: s.clip(0.25))
    assert torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in script.held])) == pytest.approx(0.25)
    with pytest.warns(UserWarning, match="empty generator"):
        torch.nn.utils.clip_grad_norm_((p for p in ()), 1.0)


@pytest.mark.parametrize("limit", [0.01, 3.0])
def test_a_script_and_a_belt_that_both_clip_are_told(limit, patient):
    """Where both act: a script's clip that the belt has nothing to add to is left alone."""
    from gradbelt.clip import Norm

    patient.belt.rules.append(Norm(limit))
    script = Script(scale=1.0)
    script.train(lambda s: s.clip(2.0), S.step)
    assert kinds(patient) == ["double_clip"]


def test_a_loop_that_updates_by_hand_holds_its_parameters_itself(patient):
    model = torch.nn.Linear(6, 2)
    for _ in range(30):
        model.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        for parameter in model.parameters():
            parameter.data.add_(parameter.grad.data, alpha=-0.01)
    assert patient.belt.calls == 30
    assert kinds(patient) == []


def test_a_trial_checks_nothing(tmp_path):
    patient = Patient(Plan(script="x", folder=str(tmp_path), seed=0, quiet=True), warn=pytest.fail)
    assert patient.buckle is None


def test_what_is_wrong_is_in_the_record_the_verdict_and_the_story(watched, tmp_path):
    """And never an alarm: the exit code and `exploded` are those of the run."""
    script = tmp_path / "after.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Linear(6, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "for step in range(12):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.randn(8, 6)).square().mean().backward()\n"
        "    optimizer.step()\n"
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)\n"
    )
    done = watched(script, options=("--lang", "ja"))
    assert done.returncode == 0
    assert not done.verdict["exploded"]
    assert [found["kind"] for found in done.verdict["buckle"]] == ["clip_after_step"]
    assert "clip between backward() and step()" in done.verdict["buckle"][0]["message"]
    assert [event.kind for event in load_run(done.folder).events] == ["buckle"]
    assert "クリッピング" in done.stderr.partition("バックル")[2]
    assert "クリッピング" in (done.folder / "report.html").read_text().partition("ベルトは正しく締められているか")[2]
