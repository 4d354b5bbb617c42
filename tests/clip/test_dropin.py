"""The drop-in functions against torch.nn.utils."""

import inspect
import math
import warnings

import pytest
import torch

from gradbelt.clip.dropin import clip_grad_norm_, clip_grad_value_, get_total_norm
from gradbelt.errors import NonFinite

theirs = torch.nn.utils

SHAPES = {
    "one": [(3,)],
    "scalar": [()],
    "mixed": [(4, 3), (3,), (2, 2, 2), (), (1, 5)],
    "empty_tensor": [(0,), (3,), (2, 0)],
    "large": [(300, 200), (70000,), (17,)],
    "many": [(8,)] * 200,
    "none": [],
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]


def parameters(shapes, scale=1.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for p in made:
        p.grad = (torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
    return made


def twins(*args, **kwargs):
    return parameters(*args, **kwargs), parameters(*args, **kwargs)


def same(ours, other, rel=1e-6):
    for a, b in zip(ours, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=rel, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3.5, math.inf, "inf", 0.5])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_norms_and_clipped_gradients_are_torchs(shapes, p, scale):
    a, b = twins(SHAPES[shapes], scale)
    if shapes == "empty_tensor" and p in (math.inf, "inf"):
        b = parameters([(3,)], scale)  # torch refuses empty tensors here
        a = [*parameters([(0,)], scale), *parameters([(3,)], scale)]
    ours, expected = clip_grad_norm_(a, 1.0, p), theirs.clip_grad_norm_(b, 1.0, p)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
    assert ours.dtype == expected.dtype
    assert ours.shape == ()
    same([q for q in a if q.numel()], [q for q in b if q.numel()], rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_every_dtype_agrees_to_its_own_rounding(dtype, p):
    a, b = twins(SHAPES["mixed"], 3.0, dtype)
    ours, expected = clip_grad_norm_(a, 1.0, p), theirs.clip_grad_norm_(b, 1.0, p)
    rel = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, expected, rtol=rel, atol=0)
    same(a, b, rel)


def test_mixed_dtypes_give_torchs_result_dtype():
    a = parameters([(3,)], dtype=torch.float64) + parameters([(3,)], dtype=torch.bfloat16)
    b = parameters([(3,)], dtype=torch.float64) + parameters([(3,)], dtype=torch.bfloat16)
    ours, expected = clip_grad_norm_(a, 0.5), theirs.clip_grad_norm_(b, 0.5)
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)
    same(a, b, 1e-2)


@pytest.mark.parametrize("max_norm", [0.0, 1e-6, 0.3, 5.0, math.inf])
def test_every_threshold_means_the_same(max_norm):
    a, b = twins(SHAPES["mixed"])
    torch.testing.assert_close(clip_grad_norm_(a, max_norm), theirs.clip_grad_norm_(b, max_norm))
    same(a, b)


def test_torchs_epsilon_shows_in_tiny_gradients():
    a, b = twins(SHAPES["mixed"], 1e-6)
    clip_grad_norm_(a, 1e-6)
    theirs.clip_grad_norm_(b, 1e-6)
    for q, r in zip(a, b, strict=True):
        torch.testing.assert_close(q.grad, r.grad, rtol=1e-5, atol=0)


def test_gradients_within_the_norm_are_not_even_written():
    a = parameters(SHAPES["mixed"])
    before = [(p.grad.clone(), p.grad._version) for p in a]
    clip_grad_norm_(a, 1e3)
    clip_grad_norm_(a, 1e3, strict=False)
    for p, (grad, version) in zip(a, before, strict=True):
        assert torch.equal(p.grad, grad)
        assert p.grad._version == version


def test_the_arguments_have_torchs_names_order_and_defaults():
    for ours, other in [(clip_grad_norm_, theirs.clip_grad_norm_), (clip_grad_value_, theirs.clip_grad_value_)]:
        mine = [(q.name, q.default) for q in inspect.signature(ours).parameters.values() if q.name != "strict"]
        assert mine == [(q.name, q.default) for q in inspect.signature(other).parameters.values()]


def test_a_single_tensor_a_generator_and_missing_gradients():
    a, b = twins(SHAPES["mixed"])
    assert clip_grad_norm_(a[0], 0.1) == pytest.approx(theirs.clip_grad_norm_(b[0], 0.1))
    assert clip_grad_norm_((p for p in a), 0.1) == pytest.approx(theirs.clip_grad_norm_((p for p in b), 0.1))
    a[0].grad = b[0].grad = None
    assert clip_grad_norm_(a, 0.05) == pytest.approx(theirs.clip_grad_norm_(b, 0.05))
    same(a[1:], b[1:])
    assert torch.equal(clip_grad_norm_([], 1.0), torch.tensor(0.0))
    assert torch.equal(get_total_norm([]), torch.tensor(0.0))


def test_an_exhausted_generator_warns_in_torchs_words():
    a = (p for p in ())
    with warnings.catch_warnings(record=True) as mine:
        warnings.simplefilter("always")
        clip_grad_norm_(a, 1.0)
    with warnings.catch_warnings(record=True) as other:
        warnings.simplefilter("always")
        theirs.clip_grad_norm_(a, 1.0)
    assert [str(w.message) for w in mine] == [str(w.message) for w in other]
    assert mine[0].filename == __file__


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_asking_for_an_error_gives_torchs_words_and_leaves_the_gradients(bad, p, strict):
    a = parameters(SHAPES["mixed"])
    a[1].grad[2] = bad
    before = [q.grad.clone() for q in a]
    words = f"The total norm of order {p} for gradients from `parameters` is non-finite"
    with pytest.raises(RuntimeError, match=words):
        theirs.clip_grad_norm_(a, 1.0, p, error_if_nonfinite=True)
    with pytest.raises(NonFinite, match=words) as raised:
        clip_grad_norm_(a, 1.0, p, error_if_nonfinite=True, strict=strict)
    assert f"first number 1 ({'nan' if math.isnan(bad) else 'inf'})" in str(raised.value)
    for q, grad in zip(a, before, strict=True):
        assert torch.equal(q.grad.nan_to_num(7.0), grad.nan_to_num(7.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_poisons_as_in_torch_only_when_strict(bad):
    a, b = twins(SHAPES["mixed"])
    a[1].grad[2] = b[1].grad[2] = bad
    before = [q.grad.clone() for q in a]
    safe = clip_grad_norm_(a, 1.0, strict=False)
    assert not math.isfinite(safe)
    for q, grad in zip(a, before, strict=True):
        assert torch.equal(q.grad.nan_to_num(7.0), grad.nan_to_num(7.0))
    torch.testing.assert_close(clip_grad_norm_(a, 1.0), theirs.clip_grad_norm_(b, 1.0), equal_nan=True)
    for q, r in zip(a, b, strict=True):
        torch.testing.assert_close(q.grad, r.grad, equal_nan=True)


def test_finite_gradients_whose_squares_overflow():
    a, b = twins([(4,)], 0.0)
    for p in (*a, *b):
        p.grad.fill_(2e19)
    assert clip_grad_norm_(a, 1.0, strict=False) == pytest.approx(4e19)
    assert a[0].grad.norm() == pytest.approx(1.0)
    a[0].grad.fill_(2e19)
    assert (
        clip_grad_norm_(a, 1.0) == theirs.clip_grad_norm_(b, 1.0) == math.inf
    )  # strict: torch's meaning, zeros and all
    assert torch.equal(a[0].grad, b[0].grad)


def test_without_strict_the_norm_after_is_the_limit_itself():
    a = parameters([(50,)], dtype=torch.float64)
    clip_grad_norm_(a, 1e-6, strict=False)
    assert float(a[0].grad.norm()) == pytest.approx(1e-6, rel=1e-12)


def test_tied_parameters_count_once():
    (p,) = parameters([(2,)])
    p.grad.copy_(torch.tensor([3.0, 4.0]))
    assert clip_grad_norm_([p, p], 1.0) == pytest.approx(5.0)
    assert p.grad.norm() == pytest.approx(1.0)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_sparse_gradients_are_clipped_like_their_dense_form(p):
    dense, sparse = (torch.nn.Embedding(6, 3, sparse=s) for s in (False, True))
    sparse.load_state_dict(dense.state_dict())
    for e in (dense, sparse):
        (e(torch.tensor([1, 1, 4, 0])) * torch.arange(12.0).view(4, 3)).sum().backward()
    assert clip_grad_norm_(sparse.parameters(), 1.0, p) == pytest.approx(clip_grad_norm_(dense.parameters(), 1.0, p))
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)
    clip_grad_value_(sparse.parameters(), 0.05)
    clip_grad_value_(dense.parameters(), 0.05)
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)


@pytest.mark.parametrize("shapes", [name for name in SHAPES if name != "none"])
def test_clamped_gradients_are_torchs_to_the_bit(shapes):
    a, b = twins(SHAPES[shapes])
    a[0].grad.view(-1)[:1] = b[0].grad.view(-1)[:1] = math.nan
    clip_grad_value_(a, 0.5)
    theirs.clip_grad_value_(b, 0.5)
    for q, r in zip(a, b, strict=True):
        torch.testing.assert_close(q.grad, r.grad, rtol=0, atol=0, equal_nan=True)


def test_clamping_takes_a_single_tensor_a_generator_and_missing_gradients():
    a = parameters(SHAPES["mixed"], 10.0)
    a[2].grad = None
    clip_grad_value_(a[0], 0.5)
    clip_grad_value_((p for p in a), 0.5)
    clip_grad_value_([], 0.5)
    assert all(p.grad.abs().max() <= 0.5 for p in a if p.grad is not None)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_a_threshold_that_would_turn_gradients_round_is_refused(bad):
    for clip in (clip_grad_norm_, clip_grad_value_):
        with pytest.raises(ValueError, match="0 or above"):
            clip(parameters([(2,)]), bad)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, math.inf])
def test_total_norms_are_torchs(p):
    if not hasattr(theirs, "get_total_norm"):
        pytest.skip("this torch has no get_total_norm")
    tensors = [q.grad for q in parameters(SHAPES["mixed"])]
    torch.testing.assert_close(get_total_norm(tensors, p), theirs.get_total_norm(tensors, p))
    torch.testing.assert_close(get_total_norm(tensors[0], p), theirs.get_total_norm(tensors[0], p))
    torch.testing.assert_close(get_total_norm(tensors, p, strict=False), theirs.get_total_norm(tensors, p))


def test_the_uniform_scaling_is_exactly_uniform():
    for strict in (True, False):
        (p,) = parameters([(100,)])
        p.grad.fill_(3.0)
        clip_grad_norm_(p, 1.0, strict=strict)
        assert p.grad.unique().numel() == 1
