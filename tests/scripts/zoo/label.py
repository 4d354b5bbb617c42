"""Label the zoo: run every script bare, with nothing watching but the two hooks below, and write labels.json.

    python tests/scripts/zoo/label.py              measure all of them, write labels.json
    python tests/scripts/zoo/label.py NAME...      measure these and print their series; nothing is written

A step is the 0-based index of the optimizer.step() call; with several optimizers, of the one that has stepped most; of
the backward() call where there is no optimizer. What is measured:

- nonfinite: the first step whose loss, or whose gradient, is not finite;
- loss_up: the first step whose loss is above 10x the best so far while the median of the next five is, too (for a loss
  that has been negative: whose size is above 100x the median size of its first ten). Every call site of backward() is a
  series of its own.

`first_bad_step` is the earlier of the two, `onset` the step after the last best loss (where the way up began).
What the fault is, its line and the names of its symptoms are written by hand, in FAULTS. A line is named by its
text, which must occur once in the script.
"""

import argparse
import json
import math
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
NONFINITE_LOSS = ["nan_loss", "inf_loss"]
NONFINITE = [*NONFINITE_LOSS, "nan_grad", "inf_grad", "nan_weight", "inf_weight"]
GROWTH = ["loss_spike", "divergence", "grad_explosion"]

# pass, op, module: of the first bad operation; text: its line; kinds: symptoms that would be right
FAULTS = {
    "e_sgd_lr_regression": {"cause": ["learning_rate"], "kinds": GROWTH},
    "e_adam_lr_after_warmup": {"cause": ["learning_rate"], "kinds": GROWTH},
    "e_momentum_099": {"cause": ["learning_rate", "optimizer_state"], "kinds": GROWTH},
    "e_relu_init_large": {"cause": ["init", "missing_norm"], "kinds": [*GROWTH, *NONFINITE]},
    "e_residual_no_scale": {"cause": ["residual_scaling", "missing_norm", "init"], "kinds": [*GROWTH, *NONFINITE]},
    "e_rnn_tanh_long": {  # huge gradients at once, and it never learns: no step of the loss to point at
        "cause": ["recurrence", "init"],
        "kinds": ["stalled", *GROWTH],
        "first_bad_step": None,
    },
    "e_gru_recurrent_large": {  # huge gradients at once, and it never learns: no step of the loss to point at
        "cause": ["recurrence", "init"],
        "kinds": ["stalled", *GROWTH],
        "first_bad_step": None,
    },
    "e_bce_by_hand": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "log",
        "module": "",
        "text": "return -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()",
    },
    "e_sqrt_distance": {
        "cause": ["numeric_op"],
        "kinds": ["nan_grad", "inf_grad"],
        "pass": "backward",
        "op": "sqrt",
        "module": "",
        "text": "return torch.sqrt(sq)",
    },
    "e_batch_standardise": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "div",
        "module": "",
        "text": "return (x - mean) / std",
    },
    "e_poisson_exp": {"cause": ["data_outlier", "numeric_op", "learning_rate"], "kinds": [*GROWTH, *NONFINITE]},
    "e_acos_angle": {
        "cause": ["numeric_op"],
        "kinds": ["nan_grad", "inf_grad"],
        "pass": "backward",
        "op": "acos",
        "module": "",
        "text": "return torch.acos(cos)",
    },
    "e_pow_half": {
        "cause": ["numeric_op"],
        "kinds": ["nan_grad", "inf_grad"],
        "pass": "backward",
        "op": "pow",
        "module": "",
        "text": "norms = squares.pow(0.5)",
    },
    "e_masked_row": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "softmax",
        "module": "attn",
        "text": "weights = torch.softmax(scores, dim=-1)",
    },
    "e_count_zero": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "div",
        "module": "",
        "text": "fg = (F.softplus(-logit) * mask).sum() / mask.sum()",
    },
    "e_fp16_overflow": {
        "cause": ["low_precision", "data_outlier"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "mul",
        "module": "",
        "text": "energy = h * h",
    },
    "e_outlier_row": {"cause": ["data_outlier"], "kinds": GROWTH},
    "e_corrupt_label": {"cause": ["data_outlier"], "kinds": GROWTH},
    "e_adam_tiny_eps": {"cause": ["optimizer_state"], "kinds": [*GROWTH, *NONFINITE]},
    "e_no_zero_grad": {"cause": ["accumulation_bug"], "kinds": GROWTH},
    "e_sum_reduction": {"cause": ["learning_rate", "accumulation_bug"], "kinds": GROWTH},
    "e_hand_sgd": {"cause": ["learning_rate"], "kinds": GROWTH},
    "e_csv_hole": {"cause": ["data_outlier", "unnormalised_data"], "kinds": NONFINITE, "pass": "data", "module": ""},
    "e_inf_pow": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "pow",
        "module": "",
        "text": "w = d.pow(-self.power)",
    },
    "e_wgan_unclipped": {"cause": ["learning_rate", "missing_norm"], "kinds": [*GROWTH, *NONFINITE]},
    "e_growing_factor": {"cause": ["loss_scale_bug"], "kinds": [*GROWTH, *NONFINITE]},
    "e_custom_backward": {
        "cause": ["numeric_op"],
        "kinds": ["nan_grad", "inf_grad"],
        "pass": "backward",
        "op": "LogCosh",
        "module": "",
        "text": "return self.b(LogCosh.apply(self.a(x)))",
        "text_too": "return grad * torch.sinh(x) / (torch.cosh(x) - 1) * 1e-2",
    },
    "e_nested_module_log": {
        "cause": ["numeric_op"],
        "kinds": NONFINITE,
        "pass": "forward",
        "op": "log",
        "module": "encoder.stages.late.1.act",
        "text": "return torch.log(x.abs() + self.shift)",
    },
}


def watch(script: str, out: str) -> None:
    """Run `script` as __main__ with a hook on backward and one before every optimizer step; write what they saw."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    seen: list[dict[str, object]] = []
    counts: dict[torch.optim.Optimizer, int] = {}
    has_optimizer = False
    plain = torch.autograd.backward

    def backward(tensors, *args, **kwargs):
        step = max(counts.values(), default=0) if has_optimizer or counts else len(seen)
        roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        frame, where = sys._getframe(), ""
        while frame is not None and not where:
            if frame.f_code.co_filename == script:
                where = f"{frame.f_lineno}"
            frame = frame.f_back
        loss = float(sum(t.detach().double().sum() for t in roots))
        seen.append({"step": step, "loss": loss, "site": where})
        result = plain(tensors, *args, **kwargs)
        seen[-1]["norm"] = norm(torch)
        return result

    def norm(torch):
        known = [p for o in counts for g in o.param_groups for p in g["params"] if p.grad is not None]
        grads = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in known]
        return math.sqrt(sum(float(g.double().square().sum()) for g in grads))

    def before(optimizer, args, kwargs):
        if optimizer not in counts:
            counts[optimizer] = 0
        if seen:
            seen[-1]["norm"] = norm(torch)

    def after(optimizer, args, kwargs):
        counts[optimizer] += 1

    made = torch.optim.Optimizer.__init__

    def init(self, *args, **kwargs):
        nonlocal has_optimizer
        has_optimizer = True
        made(self, *args, **kwargs)

    torch.optim.Optimizer.__init__ = init
    torch.autograd.backward = backward
    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
    sys.argv = [script]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(out).write_text(json.dumps(seen))


def series(script: Path) -> tuple[list[dict], str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.json"
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--watch", str(script), str(out)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(f"{script.name} failed:\n{done.stderr[-3000:]}")
        last = done.stdout.strip().splitlines()[-1]
        if not last.startswith("final_loss="):
            raise SystemExit(f"{script.name}: last line is {last!r}")
        return json.loads(out.read_text()), last, time.perf_counter() - started


def bad(seen: list[dict]) -> dict:
    """The first bad step and what was bad about it."""
    found = []
    for row in seen:
        what = next((w for w in ("loss", "norm") if not math.isfinite(row[w])), None)
        if what:
            found.append((row["step"], f"{'nan' if math.isnan(row[what]) else 'inf'}_{what}", row["step"]))
            break
    for site in {row["site"] for row in seen}:
        losses = [(row["step"], row["loss"]) for row in seen if row["site"] == site]
        best, at, start = math.inf, 0, [abs(v) for _, v in losses[:10]]
        for i, (step, loss) in enumerate(losses):
            following = [abs(v) for _, v in losses[i + 1 : i + 6] if math.isfinite(v)]
            if not following and abs(loss) > 1000 * abs(best):
                following = [math.inf]  # from here straight to nan
            bound = 10 * best if best > 0 else 100 * statistics.median(start)
            size = loss if best > 0 else abs(loss)
            if i and size > bound and following and statistics.median(following) > bound:
                found.append((step, "loss_up", at))
                break
            if loss < best:
                best, at = loss, step
    if not found:
        return {"first_bad_step": None, "measured": None, "onset": None}
    first = min(found)
    return {"first_bad_step": first[0], "measured": first[1], "onset": min(first[2] + 1, first[0])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--watch", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.watch:
        watch(*args.watch)
        return
    labels = {}
    for script in sorted(HERE.glob("[eho]_*.py")):
        name = script.stem
        if args.names and name not in args.names:
            continue
        seen, last, seconds = series(script)
        explodes = name.startswith("e_")
        measured = bad(seen)
        norms = [r["norm"] for r in seen]
        top = norms.index(max(norms, key=lambda v: v if math.isfinite(v) else 0))
        print(
            f"{name:28} {seconds:5.1f}s {seen[-1]['step'] + 1:5} steps {measured}  top norm {norms[top]:.3g}"
            f" at {seen[top]['step']}, median {statistics.median(norms):.3g}  {last}",
            flush=True,
        )
        if args.names:
            for row in seen:
                print("   ", row["step"], row["site"], f"{row['loss']:.6g}", f"{row['norm']:.6g}")
            continue
        if not explodes:  # o_: open, either answer can be defended
            labels[name] = {"explodes": None if name.startswith("o_") else False, "steps": seen[-1]["step"] + 1}
            continue
        fault = dict(FAULTS[name])
        for key in ("text", "text_too"):
            if key in fault:
                lines = [n for n, line in enumerate(script.read_text().splitlines(), 1) if line.strip() == fault[key]]
                if len(lines) != 1:
                    raise SystemExit(f"{name}: {fault[key]!r} is on lines {lines}")
                fault["lines"] = fault.get("lines", []) + lines
                del fault[key]
        labels[name] = {"explodes": True, "steps": seen[-1]["step"] + 1, **measured, **fault}
    if not args.names:
        (HERE / "labels.json").write_text(json.dumps(labels, indent=1) + "\n")


if __name__ == "__main__":
    main()
