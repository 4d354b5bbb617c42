"""What a user may rely on when a remedy is put on an unchanged script: it cures its cause, and says what it did."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.remedies.edits import by_hand, patches
from gradbelt.remedies.reinit import BY_HAND
from gradbelt.supervise.deeds import ACTED, IDLE
from gradbelt.supervise.launch import launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.trials.judge import judge_trial

SICK = SCRIPTS / "sick"
OURS = {
    "agc": 1e9, "truncated_bptt": 1e6, "skip_batch": 1e15, "impute_data": None, "normalise_input": None,
    "normalise_target": None, "eps_in_op": 1e-30, "mask_fix": None, "loss_reduction": None, "loss_scale": 1e15,
    "higher_eps": 1e-30, "lower_beta2": 0.999999,
}  # fmt: skip
"""Remedy -> the value at which it does nothing; None: it finds out by itself that there is nothing to do."""

HEALTHY = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(4, 8, 3, padding=1), nn.GRU(8, 8, batch_first=True)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        h, _ = self.rnn(torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2))
        h, _ = self.attention(h, h, h, key_padding_mask=torch.zeros(h.shape[:2], dtype=torch.bool))
        return self.out(h.mean(1))


model, cell = Net(), nn.RNNCell(4, 3)
optimizer = torch.optim.Adam([*model.parameters(), *cell.parameters()], lr=0.01)
x, y = torch.rand(64, 10, 4), torch.randn(64, 3)
for step in range(20):
    i = torch.randint(0, 64, (16,))
    out, h = model(x[i]), torch.zeros(16, 3)
    for t in range(10):
        h = cell(x[i, t], h)
    p, q = torch.sigmoid(out), torch.softmax(h, 1)
    loss = F.mse_loss(out, y[i]) + (h - y[i]).pow(2).mean() + F.binary_cross_entropy(p, (y[i] > 0).float())
    loss = loss - torch.log(q).mean() + out.std(0).log().mean() / (1 + h.square().sum().sqrt())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item(), sum(p.double().sum().item() for p in model.parameters()), torch.rand(1).item())
"""


def run(script, folder, *remedies, seconds=120):
    """The script under remedies -> (outcome, its own output, what the remedies said, what failed)."""
    plan = Plan(script=str(script), folder=str(folder), seed=0, remedies=remedies, quiet=True)
    child = launch(plan)
    assert wait_until(child, time.monotonic() + seconds)
    record = load_run(Path(folder))
    said = [event.message for event in record.events if event.kind in (ACTED, IDLE)]
    failed = [e.message for e in record.events if e.kind in ("remedy_failed", "belt_failed")]
    outcome = judge_trial(record, "+".join(remedies), seconds=0)
    return outcome, (Path(folder) / "stdout.log").read_text(), said, failed, child.returncode


@pytest.mark.parametrize("name", [n if n == "eps_in_op" else pytest.param(n, marks=pytest.mark.slow) for n in OURS])
def test_a_remedy_cures_the_script_that_is_sick_of_its_cause(name, tmp_path):
    """The unchanged script fails; with the remedy it lives and learns. Which is not so for the mere placebo."""
    control, *_ = run(SICK / f"{name}.py", tmp_path / "control")
    treated, _, said, failed, code = run(SICK / f"{name}.py", tmp_path / "treated", name)
    assert control.outcome != "learning"
    assert treated.outcome == "learning"
    assert (code, failed) == (0, [])
    assert "nothing to do" not in said[0]


def test_at_their_neutral_values_all_of_them_change_not_a_bit(tmp_path):
    """Losses, weights and the next random number, down to the last digit, in a script that gives each a chance."""
    (tmp_path / "healthy.py").write_text(HEALTHY)
    with_values = [name if value is None else f"{name}={value!r}" for name, value in OURS.items()]
    _, bare, *_ = run(tmp_path / "healthy.py", tmp_path / "bare")
    _, treated, said, failed, code = run(tmp_path / "healthy.py", tmp_path / "treated", *with_values)
    assert treated == bare != ""
    assert (code, failed) == (0, [])
    assert [s.split()[0] for s in said] == list(OURS)
    assert all("found nothing to do" in s for s in said)


PATIENTS = ("healthy", "by_hand", "gan", "lbfgs", "scaler", "sparse", "autograd_grad", "diverges", "nan_at_once")


@pytest.mark.parametrize(
    "script", [n if n in ("by_hand", "gan") else pytest.param(n, marks=pytest.mark.slow) for n in PATIENTS]
)
def test_no_script_is_troubled_by_all_of_them_at_once(script, tmp_path):
    """Exit code 0, no failure of ours, and where a script draws random numbers it draws the same."""
    _, _, said, failed, code = run(SCRIPTS / f"{script}.py", tmp_path / "run", *OURS)
    assert (code, failed) == (0, [])
    assert len(said) == len(OURS)


def test_a_remedy_that_finds_nothing_to_act_on_says_so(tmp_path):
    _, _, said, _, _ = run(SCRIPTS / "healthy.py", tmp_path / "run", "truncated_bptt=10", "mask_fix")
    assert said == [
        "truncated_bptt found nothing to do: no recurrent layer was walked back more than 10 steps",
        "mask_fix found nothing to do: no mask left a row empty",
    ]


def test_standardised_targets_are_judged_and_printed_on_the_scale_of_the_script(tmp_path):
    """A root mean square error of 66 thousand out of 5e5 is not made to look like 0.13 by the change of scale."""
    treated, printed, *_ = run(SICK / "normalise_target.py", tmp_path / "run", "normalise_target")
    rmse = float(printed.split()[1])
    assert treated.loss is not None
    assert 0.5 < treated.loss / rmse**2 < 2
    assert 1e4 < rmse < 2e5


def test_agc_leaves_sparse_gradients_and_the_head_alone(tmp_path):
    """An embedding's sparse gradient has no units: the rows of the layer between it and the head are bounded."""
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "table, a, b = torch.nn.Embedding(9, 4, sparse=True), torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)\n"
        "model = torch.nn.ModuleList([table, a, b])\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for step in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    (10 * b(a(table(torch.arange(9)))) - 30).square().mean().backward()\n"
        "    optimizer.step()\n"
    )
    _, _, said, failed, code = run(tmp_path / "train.py", tmp_path / "run", "agc")
    assert (code, failed) == (0, [])
    assert said == ["agc: units bounded (3 times)"]


@pytest.mark.parametrize("remedy", ["orthogonal_init", pytest.param("xavier_init", marks=pytest.mark.slow)])
def test_matrices_that_are_no_layers_are_drawn_anew_too_and_no_diff_claims_it(remedy, tmp_path):
    """A unit is a column where numbers come first, the line of each is known."""
    script = SICK / "recurrence_by_hand.py"
    outcome, *_ = run(script, tmp_path / "run", remedy)
    assert outcome.outcome == "learning"
    record = load_run(tmp_path / "run")
    done = [event.data["done"] for event in record.events if event.kind == ACTED]
    first, last = (number for number, line in enumerate(script.read_text().splitlines(), 1) if " @ w" in line)
    assert done == [[[BY_HAND, f"{script.name}:{line}", n] for line, n in ((first, 2), (last, 1))]]
    assert patches(record)(()) is None
    assert f"{script.name}:{first}" in by_hand(record)((remedy,))
