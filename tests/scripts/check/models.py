"""Factories: a chain of orthogonal layers with a gain of 1.1, with an example input and without; and none."""
import math

import torch
from torch import nn


def chain():
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(100)))
    for layer in model:
        nn.init.orthogonal_(layer.weight, gain=1.1)
    return model, torch.randn(8, 32)


def weights_only():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(20)))
    for layer in model:
        nn.init.normal_(layer.weight, std=3 * math.sqrt(2 / 64))
    return model


def nothing():
    return 3
