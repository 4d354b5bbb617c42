"""Remedies fitted onto this very process, as onto a script that runs in it."""

from __future__ import annotations

import pytest
import torch

from gradbelt.remedies import parse
from gradbelt.supervise.patient import Patient
from gradbelt.supervise.plan import Plan


@pytest.fixture
def fit(tmp_path):
    """fit("lsuv") -> the patient, with `.said`; whatever model runs from then on is a script's."""
    patients = []

    def fitted(text):
        said = []
        patient = Patient(Plan(script="train.py", folder=str(tmp_path), seed=0), warn=said.append)
        patient.said = said
        for remedy in parse(text) if text else ():
            patient.at_torch.append(remedy.fit)
        patient._torch_is_here(torch)
        patients.append(patient)
        return patient

    yield fitted
    for patient in reversed(patients):
        patient._end()
