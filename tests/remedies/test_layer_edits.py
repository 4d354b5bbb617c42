"""What a user may rely on in the diff of a remedy on the model: it constructs what the trial ran."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradbelt.remedies import parse
from gradbelt.remedies.edits import Sites, edited
from gradbelt.remedies.edits.acted import Deed
from gradbelt.remedies.edits.source import NoEdit
from gradbelt.remedies.gated_rnn import GATED, WRITTEN

RNN = """\
import torch
from torch import nn

rnn = nn.RNN(4, 8, num_layers=2, nonlinearity="relu", batch_first=True)  # an RNN
cell = torch.nn.RNNCell(4, 8, nonlinearity="relu")
"""
SEQUENTIAL = """\
import torch
import torch.nn as nn

width = 16
model = nn.Sequential(
    nn.Linear(4, width),
    nn.ReLU(),
    nn.Linear(width, out_features=2 * width), nn.Dropout(0.1), nn.Tanh(),
    nn.Linear(2 * width, 8), nn.LayerNorm(8), nn.ReLU(),
    nn.Linear(8, 2),
)
"""


def after(text, remedy):
    return edited(text, parse(remedy), Sites())


def test_plain_recurrent_layers_are_written_gated():
    text = after(RNN, "gated_rnn")
    assert "nn.GRU(4, 8, num_layers=2, batch_first=True)  # an RNN" in text
    assert "torch.nn.GRUCell(4, 8)" in text
    made = {}
    exec(text, made)
    assert made["rnn"](torch.randn(3, 5, 4))[0].shape == (3, 5, 8)


@pytest.mark.parametrize(
    "change",
    [
        ("nn.RNN(4, 8, num_layers=2", "nn.RNN(4, 8, 2, 'relu', **more"),
        ("cell =", "isinstance(rnn, nn.RNN)\ncell ="),
        ("from torch import nn", "from torch import nn\nfrom nets import Net"),
        ("cell =", "rnn.load_state_dict(torch.load('rnn.pt'))\ncell ="),
    ],
)
def test_there_is_no_gated_edit_where_it_could_be_another_one(change):
    with pytest.raises(NoEdit):
        after(RNN.replace(*change), "gated_rnn")


def test_there_is_no_gated_edit_where_the_script_writes_weights_itself():
    """They would not fit the layer that it says."""
    deeds = (Deed("gated_rnn", GATED, 3), Deed("gated_rnn", WRITTEN, 5))
    assert edited(RNN, parse("gated_rnn"), Sites(deeds=deeds[:1])) == after(RNN, "gated_rnn")
    with pytest.raises(NoEdit, match="writes weights"):
        edited(RNN, parse("gated_rnn"), Sites(deeds=deeds))


def test_norms_are_written_where_the_trial_put_them(fit):
    """The edited model computes what the unchanged one does under the remedy."""
    unchanged, changed = {}, {}
    exec(SEQUENTIAL, unchanged)
    exec(after(SEQUENTIAL, "norm_layer"), changed)
    one, other = unchanged["model"].eval(), changed["model"].eval()
    assert sum(isinstance(module, nn.LayerNorm) for module in other) == 3
    with torch.no_grad():
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            b.copy_(a)
    fit("norm_layer")
    x = 10 * torch.randn(6, 4)
    expected = one(x)
    torch.testing.assert_close(_bare(other, x), expected)


def _bare(model, x):
    for module in model:
        x = module(x)
    return x


@pytest.mark.parametrize(
    "change",
    [
        ("    nn.Linear(8, 2),\n", "    *heads,\n"),
        ("    nn.Linear(8, 2),\n", "    Head(),\n"),
        (")\n", ")\nextra = nn.Linear(3, 3)\n"),
        ("nn.ReLU(),\n    nn.Linear(w", "nn.Softmax(-1), nn.Conv2d(1, 1, 1), nn.ReLU(),\n    nn.Linear(w"),
    ],
)
def test_there_is_no_norm_edit_where_layers_are_out_of_sight(change):
    text = SEQUENTIAL.replace(*change)
    assert text != SEQUENTIAL
    with pytest.raises(NoEdit):
        after(text, "norm_layer")
