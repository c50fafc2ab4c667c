"""Vectors of a CPU in Numba: their type, their arithmetic, and the functions that scans need.

A vector is 64 bytes: 16 numbers in float32, 8 in float64. The compiler splits it if the CPU's own
are narrower. A variable that holds one stays in a register, which a loop over an array's elements
does not promise. Memory is addressed by integers, in bytes.

Only what compiles kernels imports this module: importing Numba takes a fifth of a second.
"""
import math
import operator
from types import SimpleNamespace
from typing import NamedTuple, Sequence

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

#: Bytes of a vector.
BYTES = 64
#: Bytes of one number of the dtypes that inputs may have.
SOURCES = {'float32': 4, 'float64': 8, 'bfloat16': 2, 'float16': 2}
LOG2E = 1.4426950408889634


class Exp(NamedTuple):
    """How exp is computed: exp(x) = 2**k p(x - k log(2)), with an integer k.

    Attributes:
        least: Below, the result is 0. It gives the least k whose power of 2 the bits can hold.
        most: Beyond, it is infinite.
        high: The first part of log(2). Its product with k is exact.
        low: The rest of log(2).
        mantissa: Bits behind the exponent.
        polynomial: p on [-log(2) / 2, log(2) / 2].
    """

    least: float
    most: float
    high: float
    low: float
    mantissa: int
    polynomial: Sequence[float]


# in float32 the least largest relative error on the range, fitted by reweighted least squares; in
# float64 Taylor's series
EXP = {
    32: Exp(-87.5, 89., 0.693359375, -2.12194440054690583e-4, 23,
            (1.0, 1.0, 0.49999991059303284, 0.16666419804096222, 0.041668228805065155,
             0.008374846540391445, 0.001383680384606123)),
    64: Exp(-708.7, 710., 6.93145751953125e-1, 1.42860682030941723212e-6, 52,
            [1 / math.factorial(i) for i in range(14)]),
}
#: log(1 + x) / x on [0, 1], fitted likewise.
LOG1P = (1.0, -0.4999998211860657, 0.33332559466362, -0.24987269937992096, 0.19890746474266052,
         -0.16105683147907257, 0.12418416887521744, -0.08244146406650543, 0.04147797450423241,
         -0.013407407328486443, 0.002030215924605727)
#: atanh(s) / s by powers of s * s, for s up to 1/3.
ATANH = [1 / (2 * i + 1) for i in range(16)]


class Vector(types.Type):
    """The type of a vector of numbers."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = BYTES * 8 // dtype.bitwidth
        super().__init__(name=f'Vector({dtype})')

    @property
    def scalar(self) -> ir.Type:
        """The number's type in LLVM."""
        return {32: ir.FloatType, 64: ir.DoubleType}[self.dtype.bitwidth]()

    @property
    def llvm(self) -> ir.VectorType:
        """The vector's type in LLVM."""
        return ir.VectorType(self.scalar, self.lanes)

    @property
    def integers(self) -> ir.VectorType:
        """The type of as many integers of the same width."""
        return ir.VectorType(ir.IntType(self.dtype.bitwidth), self.lanes)

    def constant(self, number: float) -> ir.Constant:
        """Return a vector of one number."""
        return ir.Constant(self.llvm, [ir.Constant(self.scalar, number)] * self.lanes)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


def _call(builder, name: str, result: ir.Type, *args):
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(function, args)


def _suffix(kind: Vector) -> str:
    return f'v{kind.lanes}f{kind.dtype.bitwidth}'


def _fma(builder, kind: Vector, a, b, c):
    return _call(builder, f'llvm.fma.{_suffix(kind)}', kind.llvm, a, b, c)


def _splat(builder, kind: Vector, scalar):
    one = builder.insert_element(ir.Constant(kind.llvm, ir.Undefined), scalar,
                                 ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), None)
    return builder.shuffle_vector(one, ir.Constant(kind.llvm, ir.Undefined), zeros)


def _polynomial(builder, kind: Vector, x, coefficients):
    """Evaluate a polynomial by Horner's rule, the constant term first."""
    *rest, total = map(kind.constant, coefficients)
    for coefficient in reversed(rest):
        total = _fma(builder, kind, total, x, coefficient)
    return total


def _limit(builder, order: str, kind: Vector, x, bound: float):
    """Replace what lies beyond a bound by it; NaN stays."""
    bound = kind.constant(bound)
    return builder.select(builder.fcmp_ordered(order, x, bound), bound, x)


def _integers(kind: Vector, number: int) -> ir.Constant:
    integer = kind.integers.element
    return ir.Constant(kind.integers, [ir.Constant(integer, number)] * kind.lanes)


def _exp(builder, kind: Vector, x):
    """exp to 2 units of the last place; 0 below 1.8e-38, in float64 below 3.1e-308."""
    how = EXP[kind.dtype.bitwidth]
    # this number has no bits behind the point: what is added to it becomes an integer
    integer = kind.constant(1.5 * 2**how.mantissa)
    x = _limit(builder, '<', kind, x, how.least)
    x = _limit(builder, '>', kind, x, how.most)
    shifted = _fma(builder, kind, x, kind.constant(LOG2E), integer)
    power = builder.fsub(shifted, integer)
    rest = _fma(builder, kind, power, kind.constant(-how.high), x)
    rest = _fma(builder, kind, power, kind.constant(-how.low), rest)
    # times 2, and 2**(power - 1), made from its bits: the largest power has no number itself
    value = _polynomial(builder, kind, rest, [2 * coefficient for coefficient in how.polynomial])
    bits = builder.shl(builder.bitcast(shifted, kind.integers), _integers(kind, how.mantissa))
    bias = 2 ** (kind.dtype.bitwidth - how.mantissa - 2) - 2
    scale = builder.bitcast(builder.add(bits, _integers(kind, bias << how.mantissa)), kind.llvm)
    return builder.fmul(value, scale)


def _log1p(builder, kind: Vector, x):
    """log(1 + x) for x from 0 to 1."""
    if kind.dtype.bitwidth == 32:
        return builder.fmul(x, _polynomial(builder, kind, x, LOG1P))
    s = builder.fdiv(x, builder.fadd(x, kind.constant(2.)))
    return builder.fmul(builder.fadd(s, s),
                        _polynomial(builder, kind, builder.fmul(s, s), ATANH))


def _reader(kind: Vector, source: str, lanes: int):
    """Make a function that loads numbers of the dtype ``source``: a vector, or one if not lanes."""
    integer, size = ir.IntType(SOURCES[source] * 8), SOURCES[source]

    def wide(scalar):
        return scalar if lanes == 1 else ir.VectorType(scalar, lanes)

    def convert(builder, bits):
        if source == 'bfloat16':  # the upper half of a float32 number
            bits = builder.zext(bits, wide(ir.IntType(32)))
            shift = ir.Constant(ir.IntType(32), 16)
            bits = builder.shl(bits, shift if lanes == 1 else ir.Constant(bits.type,
                                                                          [shift] * lanes))
        own = {'float16': ir.HalfType, 'float64': ir.DoubleType}.get(source, ir.FloatType)()
        number = builder.bitcast(bits, wide(own))
        if own == kind.scalar:
            return number
        change = builder.fptrunc if source == 'float64' else builder.fpext
        return change(number, wide(kind.scalar))

    @intrinsic
    def read(context, address):
        def generate(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], wide(integer).as_pointer())
            return convert(builder, builder.load(pointer, align=size))

        return (kind.dtype if lanes == 1 else kind)(types.int64), generate

    return read


def _totals(builder, kind: Vector, address):
    """Add up each of as many vectors in memory as one has lanes: a vector of their sums."""
    vectors = []
    for i in range(kind.lanes):
        place = builder.add(address, ir.Constant(ir.IntType(64), i * BYTES))
        pointer = builder.inttoptr(place, kind.llvm.as_pointer())
        vectors.append(builder.load(pointer, align=kind.dtype.bitwidth // 8))
    # two vectors with ``part`` numbers to add for each of their sums become one with half of that
    part = kind.lanes
    while part > 1:
        part //= 2
        lanes = range(2 * kind.lanes)
        low, high = (_mask([lane for lane in lanes if bool(lane & part) == odd])
                     for odd in (False, True))
        vectors = [builder.fadd(builder.shuffle_vector(a, b, low),
                                builder.shuffle_vector(a, b, high))
                   for a, b in zip(vectors[::2], vectors[1::2])]
    return vectors[0]


def _mask(lanes) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))


@intrinsic
def count_up(context, address):
    """Return the integer at an address, and add one to it, safe among threads.

    What a thread wrote before it counted, those see that count after it.
    """
    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw('add', pointer, ir.Constant(ir.IntType(64), 1), 'acq_rel')

    return types.int64(types.int64), generate


@intrinsic
def byte(context, address):
    """Return the byte at an address."""
    def generate(context, builder, signature, args):
        value = builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return builder.zext(value, ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def integer(context, address):
    """Return the 64-bit integer at an address."""
    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def put_integer(context, address, value):
    """Write a 64-bit integer to an address."""
    def generate(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _overload_operators() -> None:
    """Give vectors +, -, * and / with vectors."""
    for symbol, name in ((operator.add, 'fadd'), (operator.sub, 'fsub'), (operator.mul, 'fmul'),
                         (operator.truediv, 'fdiv')):
        _overload_operator(symbol, _elementwise(name))


def _elementwise(name: str):
    @intrinsic
    def compute(context, a, b):
        def generate(context, builder, signature, args):
            return getattr(builder, name)(*args)

        return a(a, b), generate

    return compute


def _overload_operator(symbol, compute) -> None:
    @overload(symbol)
    def choose(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: compute(a, b)
        return None


_overload_operators()


def functions(dtype: types.Float) -> SimpleNamespace:
    """Return the functions of vectors of ``dtype`` that kernels call.

    Returns:
        ``load(address)``, ``store(address, v)``, ``splat(number)``, ``number(address)``, which
        loads one number, and ``put(address, number)``; ``load_float16`` and so on, which widen
        what they load from another dtype; ``zero()``, ``fma(a, b, c)`` = a b + c,
        ``exp(v)``, ``log1p(v)`` for v from 0 to 1, ``negative_abs(v)``, ``positive(v)`` =
        max(v, 0), ``where_negative(v, a, b)``; ``totals(address)``, the sum of each of as many
        vectors as one has lanes; and the numbers ``lanes`` and ``size``, bytes of one.
    """
    kind = Vector(dtype)
    def of_vectors(count: int, generate):
        """Make a function of vectors that returns one."""

        def build(context, builder, signature, args):
            return generate(builder, kind, *args)

        if count == 1:
            @intrinsic
            def compute(context, a):
                return kind(a), build
        elif count == 2:
            @intrinsic
            def compute(context, a, b):
                return kind(a, b), build
        else:
            @intrinsic
            def compute(context, a, b, c):
                return kind(a, b, c), build
        return compute

    @intrinsic
    def store(context, address, v):
        def generate(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], kind.llvm.as_pointer())
            builder.store(args[1], pointer, align=kind.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, kind), generate

    @intrinsic
    def put(context, address, value):
        def generate(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], kind.scalar.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64, kind.dtype), generate

    @intrinsic
    def splat(context, value):
        def generate(context, builder, signature, args):
            return _splat(builder, kind, args[0])

        return kind(kind.dtype), generate

    @intrinsic
    def zero(context):
        return kind(), lambda context, builder, signature, args: kind.constant(0.)

    @intrinsic
    def totals(context, address):
        def generate(context, builder, signature, args):
            return _totals(builder, kind, args[0])

        return kind(types.int64), generate

    own = f'float{dtype.bitwidth}'

    def positive(builder, kind, v):
        return _limit(builder, '<', kind, v, 0.)

    def negative_abs(builder, kind, v):
        return builder.fneg(_call(builder, f'llvm.fabs.{_suffix(kind)}', kind.llvm, v))

    def where_negative(builder, kind, v, a, b):
        return builder.select(builder.fcmp_ordered('<', v, kind.constant(0.)), a, b)

    return SimpleNamespace(
        load=_reader(kind, own, kind.lanes), number=_reader(kind, own, 1), store=store, put=put,
        splat=splat, zero=zero, totals=totals,
        fma=of_vectors(3, _fma), exp=of_vectors(1, _exp), log1p=of_vectors(1, _log1p),
        positive=of_vectors(1, positive), negative_abs=of_vectors(1, negative_abs),
        where_negative=of_vectors(3, where_negative), lanes=kind.lanes,
        size=dtype.bitwidth // 8,
        **{f'load_{source}': _reader(kind, source, kind.lanes) for source in SOURCES},
        **{f'number_{source}': _reader(kind, source, 1) for source in SOURCES})
