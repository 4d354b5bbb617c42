"""`gradbelt check`: stops at the first step and says what is to come."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

MINE = SCRIPTS / "check"
linux = pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")


def check(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "gradbelt", "check", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT,
    )  # fmt: skip


def test_a_deep_plain_network_three_times_too_large_is_found(tmp_path):
    done = check(MINE / "deep_times_three.py", cwd=tmp_path)
    assert done.returncode == 10, done.stderr
    assert "weights are" in done.stdout
    assert "times He's" in done.stdout
    assert "step 0" in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir()), "a check leaves nothing behind"


def test_the_same_as_data_with_the_profile_behind_it():
    found = json.loads(check("--json", "-", MINE / "deep_times_three.py").stdout)
    (risk,) = found["risks"]
    assert (risk["cause"], risk["module"], found["module"]) == ("init", "0", "0")
    assert found["backward"]["rate"] == pytest.approx(3.0, rel=0.15)
    assert found["layers"][4]["he"] == pytest.approx(3.0, rel=0.1)
    assert found["clip"]["needed"] is False
    assert found["norm"] > 1e3


@pytest.mark.parametrize(
    ("kind", "clip", "why"),
    [("mlp", False, "nothing grows"), ("resnet", False, "normalised"), ("lstm", True, "60 steps"),
     ("gpt", True, "transformer")],
)  # fmt: skip
def test_a_healthy_network_has_no_finding_and_its_own_advice(kind, clip, why):
    done = check("--json", "-", MINE / "healthy.py", kind)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    assert found["risks"] == []
    assert found["clip"]["needed"] is clip
    assert why in found["clip"]["why"]


def test_it_stops_at_the_first_step_and_verbose_passes_its_output_to_stderr():
    done = check("--verbose", "--json", "-", MINE / "deep_times_three.py")
    json.loads(done.stdout)
    assert "step 0" in done.stderr
    assert "step 1" not in done.stderr


def test_a_factory_is_looked_at_with_its_example_input():
    done = check("models:chain", cwd=MINE)
    assert done.returncode == 10, done.stderr
    assert "1.10 a layer, 100 layers: 1.4e4" in done.stdout


def test_a_factory_without_an_input_shows_its_weights():
    done = check("--json", "-", "models:weights_only", cwd=MINE)
    assert done.returncode == 10, done.stderr
    found = json.loads(done.stdout)
    assert found["risks"][0]["cause"] == "init"
    assert found["norm"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["no_steps.py"], 4, "no training step was seen"),
        (["check/fails_early.py"], 7, "failed before its first step"),
        (["nothing.py"], 2, "no script 'nothing.py'"),
        (["check.models:nothing"], 1, "returned int"),
        (["nowhere:make"], 1, "No module named 'nowhere'"),
    ],
)
def test_without_a_first_step_one_plain_line_says_why(words, code, said):
    done = check(*words, cwd=SCRIPTS)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_it_speaks_japanese():
    done = check("--lang", "ja", MINE / "deep_times_three.py")
    assert "He の初期化の" in done.stdout


def test_a_recurrence_without_an_optimizer_is_measured_over_its_own_time(tmp_path):
    """The look's own derivatives are not taken for the script's step."""
    script = tmp_path / "by_hand.py"
    script.write_text(
        "import torch\n"
        "rnn = torch.nn.RNN(8, 32, nonlinearity='relu')\n"
        "torch.nn.init.orthogonal_(rnn.weight_hh_l0, gain=2.0)\n"
        "for step in range(3):\n"
        "    loss = rnn(torch.rand(40, 4, 8))[0].log1p().mean()\n"
        "    loss.backward()\n"
        "    for p in rnn.parameters():\n"
        "        p.data.add_(p.grad, alpha=-0.1)\n"
        "        p.grad = None\n"
    )
    found = json.loads(check("--json", "-", script).stdout)
    assert [risk["cause"] for risk in found["risks"]] == ["recurrence"]
    assert found["sequence"] == 40
    assert found["loss"] is not None
    assert found["clip"]["needed"] is True


@pytest.mark.slow
def test_a_compiled_model_shows_its_layers_and_is_not_compiled(tmp_path):
    script = tmp_path / "compiled.py"
    script.write_text(
        "import torch\n"
        "layers = [layer for _ in range(5) for layer in (torch.nn.Linear(8, 8), torch.nn.ReLU())]\n"
        "model = torch.compile(torch.nn.Sequential(*layers), backend=lambda graph, inputs: print('a graph') or graph)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
        "for step in range(3):\n"
        "    model(torch.randn(4, 8)).square().sum().backward()\n"
        "    optimizer.step()\n"
    )
    done = check("--verbose", "--json", "-", script)
    assert "a graph" not in done.stderr
    found = json.loads(done.stdout)
    assert [layer["grad"] is not None for layer in found["layers"]] == [True] * 5


REGRESSION = """
import torch
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x.sum(1, keepdim=True)
model = torch.nn.Sequential(torch.nn.Dropout({dropout}), torch.nn.Linear(8, 1, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr={rate})
for step in range(5):
    loss = torch.nn.functional.mse_loss(model(x), y, reduction="{reduction}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())
"""


def regression(folder, *, rate, reduction="mean", dropout=0.0):
    script = folder / "regression.py"
    script.write_text(REGRESSION.format(rate=rate, reduction=reduction, dropout=dropout))
    return check("--json", "-", script)


@linux
def test_an_update_that_overshoots_is_found_with_the_rate_that_would_not(tmp_path):
    """As far as theory says: a step of rate r along the gradient g of a quadratic reaches 1 - r gᵀHg / 2gᵀg of what its
    slope foretells; the slope itself is read off a tenth of the step."""
    rate = 4.0
    found = json.loads(regression(tmp_path, rate=rate).stdout)
    (risk,) = found["risks"]
    assert risk["cause"] == "learning_rate"
    assert "0.4 it falls" in risk["follows"]

    torch.manual_seed(0)
    x = torch.randn(64, 8)
    weight = torch.nn.Linear(8, 1, bias=False).weight.detach()
    hessian = 2 * x.T @ x / 64
    g = (weight - 1) @ hessian
    half = rate * float(g @ hessian @ g.T / (g @ g.T)) / 2
    assert risk["value"] == pytest.approx((1 - half) / (1 - 0.1 * half), rel=1e-3)


@pytest.mark.slow
@linux
def test_random_numbers_of_a_forward_are_the_same_when_the_batch_is_met_again(tmp_path):
    found = json.loads(regression(tmp_path, rate=1e-30, dropout=0.5).stdout)
    assert [before == after for _, _, before, after in found["again"]] == [True] * 3


@pytest.mark.slow
@linux
def test_a_loss_that_is_a_sum_is_named_where_the_update_overshoots(tmp_path):
    found = json.loads(regression(tmp_path, rate=0.1, reduction="sum").stdout)
    assert [risk["cause"] for risk in found["risks"]] == ["loss_scale_bug"]
    assert "adds up 64 numbers" in found["risks"][0]["follows"]
    assert json.loads(regression(tmp_path, rate=0.001, reduction="sum").stdout)["risks"] == []


@pytest.mark.slow
@linux
def test_a_process_that_can_not_be_copied_is_looked_at_all_the_same(tmp_path):
    script = tmp_path / "threads.py"
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    script.write_text(thread + (MINE / "deep_times_three.py").read_text())
    found = json.loads(check("--json", "-", script).stdout)
    assert found["again"] == []
    assert [risk["cause"] for risk in found["risks"]] == ["init"]
