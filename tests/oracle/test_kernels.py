"""The fast kernels against the slow, obvious ones."""

import math
import types

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradbelt._types import Bound, ClipGroups, Measurement
from gradbelt.belt.apply import apply
from gradbelt.errors import UsageError
from gradbelt.kernels import (
    Moment,
    clamp_,
    clip_units_,
    oracle,
    read,
    read_p,
    rms_of_updates,
    scale_,
    scale_each_,
    total,
    what_is_bad,
)
from gradbelt.kernels.foreach import CHUNK, LARGE, ROW

REAL = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
SHAPES = [(), (0,), (1,), (7,), (3, 0), (3, 5), (2, 3, 4), (2, 3, 2, 2)]
FORMS = ["dense", "transposed", "strided", "expanded", "sparse", "uncoalesced", "csr", "conj"]

fast = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(shape, dtype, form, seed, log10=0.0, plant=None):
    """A gradient of this dtype and form, elements about 10**log10, with `plant` somewhere in it."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    limit = torch.finfo(dtype).max / 4
    x = torch.randn(shape, generator=generator, dtype=wide) * min(10.0**log10, limit / 10)
    if plant is not None and x.numel():
        x.view(-1)[seed % x.numel()] = plant
    x = x.to(dtype)
    if form == "transposed" and x.dim() >= 2:
        return x.transpose(0, -1)
    if form == "strided" and x.dim() >= 1:
        return torch.stack([x, x], dim=-1)[..., 0]
    if form == "expanded":
        return x.unsqueeze(0).expand(2, *x.shape)
    if form == "sparse" and x.dim() >= 1:
        return x.to_sparse()
    if form == "uncoalesced" and x.dim() >= 1 and x.shape[0] > 0 and not dtype.is_complex:
        rows = torch.arange(x.shape[0]) // 2
        # positive, so that adding up duplicates cancels nothing: its rounding is not what is tested
        return torch.sparse_coo_tensor(rows.unsqueeze(0), x.abs(), x.shape)
    if form == "csr" and x.dim() == 2 and x.numel():
        return x.to_sparse_csr()
    if form == "conj" and dtype.is_complex:
        return x.conj()
    return x


@st.composite
def gradients(draw, dtypes=tuple(REAL + COMPLEX), forms=tuple(FORMS), log10=st.floats(-44, 44), bad=False):
    made = []
    for _ in range(draw(st.integers(1, 5))):
        plant = draw(st.sampled_from([None, math.nan, math.inf, -math.inf])) if bad else None
        dtype = draw(st.sampled_from(dtypes))
        form = draw(st.sampled_from(forms))
        made.append(make(draw(st.sampled_from(SHAPES)), dtype, form, draw(st.integers(0, 99)), draw(log10), plant))
    return made


def tolerance(tensors):
    return 1e-12 if all(t.dtype in (torch.float64, torch.complex128) for t in tensors) else 1e-5


@fast
@given(gradients())
def test_a_norm_is_right_for_every_dtype_layout_shape_and_size(grads):
    for got, want, grad in zip(read(grads), oracle.read(grads), grads, strict=True):
        # adding up duplicate half-precision entries rounds; that is the gradient's precision, not the norm's
        loose = grad.layout is torch.sparse_coo and not grad.is_coalesced()
        rel = 2 * torch.finfo(grad.dtype).eps if loose else tolerance([grad])
        assert got == pytest.approx(want, rel=rel, abs=torch.finfo(grad.dtype).tiny if loose else 0.0)


ORDERS = (0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 7.0, math.inf)


@fast
@given(gradients(), st.sampled_from(ORDERS))
def test_a_norm_of_any_order_is_right_for_every_dtype_layout_shape_and_size(grads, p):
    for got, grad in zip(read_p(grads, p), grads, strict=True):
        loose = grad.layout is torch.sparse_coo and not grad.is_coalesced()
        rel = max(1e-9, 4 * torch.finfo(grad.dtype).eps / min(p, 1.0) if loose else 0.0)
        tiny = torch.finfo(grad.dtype).tiny * grad._nnz() ** (1 / p) if loose else 0.0
        assert got == pytest.approx(oracle.norm_p(oracle.magnitudes(grad), p), rel=rel, abs=tiny)


@pytest.mark.parametrize("p", [0.1, 1.0, 3.0, math.inf])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, 3e38), (torch.float32, 1e-45), (torch.float16, 6e4), (torch.bfloat16, 1e38),
     (torch.float64, 1e308), (torch.float64, 5e-324), (torch.complex64, 3e38 + 3e38j),
     (torch.complex128, 1e308 + 1e308j)],
)  # fmt: skip
def test_no_order_makes_a_finite_gradient_infinite_or_a_tiny_one_vanish(dtype, value, p):
    x = torch.full((2**20 + 5,), value, dtype=dtype)
    (got,) = read_p([x], p)
    size = oracle.magnitudes(x[:1])[0]
    want = size * len(x) ** (1 / p) if math.log(size) + math.log(len(x)) / p < 709.78 else np.finfo(float).max
    assert 0.0 < got < math.inf
    assert got == pytest.approx(want, rel=1e-6)


def test_a_norm_of_any_order_tells_what_is_not_finite_and_of_nothing_is_zero():
    assert read_p([torch.tensor([1.0, math.inf]), torch.tensor([math.nan, 1.0])], 1)[0] == math.inf
    assert math.isnan(read_p([torch.tensor([math.nan, 1.0])], 3)[0])
    assert read_p([], 1).shape == (0,)
    assert read_p([torch.zeros(0), torch.zeros(3), torch.zeros(0, 2, dtype=torch.complex64)], 0.5).tolist() == [0] * 3
    with pytest.raises(UsageError, match="float16, bfloat16"):
        read_p([torch.ones(2, dtype=torch.int32)], 1)


@fast
@given(gradients(log10=st.floats(-8, 8)), st.sampled_from(ORDERS), st.floats(-3, 3), st.data())
def test_groups_are_clipped_to_their_p_norms_as_the_oracle_does(grads, p, log10, data):
    of = data.draw(st.lists(st.integers(-1, 2), min_size=len(grads), max_size=len(grads)))
    groups = [where for group in range(3) if (where := tuple(i for i, mine in enumerate(of) if mine == group))]
    grads = [g.clone() for g in grads]  # an expanded one can't be written
    limit = 10.0**log10
    wanted = oracle.clipped_by_group(grads, groups, limit, p)
    before = [(g.clone(), g._version) for g in grads]
    params = [types.SimpleNamespace(grad=g) for g in grads]
    apply(ClipGroups(tuple(Bound(limit, p, where) for where in groups)), params, seen_of(grads))
    # entries of a sparse half gradient are added up in half precision, and the group's norm is no better than that
    eps = max((torch.finfo(g.dtype).eps for g in grads), default=0.0)
    for g, want, (was, version) in zip(grads, wanted, before, strict=True):
        tiny = torch.finfo(g.dtype).smallest_normal
        assert oracle.numbers(g) == pytest.approx(want, rel=16 * eps / min(p, 1.0), abs=4 * tiny)
        kept = want == oracle.numbers(was) and any(want)  # zeros don't show whether their group was scaled
        assert not kept or g._version == version, "within its limit nothing is written"


def seen_of(grads):
    norms = read(grads)
    names = tuple(f"p{index}" for index in range(len(grads)))
    return Measurement(call=0, step=0, optimizer=0, names=names, norm=norms, total=total(norms))


@fast
@given(
    gradients(dtypes=(torch.bfloat16, torch.float32, torch.float64, torch.complex64), log10=st.floats(-6, 6),
              forms=("dense", "transposed", "strided")),
    st.floats(-2, 2), st.booleans(), st.sampled_from([0.9, 0.999]), st.integers(1, 2000),
    st.sampled_from([1.0, 1024.0]),
)  # fmt: skip
def test_the_rms_of_an_update_is_the_oracles(grads, log10, amsgrad, beta2, step, scale):
    def some(seed):
        made = [make(g.shape, g.dtype, "dense", seed + i, log10) for i, g in enumerate(grads)]
        return [torch.view_as_complex(torch.view_as_real(x) ** 2) if x.is_complex() else x**2 for x in made]

    squares, mosts = some(0), some(50)
    moments = [
        Moment(gradient=g, square=None if step == 1 else square, most=most if amsgrad else None, weight=g, decay=0.0,
               beta2=beta2, eps=1e-8, step=step)
        for g, square, most in zip(grads, squares, mosts, strict=True)
    ]  # fmt: skip
    before = [oracle.numbers(t) for t in (*grads, *squares, *mosts)]
    for got, g, square, most in zip(rms_of_updates(moments, scale), grads, squares, mosts, strict=True):
        known = [0.0 if step == 1 else x for x in oracle.numbers(square)]
        highest = [x if amsgrad else 0.0 for x in oracle.numbers(most)]
        want = oracle.rms_of_update([x / scale for x in oracle.numbers(g)], known, highest, beta2, 1e-8, step)
        assert got == pytest.approx(want, rel=1e-4, abs=1e-12)
    assert before == [oracle.numbers(t) for t in (*grads, *squares, *mosts)], "nothing that is read is changed"


def test_many_updates_are_worked_out_in_batches_that_no_answer_shows(monkeypatch):
    grads = [torch.randn(7, generator=torch.Generator().manual_seed(i)) for i in range(9)]
    moments = [Moment(gradient=g, square=g.roll(1) ** 2, most=None, weight=g, decay=0.1 * (i % 2), beta2=0.99, eps=1e-8,
                      step=2 + i % 3) for i, g in enumerate(grads)]  # fmt: skip
    whole = rms_of_updates(moments)
    monkeypatch.setattr("gradbelt.kernels.moments.BATCH", 10)
    assert rms_of_updates(moments).tolist() == whole.tolist() == [float(rms_of_updates([m])[0]) for m in moments]


@fast
@given(gradients(bad=True, forms=("dense", "transposed", "sparse", "csr"), log10=st.floats(-3, 3)))
def test_one_bad_element_anywhere_shows_in_its_gradients_norm_and_no_other(grads):
    norms = read(grads)
    assert what_is_bad(grads, norms) == oracle.what_is_bad(grads)
    for got, want in zip(norms, oracle.read(grads), strict=True):
        assert got == pytest.approx(want, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("size", [3, LARGE - 1, LARGE, LARGE + 1, 5 * ROW, CHUNK + ROW + 1])
def test_a_large_tensor_is_as_right_as_a_small_one(dtype, size):
    x = torch.full((size,), 0.1, dtype=dtype)
    assert read([x])[0] == pytest.approx(float(x[0]) * math.sqrt(size), rel=1e-5)
    folded = x[: size - size % 2].view(2, -1).t()
    assert read([folded])[0] == pytest.approx(float(x[0]) * math.sqrt(folded.numel()), rel=1e-5)


def test_ten_million_equal_numbers_do_not_drown_in_float32():
    x = torch.full((10_000_000,), 0.1)
    assert read([x])[0] == pytest.approx(float(x[0]) * math.sqrt(len(x)), rel=1e-5)


@pytest.mark.parametrize("size", [4, LARGE + 7])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, 2e19), (torch.float32, 1e38), (torch.float32, 1e-25), (torch.float32, 1e-44),
     (torch.float16, 300.0), (torch.float16, 6e4), (torch.float16, 6e-8), (torch.bfloat16, 1e38),
     (torch.float64, 2e200), (torch.float64, 1e-200), (torch.float64, 5e-324)],
)  # fmt: skip
def test_a_finite_gradient_never_has_an_infinite_norm_nor_a_tiny_one_none(dtype, value, size):
    x = torch.full((size,), value, dtype=dtype)
    want = float(x[0].double()) * math.sqrt(size)
    assert read([x])[0] == pytest.approx(want, rel=1e-5, abs=0)
    assert total(read([x, x])) == pytest.approx(want * math.sqrt(2), rel=1e-5, abs=0)


@fast
@given(gradients(bad=True))
def test_reading_changes_nothing(grads):
    before = [oracle.numbers(g) for g in grads]
    what_is_bad(grads, read(grads))
    for g in grads:
        read([g])
    assert all(np.array_equal(oracle.numbers(g), b, equal_nan=True) for g, b in zip(grads, before, strict=True))


def test_nothing_and_nothing_but_zeros():
    assert read([]).shape == (0,)
    assert read([torch.zeros(3), torch.zeros(0), torch.zeros(0, dtype=torch.complex64)]).tolist() == [0.0, 0.0, 0.0]
    assert total(read([])) == total(read([torch.zeros(3)])) == 0.0
    assert what_is_bad([], read([])) == {}
    scale_([], 0.5)
    clamp_([], 0.5)


@fast
@given(st.lists(st.floats(0, 1.7e308), max_size=8), st.randoms())
def test_the_total_is_the_oracles_and_no_order_changes_a_bit_of_it(norms, random):
    shuffled = list(norms)
    random.shuffle(shuffled)
    assert total(np.array(norms)) == total(np.array(shuffled))
    want = oracle.total(np.array(norms))
    assert total(np.array(norms)) == pytest.approx(min(want, np.finfo(float).max), rel=1e-14)


def test_the_total_reports_nan_before_inf_and_never_makes_one():
    assert math.isnan(total(np.array([1.0, math.inf, math.nan])))
    assert total(np.array([1.0, math.inf])) == math.inf
    assert total(np.array([1.7e308, 1.7e308])) == np.finfo(float).max


@fast
@given(gradients(dtypes=(torch.float32, torch.float64), log10=st.floats(-8, 8)), st.floats(1e-6, 1e6))
def test_scaling_all_gradients_scales_every_norm(grads, factor):
    assert read([g * factor for g in grads]) == pytest.approx(read(grads) * factor, rel=1e-5)


@fast
@given(gradients(log10=st.floats(-8, 8)), st.randoms())
def test_the_order_of_parameters_does_not_matter(grads, random):
    order = list(range(len(grads)))
    random.shuffle(order)
    norms = read(grads)
    again = read([grads[i] for i in order])
    assert again.tolist() == [norms[i] for i in order]
    assert total(again) == total(norms)


@fast
@given(st.integers(1, 3 * LARGE), st.integers(1, 9), st.floats(-30, 30))
def test_shards_add_up_to_the_whole(size, num_shards, log10):
    x = make((size,), torch.float32, "dense", size % 97, log10)
    assert total(read(list(x.chunk(num_shards)))) == pytest.approx(read([x])[0], rel=1e-5)


@fast
@given(gradients(forms=("dense", "transposed", "sparse", "uncoalesced", "csr", "conj"), log10=st.floats(-3, 3)),
       st.floats(0.01, 1.0))  # fmt: skip
def test_scale_multiplies_in_place(grads, factor):
    want = [oracle.scaled(g, factor) for g in grads]
    scale_(grads, factor)
    for got, expected, grad in zip(grads, want, grads, strict=True):
        info = torch.finfo(grad.dtype)
        assert oracle.numbers(got) == pytest.approx(expected, rel=4 * info.eps, abs=8 * info.smallest_normal + info.eps)


def test_scale_by_one_writes_nothing():
    x = torch.randn(5)
    before, version = x.clone(), x._version
    scale_([x], 1.0)
    assert torch.equal(x, before)
    assert x._version == version


def test_a_factor_too_small_for_float32_still_scales():
    x = torch.full((3,), 3e38)
    scale_([x], 1e-43)
    assert x.tolist() == pytest.approx([3e-5] * 3, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [scale_, lambda tensors, factor: scale_each_(tensors, [factor] * len(tensors))])
def test_a_factor_too_small_for_half_precision_still_scales(dtype, scale):
    x = [torch.full((size,), 6e4, dtype=dtype) for size in (3, 40)]
    scale(x, 2e-8)
    for each in x:
        assert each.tolist() == pytest.approx([1.2e-3] * len(each), rel=torch.finfo(dtype).eps)


@fast
@given(
    gradients(dtypes=REAL, forms=("dense", "transposed", "sparse", "uncoalesced", "csr"), log10=st.floats(-3, 3)),
    st.floats(0.01, 10.0),
)
def test_clamp_holds_every_element_in_place(grads, limit):
    want = [oracle.clamped(g, limit) for g in grads]
    clamp_(grads, limit)
    for got, expected in zip(grads, want, strict=True):
        assert oracle.numbers(got) == pytest.approx(expected, rel=2 * torch.finfo(got.dtype).eps, abs=1e-6)


def test_what_cannot_be_honoured_says_what_can():
    with pytest.raises(UsageError, match=r"clip\.Norm"):
        clamp_([torch.ones(2), torch.ones(2, dtype=torch.complex64)], 1.0)
    for bad in (-0.5, math.nan, math.inf):
        with pytest.raises(UsageError, match="finite number"):
            scale_([torch.ones(2)], bad)
    for bad in (-0.5, math.nan):
        with pytest.raises(UsageError, match="limit"):
            clamp_([torch.ones(2)], bad)
    with pytest.raises(UsageError, match="float16, bfloat16"):
        read([torch.ones(2, dtype=torch.int32)])


def test_a_refused_clamp_leaves_every_gradient_as_it_was():
    x = torch.full((2,), 9.0)
    with pytest.raises(UsageError):
        clamp_([x, torch.ones(2, dtype=torch.complex64)], 1.0)
    assert x.tolist() == [9.0, 9.0]


def test_gradients_that_carry_a_graph_can_be_read_and_scaled():
    w = torch.ones(3, requires_grad=True)
    (g,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
    assert read([g])[0] == pytest.approx(3 * math.sqrt(3))
    scale_([g], 0.5)
    assert g.tolist() == [1.5, 1.5, 1.5]


# ----------------------------------------------------------------------------------------------- one by one, row by row


@fast
@given(gradients(forms=("dense", "transposed", "strided", "sparse", "csr"), log10=st.floats(-3, 3)), st.data())
def test_each_gradient_is_scaled_by_its_own_factor(grads, data):
    factors = data.draw(st.lists(st.sampled_from([1.0, 0.5, 0.1, 1e-3]), min_size=len(grads), max_size=len(grads)))
    wanted = [oracle.scaled(g, factor) for g, factor in zip(grads, factors, strict=True)]
    versions = [g._version for g in grads]
    scale_each_(grads, factors)
    for g, want, factor, version in zip(grads, wanted, factors, versions, strict=True):
        assert oracle.numbers(g) == pytest.approx(want, rel=2 * torch.finfo(g.dtype).eps, abs=1e-7)
        assert factor != 1.0 or g._version == version, "1.0 writes nothing"


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_wrong_factor_changes_no_gradient(wrong):
    grads = [torch.ones(2), torch.ones(2)]
    with pytest.raises(UsageError):
        scale_each_(grads, [0.5, wrong])
    assert all(torch.equal(g, torch.ones(2)) for g in grads)


def test_a_factor_below_float32_still_scales():
    grads = [torch.full((2,), 1e38), torch.full((2,), 1.0)]
    scale_each_(grads, [1e-40, 1e-40])
    assert grads[0].tolist() == pytest.approx([1e-2] * 2, rel=1e-4)


@fast
@given(gradients(forms=("dense", "transposed", "strided", "conj"), log10=st.floats(-3, 3)), st.floats(-2, 2))
def test_units_are_clipped_as_the_oracle_does(grads, log10):
    weights = [make(g.shape, g.dtype, "dense", i) for i, g in enumerate(grads)]
    weights[0] = torch.zeros_like(weights[0])
    wanted = [oracle.clipped_by_unit(w, g, 10.0**log10, 0.1) for w, g in zip(weights, grads, strict=True)]
    before = [(g.clone(), g._version) for g in grads]
    acted = clip_units_(weights, grads, 10.0**log10, 0.1)
    for g, want, (was, version) in zip(grads, wanted, before, strict=True):
        assert oracle.numbers(g) == pytest.approx(want, rel=4 * torch.finfo(g.dtype).eps, abs=1e-6)
        assert not torch.equal(g, was) or g._version == version, "what is within its limits is not written"
    assert acted == any(g._version != version for g, (_, version) in zip(grads, before, strict=True))


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, 1e30), (torch.float64, 1e200), (torch.float16, 6e4)])
def test_units_whose_squares_overflow_are_scaled_and_not_emptied(dtype, value):
    gradient, weight = torch.full((2, 4), value, dtype=dtype), torch.ones((2, 4), dtype=dtype)
    assert clip_units_([weight], [gradient], 0.01, 1e-3)
    assert gradient.double().norm(dim=1).tolist() == pytest.approx([0.02] * 2, rel=1e-2)


def test_a_sparse_gradient_has_no_units_and_says_what_works():
    gradient = torch.eye(3).to_sparse()
    with pytest.raises(UsageError, match=r"clip\.Each"):
        clip_units_([torch.ones(3), torch.ones(3, 3)], [torch.ones(3), gradient], 0.01, 1e-3)


def test_half_precision_units_are_measured_in_float64():
    gradient, weight = torch.full((1, 100_000), 1e-3, dtype=torch.bfloat16), torch.ones(1, 100_000)
    want = oracle.clipped_by_unit(weight.double(), gradient, 1e-4, 1e-3)
    clip_units_([weight], [gradient], 1e-4, 1e-3)
    assert gradient[0, 0].item() == pytest.approx(want[0], rel=2**-7)
