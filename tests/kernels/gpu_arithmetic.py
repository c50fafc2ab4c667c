"""Let Triton's interpreter compute as a GPU does, so that every bar holds for a GPU's rounding.

By itself it computes as NumPy does, and cuts float32 numbers where it makes bfloat16 of them. Here:

* bfloat16 is rounded to the nearest, ties to even;
* float32 exponentials and quotients err as NVIDIA documents ``ex2.approx.ftz`` and ``div.full`` to;
* tensor cores add a few exact products to a sum at a time and cut it to float32;
* other float32 products, and ``tl.fma``, are fused multiply-adds;
* the smaller and the larger of a number and NaN is the number, unless a kernel asks for NaN;
* sums and scans join halves with halves.

Errors follow from the bits of what they are the errors of, so that two runs are equal. Results in
float64 are NumPy's. Not modelled: that a compiler may fuse a product with the sum that takes it,
and what tensor cores cut from products before they add them, which is less than the sum's cut.
"""
import dataclasses

import numpy as np
import pytest
import torch

#: Largest error of ``ex2.approx`` and of ``div.full`` in units of the last place, and what of it
#: is left to the rounding of the exact result with its error.
ULPS, ROUNDING = 2.0, 0.5
LOG2_E = np.float32(1.4426950408889634)
#: Products that a tensor core adds at a time, by their factors: of an A100, whose cuts are more
#: than a newer GPU's.
HALF_DEPTH, TF32_DEPTH = 8, 4


def to_bfloat16(numbers):
    """Round float32 numbers to bfloat16, given as its bits."""
    wide = torch.from_numpy(np.array(numbers, np.float32))
    return wide.bfloat16().view(torch.int16).numpy().view(np.uint16)


def from_bfloat16(bits):
    """Return bfloat16 numbers of these bits as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_tf32(numbers):
    """Leave out the 13 bits of a float32 number that tensor cores do not read."""
    return (numbers.view(np.uint32) & np.uint32(0xffffe000)).view(np.float32)


def _scatter(numbers):
    """Draw a number from [-1, 1) for each float32 number, the same for the same bits."""
    bits = numbers.view(np.uint32)
    for _ in range(2):
        bits = (bits ^ bits >> np.uint32(15)) * np.uint32(0x9e3779b1)
    return bits.view(np.int32) * 2.0**-31


def _with_errors(exact, draws):
    """Round float64 numbers to float32, off by ``draws`` of the largest error."""
    nearest = exact.astype(np.float32)
    unit = np.where(np.isfinite(nearest) & (exact != 0), np.spacing(np.abs(nearest)), 0)
    return (exact + draws * (ULPS - ROUNDING) * unit).astype(np.float32)


@np.errstate(all='ignore')
def exp2(x):
    """Return 2**x as ``ex2.approx.ftz`` does; powers of whole numbers are exact."""
    found = _with_errors(np.exp2(x.astype(np.float64)),
                         np.where(x == np.floor(x), 0, _scatter(x)))
    return np.where(found < np.finfo(np.float32).tiny, np.float32(0), found)


@np.errstate(all='ignore')
def exp(x):
    """Return e**x, a power of 2 whose rounded exponent costs large ones some digits."""
    return exp2(x * LOG2_E)


@np.errstate(all='ignore')
def divide(a, b):
    """Return a / b as ``div.full`` does: the divisor errs, unless it is a power of 2."""
    whole = np.frexp(b)[0]
    return _with_errors(a.astype(np.float64) / b,
                        np.where(np.abs(whole) == 0.5, 0, _scatter(whole)))


def cut(numbers):
    """Return float64 numbers as float32, rounded toward zero."""
    return (numbers.view(np.uint64) & np.uint64(0xffffffffe0000000)).view(np.float64).astype(
        np.float32)


@np.errstate(all='ignore')
def tensor_core(a, b, d, depth):
    """Return d + a @ b of float32 blocks, the sum cut after each ``depth`` products."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    for k in range(0, a.shape[-1], depth):
        d = cut(a[..., k:k + depth] @ b[..., k:k + depth, :] + d)
    return d


@np.errstate(all='ignore')
def fused(a, b, c):
    """Return a * b + c, rounded once."""
    return (a.astype(np.float64) * b + c).astype(c.dtype)


def fused_product(a, b, d):
    """Return d + a @ b, one product after the other."""
    for k in range(a.shape[-1]):
        d = fused(a[..., :, k:k + 1], b[..., k:k + 1, :], d)
    return d


def parts(numbers, count, nearest):
    """Split float32 numbers in ``count`` parts that tensor cores take, the largest first."""
    found = []
    for _ in range(count):
        found.append(nearest(numbers))
        numbers = numbers - found[-1]
    return found


def product_of_parts(a, b, d, count, nearest, depth):
    """Return d + a @ b, the smallest products first, and what was summed before last."""
    a, b = parts(a, count, nearest), parts(b, count, nearest)
    total = np.zeros_like(d)
    for order in reversed(range(count)):
        for i in range(order + 1):
            total = tensor_core(a[i], b[order - i], total, depth)
    return total + d


def product(a, b, d, precision):
    """Return d + a @ b of float32 blocks by an ``input_precision`` of Triton."""
    if precision in ('bf16x3', 'bf16x6'):
        return product_of_parts(a, b, d, int(precision[-1]) // 3 + 1,
                                lambda t: from_bfloat16(to_bfloat16(t)), HALF_DEPTH)
    if precision == 'tf32x3':
        return product_of_parts(a, b, d, 2, to_tf32, TF32_DEPTH)
    if precision == 'tf32':
        return tensor_core(to_tf32(a), to_tf32(b), d, TF32_DEPTH)
    if all((t.view(np.uint32) & np.uint32(0xffff) == 0).all() for t in (a, b)):
        # bfloat16, which kernels widen for the interpreter
        return tensor_core(a, b, d, HALF_DEPTH)
    return fused_product(a, b, d)


def install(monkeypatch):
    """Let the interpreter compute so for a test."""
    interpreter = pytest.importorskip('triton.runtime.interpreter')
    language = pytest.importorskip('triton.language')
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    before = {name: getattr(builder, name)
              for name in ('cast_impl', 'create_exp', 'create_exp2', 'create_fdiv', 'create_dot')}

    def replace(name, method):
        monkeypatch.setattr(builder, name, method)

    def cast(self, source, to):
        kinds = source.dtype.scalar, to.scalar
        if kinds == (language.float32, language.bfloat16):
            return handle(to_bfloat16(source.data), to.scalar)
        if kinds == (language.bfloat16, language.float32):
            return handle(from_bfloat16(source.data), to.scalar)
        return before['cast_impl'](self, source, to)

    def of_float32(name, function):
        def compute(self, *operands):
            if operands[0].data.dtype != np.float32:
                return before[name](self, *operands)
            return handle(function(*(t.data for t in operands)), operands[0].dtype.scalar)
        replace(name, compute)

    def dot(self, a, b, d, precision, max_num_imprecise_acc):
        kind = a.dtype.scalar
        if kind == language.float32:
            # the name of an older Triton's precision has capitals
            found = product(a.data, b.data, d.data, str(precision).rpartition('.')[2].lower())
        elif kind in (language.float16, language.bfloat16) and d.data.dtype == np.float32:
            wide = np.asarray if kind == language.float16 else from_bfloat16
            found = tensor_core(wide(a.data), wide(b.data), d.data, HALF_DEPTH)
        else:
            return before['create_dot'](self, a, b, d, precision, max_num_imprecise_acc)
        return handle(found, d.dtype.scalar)

    options = interpreter.interpreter_builder.options
    # a Triton before 3.5 has no bfloat16 parts
    known = {name.lower() for name in dir(interpreter._ir.INPUT_PRECISION)}
    monkeypatch.setattr(interpreter.interpreter_builder, 'options', dataclasses.replace(
        options, allowed_dot_input_precisions=tuple(
            name for name in ('ieee', 'tf32', 'tf32x3', 'bf16x3', 'bf16x6') if name in known)))
    replace('cast_impl', cast)
    of_float32('create_exp', exp)
    of_float32('create_exp2', exp2)
    of_float32('create_fdiv', divide)
    replace('create_minnumf', lambda self, a, b: self.binary_op(a, b, np.fmin))
    replace('create_maxnumf', lambda self, a, b: self.binary_op(a, b, np.fmax))
    replace('create_fma', lambda self, a, b, c: handle(fused(a.data, b.data, c.data),
                                                       c.dtype.scalar))
    replace('create_dot', dot)
    _join_halves(interpreter, monkeypatch)


def _join_halves(interpreter, monkeypatch):
    """Let scans and sums of the interpreter join halves of a tile with halves."""

    def scan(self, tensors):
        types = [t.dtype for t in tensors]
        arrays = [t.handle.data for t in tensors]
        shape = [1] * arrays[0].ndim
        shape[self.axis] = -1
        place = np.arange(arrays[0].shape[self.axis]).reshape(shape)
        reach = 1
        while reach < place.size:
            before = [np.roll(a, reach, self.axis) for a in arrays]
            with np.errstate(all='ignore'):  # what was rolled around the end is dropped
                joined = self.combine_fn.fn(*map(self.to_tensor, before + arrays, types * 2))
            joined = (joined, ) if len(arrays) == 1 else joined
            arrays = [np.where(place < reach, a, t.handle.data) for a, t in zip(arrays, joined)]
            reach *= 2
        return list(map(self.to_tensor, arrays, types))

    def scan_sums(self, tensor):
        numbers, reach = np.moveaxis(tensor.handle.data, self.axis, 0), 1
        while reach < len(numbers):
            numbers = np.concatenate([numbers[:reach], numbers[reach:] + numbers[:-reach]])
            reach *= 2
        return [self.to_tensor(np.moveaxis(numbers, 0, self.axis), tensor.dtype)]

    def add(self, tensor):
        numbers = np.moveaxis(tensor.handle.data, self.axis, 0)
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = numbers[:half] + numbers[half:]
        return self.to_tensor(numbers[0], tensor.dtype)

    monkeypatch.setattr(interpreter.ScanOps, 'generic_scan', scan)
    monkeypatch.setattr(interpreter.ScanOps, 'cumsum', scan_sums)
    monkeypatch.setattr(interpreter.ReduceOps, 'sum', add)
