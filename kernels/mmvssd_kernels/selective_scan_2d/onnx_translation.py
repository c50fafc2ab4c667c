"""The selective scan over a grid as ONNX operators, registered with PyTorch's exporter.

PyTorch would reach the same through :mod:`mmvssd_kernels.selective_scan_2d.export`, in minutes: it
looks at each of its operators several times, with sizes left open. Here they are written down.

Names of axes are those of :mod:`mmvssd_kernels.selective_scan.export`, which explains the method.
Chunks are run twice, since memory costs more than sums do: once from zero for their last states,
then from the states that these give them.
"""
from typing import List, Optional, Sequence

from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.registration import torch_op
from onnxscript.function_libs.torch_lib.tensor_typing import BOOL, TFloat

from mmvssd_kernels.cross_scan import ORDERS
from mmvssd_kernels.selective_scan.export import CHUNK, LEVELS
from mmvssd_kernels.selective_scan_2d.autograd import SEQUENCES


@torch_op('mmvssd_kernels::selective_scan_2d_onnx', trace_only=True)
def selective_scan_2d(x: TFloat, dt: TFloat, dt_weight: TFloat, A: TFloat, B: TFloat, C: TFloat,
                      D: TFloat, dt_bias: TFloat, mask: Optional[BOOL], pattern: str) -> TFloat:
    """Translate the operator, whose arguments are those of ``selective_scan_2d``."""
    width, S, R = x.shape[3], A.shape[1], dt_weight.shape[2]
    # what is narrow is cut before the steps are widened
    narrow = op.Split(op.Concat(dt, B, C, axis=-1), axis=3, num_outputs=4)
    narrow = _chunks([op.Squeeze(t, [3]) for t in narrow], R + 2 * S, pattern)
    dt, B, C = (op.Slice(narrow, [start], [stop], [4])
                for start, stop in ((0, R), (R, R + S), (R + S, R + 2 * S)))
    weight = op.Unsqueeze(op.Transpose(dt_weight, perm=[0, 2, 1]), [1])  # (4, 1, R, D)
    delta = _softplus(op.Add(op.MatMul(dt, weight), op.Reshape(dt_bias, [4, 1, 1, width])))
    if mask is not None:
        mask = op.Unsqueeze(op.CastLike(mask, x), [-1])
        delta = op.Mul(delta, _chunks([mask] * 4, 1, pattern))
    added = op.Mul(delta, _chunks([x] * 4, width, pattern))
    A = op.Reshape(op.Transpose(A, perm=[1, 0]), [S, 4, width])
    A = op.Unsqueeze(op.Transpose(A, perm=[1, 0, 2]), [0, 2, 3])  # (1, 4, 1, 1, S, D)
    if S == 1:
        A = op.Squeeze(A, [4])
    else:
        delta, added, C = (op.Unsqueeze(t, [4]) for t in (delta, added, C))
        B = op.Unsqueeze(B, [5])
    log_decay, added = op.Mul(delta, A), op.Mul(added, B)
    shape = [S, width] if S > 1 else [width]
    h = _states(log_decay, added, shape, LEVELS)
    project = op.Mul if S == 1 else op.MatMul
    y = [project(C_t, h_t) for C_t, h_t in zip(op.Split(C, axis=0, num_outputs=CHUNK), h)]
    y = op.Concat(*y, axis=0)
    if S > 1:
        y = op.Squeeze(y, [4])
    D = op.ReduceSum(op.Reshape(D, [4, width]), [0], keepdims=0)
    return op.Add(_merge(y, x, width, pattern), op.Mul(x, D))


def _softplus(z):
    """Return log(1 + exp(z)); five operators take a fifth of ONNX Runtime's time for Softplus."""
    one, limit = (op.CastLike(op.Constant(value_float=value), z) for value in (1.0, 80.0))
    # far below the limit the result is z already, and exp is far from the largest number
    return op.Max(z, op.Log(op.Add(op.Exp(op.Min(z, limit)), one)))


def _chunks(grids: Sequence, channels: int, pattern: str):
    """Cut the sequences of four grids (N, H, W, channels) into chunks (T, 4, N, c, channels)."""
    forward, same = SEQUENCES[pattern].forward, all(grid is grids[0] for grid in grids)
    sequences = []
    for grid, order in zip(grids[:forward] if same else grids, ORDERS[pattern]):
        tokens = op.Reshape(grid, [0, -1, channels])
        if order.transposed:
            # from the tokens: ONNX Runtime would move a transposition of the grid to where the
            # channels come first, and take 20 times as long for it
            grid = op.Transpose(op.Reshape(tokens, op.Shape(grid)), perm=[0, 2, 1, 3])
            tokens = op.Reshape(grid, [0, -1, channels])
        sequences.append(op.Unsqueeze(tokens, [0]))
    chunks = _cut(op.Concat(*sequences, axis=0) if len(sequences) > 1 else sequences[0], [channels])
    if forward == 4:
        return chunks
    ahead, back = (chunks, chunks) if same else op.Split(chunks, axis=1, num_outputs=2)
    return op.Concat(ahead, _turned(back), axis=1)


def _cut(t, channels: List[int]):
    """Cut (K, N, L, *channels) into chunks (T, K, N, c, *channels), the last filled with zeros."""
    L = op.Shape(t, start=2, end=3)
    # -L modulo T tokens make the last chunk whole
    t = op.Pad(t, op.Concat(_ints(0), op.Mod(op.Neg(L), _ints(CHUNK)), axis=0), None, [2])
    t = op.Reshape(t, op.Concat(op.Shape(t, start=0, end=2), _ints(-1, CHUNK, *channels),
                               axis=0))
    return op.Transpose(t, perm=[3, 0, 1, 2, *range(4, 4 + len(channels))])


def _joined(t, L, channels: List[int]):
    """Join the first L tokens of chunks (T, K, N, c, *channels) again: (K, N, L, *channels)."""
    t = op.Transpose(t, perm=[1, 2, 3, 0, *range(4, 4 + len(channels))])
    t = op.Reshape(t, [0, 0, -1, *channels])
    return op.Slice(t, _ints(0), L, _ints(2))


def _turned(chunks):
    """Turn chunks around, from the last token to the first."""
    return op.Slice(chunks, [-1, -1], [_START, _START], [0, 3], [-1, -1])


#: Where a slice from the end stops: before the first.
_START = -2**63


def _ints(*values: int):
    return op.Constant(value_ints=values)


def _states(log_decay, added, channels: List[int], levels: int) -> list:
    """Return the states of chunks (T, K, N, c, *channels) as a list over T, each of length 1."""
    decay, added = (op.Split(t, axis=0, num_outputs=CHUNK) for t in (op.Exp(log_decay), added))
    last = added[0]
    for decay_t, added_t in zip(decay[1:], added[1:]):
        last = op.Add(op.Mul(decay_t, last), added_t)
    whole = op.ReduceSum(log_decay, [0], keepdims=0)
    state = op.Unsqueeze(_before(whole, op.Squeeze(last, [0]), channels, levels - 1), [0])
    states = []
    for decay_t, added_t in zip(decay, added):
        state = op.Add(op.Mul(decay_t, state), added_t)
        states.append(state)
    return states


def _before(log_decay, added, channels: List[int], levels: int):
    """Return the state before each token of a sequence (K, N, L, *channels)."""
    L = op.Shape(added, start=2, end=3)
    if levels:
        h = _states(_cut(log_decay, channels), _cut(added, channels), channels, levels)
        h = _joined(op.Concat(*h, axis=0), L, channels)
    else:
        h = _through_decays(log_decay, added, L, channels)
    # the first has nothing before it, and the last state is not needed
    return op.Pad(h, [1, -1], None, [2])


def _through_decays(log_decay, added, L, channels: List[int]):
    """Return the states of a sequence (K, N, L, *channels) by a matrix of decays."""
    place = op.Range(op.Constant(value_int=0), op.Squeeze(L, [0]), op.Constant(value_int=1))
    place = op.Reshape(place, [-1, *[1] * len(channels)])
    from_, to = op.Unsqueeze(place, [0]), op.Unsqueeze(place, [1])
    zero = op.CastLike(op.Constant(value_float=0.0), added)
    # each row is a sum of its own, as in decays() of mmvssd_kernels.numerics
    steps = op.Where(op.Greater(to, from_), op.Unsqueeze(log_decay, [3]), zero)
    decay = op.Exp(op.CumSum(steps, 2))  # (K, N, L to, L from, *channels)
    terms = op.Where(op.GreaterOrEqual(to, from_), op.Mul(decay, op.Unsqueeze(added, [2])), zero)
    return op.ReduceSum(terms, [3], keepdims=0)


def _merge(y, x, width: int, pattern: str):
    """Add four sequences in chunks (T, 4, N, c, D) up on the grid of x (N, H, W, D)."""
    if SEQUENCES[pattern].forward < 4:
        ahead, back = op.Split(y, axis=1, num_outputs=2)
        y = op.Add(ahead, _turned(back))
    N, H, W = (op.Shape(x, start=axis, end=axis + 1) for axis in range(3))
    y = _joined(y, op.Mul(H, W), [width])
    if pattern != 'cross':
        return op.Reshape(op.ReduceSum(y, [0], keepdims=0), op.Shape(x))
    rows, columns = (op.Squeeze(t, [0]) for t in op.Split(y, axis=0, num_outputs=2))
    columns = op.Reshape(columns, op.Concat(N, W, H, _ints(width), axis=0))
    return op.Add(op.Reshape(rows, op.Shape(x)), op.Transpose(columns, perm=[0, 2, 1, 3]))
