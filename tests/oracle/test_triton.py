"""The Triton kernel: its laws in the interpreter and, where there is a GPU, on it; and that it compiles for one.

The interpreter has to be chosen before Triton is imported, so the laws run in a Python of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

LAWS = Path(__file__).with_name("laws_of_triton.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("where", ["in the interpreter", "on the GPU"])
def test_the_laws_hold(where: str) -> None:
    """Every law in laws_of_triton.py; what fails is in the output."""
    if where == "on the GPU" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if where == "in the interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(LAWS), "--timeout", "280"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=290)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_a_gpu_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, capability: int
) -> None:
    """They compile, and numbers that begin at a multiple of 16 bytes are loaded 16 bytes at a time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile as compiled
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gradbelt.kernels import triton as kernel

    wide = tl.float64 if dtype is torch.float64 else tl.float32
    scale = kernel.RANGES[wide]
    given = {
        kernel._chunks: {"DTYPE": kernel.DTYPES[dtype], "WIDE": wide, "BLOCK": kernel.BLOCK, "ALIGNMENT": 16, **scale},
        kernel._tensors: {"DOWN": scale["DOWN"], "UP": scale["UP"], "LARGEST": sys.float_info.max, "PARTS": 512},
    }
    kinds = {"table": "*i64", "parts": "*fp64", "rows": "*fp64"}
    ptx = []
    for function, constants in given.items():
        names = function.arg_names
        signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in names}
        source = ASTSource(function, signature, {(names.index(name),): value for name, value in constants.items()})
        made = compiled(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernel.NUM_WARPS})
        assert made.asm["cubin"]
        ptx.append(made.asm["ptx"])
    assert ("ld.global.v2.b64" if dtype is torch.float64 else "ld.global.v4.b32") in ptx[0]
    assert "atom" not in "".join(ptx), "an atomic addition has no order"
