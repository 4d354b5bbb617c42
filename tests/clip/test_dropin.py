"""The drop-in functions against torch.nn.utils."""

import inspect
import math
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from gradbelt.clip.dropin import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
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
ORDERS = [0.5, 1, 1.5, 2, 3.5, 4, math.inf, "inf", 0, -0.5, -1, -2, -3.5, -math.inf]
with_total_norm = pytest.mark.skipif(not hasattr(theirs, "get_total_norm"), reason="torch has it since 2.6")


def parameters(shapes, scale=1.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for p in made:
        p.grad = (torch.randn(p.shape, generator=generator, dtype=wide) * scale).to(dtype)
    return made


def twins(*args, **kwargs):
    return parameters(*args, **kwargs), parameters(*args, **kwargs)


def same(ours, other, rel=1e-6):
    for a, b in zip(ours, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=rel, atol=1e-12)


@some.composite
def gradients(draw):
    """What two equal sets of gradients are made from: (shape, dtype, seed, scale, one odd element) of each."""
    shapes = some.lists(some.integers(0, 5), max_size=3).map(tuple)
    odd = some.sampled_from([None, None, None, math.nan, math.inf, -math.inf, 0.0])
    one = some.tuples(shapes, some.sampled_from(DTYPES), some.integers(0, 99), some.sampled_from([1e-3, 1.0, 1e3]), odd)
    return draw(some.lists(one, max_size=4))


def made_of(recipe):
    made = []
    for shape, dtype, seed, scale, odd in recipe:
        made += parameters([shape], scale, dtype, seed)
        if odd is not None and made[-1].numel():
            made[-1].grad.view(-1)[0] = odd
    return made


def what_comes_of(call, recipe, *args, **kwargs):
    """The answer, or that there was none; and the gradients afterwards."""
    mine = made_of(recipe)
    try:
        answer = call(mine, *args, **kwargs)
    except RuntimeError:
        answer = None
    return answer, [p.grad for p in mine]


@given(gradients(), some.sampled_from([0.0, 1e-3, 1.0, 1e6, math.inf]), some.sampled_from(ORDERS), some.booleans(),
       some.sampled_from([None, False, True]))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_whatever_the_gradients_the_same_comes_of_it_as_with_torch(recipe, max_norm, p, complain, foreach):
    """Norm, gradients afterwards, and whether it raises; nan and inf included."""
    assume(p not in (math.inf, "inf") or all(0 not in shape for shape, *_ in recipe))  # torch refuses those
    # torch multiplies a complex inf by (c + 0j), which makes its other half nan where the norm is finite (p below 1)
    assume(not any(dtype.is_complex and odd in (math.inf, -math.inf) for _, dtype, _, _, odd in recipe))
    norm, after = what_comes_of(clip_grad_norm_, recipe, max_norm, p, complain, foreach)
    expected, afterwards = what_comes_of(theirs.clip_grad_norm_, recipe, max_norm, p, complain, foreach)
    rel = 16 * max([torch.finfo(dtype).eps for _, dtype, *_ in recipe], default=0.0)
    assert (norm is None) == (expected is None)
    if norm is not None:
        torch.testing.assert_close(norm, expected, rtol=rel, atol=0, equal_nan=True)
    for grad, other in zip(after, afterwards, strict=True):
        torch.testing.assert_close(grad, other, rtol=rel, atol=1e-6, equal_nan=True)


@given(gradients(), some.sampled_from([0.0, 1e-3, 2.5, math.inf]), some.sampled_from([None, False, True]))
@settings(max_examples=100, deadline=None)
def test_whatever_the_gradients_the_same_is_clamped_as_with_torch(recipe, limit, foreach):
    assume(not any(dtype.is_complex for _, dtype, *_ in recipe))
    _, after = what_comes_of(clip_grad_value_, recipe, limit, foreach)
    _, afterwards = what_comes_of(theirs.clip_grad_value_, recipe, limit, foreach)
    for grad, other in zip(after, afterwards, strict=True):
        torch.testing.assert_close(grad, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("p", [p for p in ORDERS if float(p) >= 0])
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
    for ours in (clip_grad_norm_, clip_grad_value_, get_total_norm, clip_grads_with_norm_):
        other = getattr(theirs, ours.__name__, None)
        if other is None:
            continue  # a torch before 2.6
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
@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.5, 4.0, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_asking_for_an_error_gives_torchs_words_and_leaves_the_gradients(bad, p, strict):
    a = parameters(SHAPES["mixed"])
    a[1].grad[2] = bad
    before = [q.grad.clone() for q in a]
    with pytest.raises(RuntimeError) as expected:
        theirs.clip_grad_norm_(a, 1.0, p, error_if_nonfinite=True)
    with pytest.raises(NonFinite) as raised:
        clip_grad_norm_(a, 1.0, p, error_if_nonfinite=True, strict=strict)
    assert str(raised.value).startswith(str(expected.value))
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


@pytest.mark.parametrize("size", [1e30, 3e38, 1e-30])
@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, math.inf])
def test_finite_gradients_whose_powers_leave_the_range(p, size):
    """Without strict a norm of any order is finite and not 0, and it is the limit afterwards, where torch's is inf."""
    a, b = twins([(4,), (3, 5)], 0.0)
    for q in (*a, *b):
        q.grad.fill_(size)
    norm = clip_grad_norm_(a, 0.5 * size, p, strict=False)
    assert float(norm) == pytest.approx(size * 19 ** (1 / p), rel=1e-6)
    assert float(get_total_norm([q.grad.double() for q in a], p)) == pytest.approx(0.5 * size, rel=1e-5)
    if p == 3.0 and size > 1.0:
        assert theirs.clip_grad_norm_(b, 0.5 * size, p) == math.inf
        assert all(not q.grad.any() for q in b)


@pytest.mark.parametrize("p", [1.0, 3.0])
def test_finite_gradients_are_clipped_to_a_limit_far_below_them(p):
    a, _ = twins([(4,), (3, 5)], 0.0)
    for q in a:
        q.grad.fill_(1e30)
    assert math.isfinite(clip_grad_norm_(a, 1.0, p, strict=False))
    assert float(get_total_norm([q.grad.double() for q in a], p)) == pytest.approx(1.0, rel=1e-5)


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


def test_a_count_and_negative_orders_pass_over_an_inf_as_torch_does():
    """p = 0 counts, and 1 / inf is 0: such a norm is finite, so nothing is raised."""
    for p in (0, -0.5, -2.0):
        a, b = twins(SHAPES["mixed"])
        a[1].grad[2] = b[1].grad[2] = math.inf
        ours = clip_grad_norm_(a, 1e9, p, error_if_nonfinite=True)
        torch.testing.assert_close(ours, theirs.clip_grad_norm_(b, 1e9, p, error_if_nonfinite=True))


@with_total_norm
@pytest.mark.parametrize("p", ORDERS)
def test_total_norms_are_torchs(p):
    tensors = [q.grad for q in parameters(SHAPES["mixed"])]
    torch.testing.assert_close(get_total_norm(tensors, p), theirs.get_total_norm(tensors, p))
    torch.testing.assert_close(get_total_norm(tensors[0], p), theirs.get_total_norm(tensors[0], p))
    torch.testing.assert_close(get_total_norm(tensors, p, strict=False), theirs.get_total_norm(tensors, p))


@with_total_norm
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("max_norm", [0.0, 0.3, 1e6])
@pytest.mark.parametrize("norm", [0.0, 2.0, 50.0, math.inf, math.nan])
def test_scaling_by_a_given_norm_is_torchs(norm, max_norm, foreach):
    a, b = twins(SHAPES["mixed"])
    a[0].grad = b[0].grad = None
    assert clip_grads_with_norm_(a, max_norm, torch.tensor(norm), foreach) is None
    theirs.clip_grads_with_norm_(b, max_norm, torch.tensor(norm), foreach)
    for q, r in zip(a[1:], b[1:], strict=True):
        torch.testing.assert_close(q.grad, r.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 4.0, math.inf])
def test_norm_and_scaling_are_the_two_halves_of_clipping(p, strict):
    a, b = twins(SHAPES["large"])
    clip_grad_norm_(a, 0.5, p, strict=strict)
    norm = get_total_norm([q.grad for q in b], p, strict=strict)
    clip_grads_with_norm_((q for q in b), 0.5, norm, strict=strict)
    for q, r in zip(a, b, strict=True):
        assert torch.equal(q.grad, r.grad)


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_without_strict_a_norm_that_is_none_scales_nothing(norm):
    a, b = twins(SHAPES["mixed"])
    clip_grads_with_norm_(a, 1.0, torch.tensor(norm), strict=False)
    same(a, b)


def test_gradients_in_place_of_parameters_draw_a_warning():
    grads = [p.grad for p in parameters(SHAPES["mixed"])]
    for call, args in [(clip_grad_norm_, (1.0,)), (clip_grads_with_norm_, (1.0, torch.tensor(9.0))),
                       (clip_grad_value_, (1.0,))]:  # fmt: skip
        with pytest.warns(UserWarning, match="none of the 5 tensors has a gradient") as heard:
            call(grads, *args)
        assert heard[0].filename == __file__


def test_parameters_without_gradients_yet_draw_none():
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    moving = torch.nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clip_grad_norm_([*frozen.parameters(), *moving.parameters()], 1.0) == 0.0
        assert clip_grad_norm_([], 1.0) == 0.0


def test_the_uniform_scaling_is_exactly_uniform():
    for strict in (True, False):
        (p,) = parameters([(100,)])
        p.grad.fill_(3.0)
        clip_grad_norm_(p, 1.0, strict=strict)
        assert p.grad.unique().numel() == 1
