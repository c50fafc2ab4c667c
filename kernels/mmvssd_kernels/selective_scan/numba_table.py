"""What the kernels for a CPU are told: one record of addresses, distances and sizes, in bytes.

Nothing here imports Numba.
"""
import numpy as np

#: Codes of dtypes.
FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = range(4)


def _record(*names: str) -> np.dtype:
    return np.dtype([(name, 'i8') for name in names])


#: Where the rows of a tensor lie, one for each token and sequence. What the sequences of a group
#: add up has a group in the place of the sequence. Gradients to which all blocks of channels add
#: have one tensor for each block.
ROWS = _record('address', 'dtype', 'image', 'row', 'column', 'sequence', 'channel', 'block')

#: Tensors with rows.
WITH_ROWS = ('x', 'dt', 'B', 'C', 'mask', 'y', 'dy', 'dx', 'ddt', 'dB', 'dC')
#: Contiguous tensors of the dtype of the sums, channels in whole vectors: weight (K, R, width),
#: weight_back (K, width, ranks), bias and skip (K, width), A (K, S, width); their gradients, with
#: an axis of parts before these; states before segments, see
#: :func:`~mmvssd_kernels.selective_scan.numba_plan.states_shape`.
CONTIGUOUS = ('weight', 'weight_back', 'bias', 'skip', 'A', 'dweight', 'dbias', 'dskip', 'dA',
              'states')
#: Sizes and switches. ``channels`` are a sequence's, ``width`` and ``ranks`` are padded to whole
#: vectors; R is 0 if step sizes are given whole. A ``tile`` counts tokens, a ``segment`` tiles, a
#: ``block`` vectors of channels. ``images`` are those of a part, which share sums.
SIZES = ('N', 'images', 'H', 'W', 'K', 'S', 'R', 'channels', 'width', 'ranks', 'tile', 'segment',
         'block', 'blocks', 'groups', 'softplus', 'units')
#: A thread's own memory: rows that are copied, addresses of rows, numbers of a tile's tokens, or of
#: a block's channels. Kernels clear from ``zeros`` to ``x_rows``, from ``dz`` to ``state`` and
#: from ``dt_sums`` to ``totals``: keep the order.
SCRATCH = ('zeros', 'x_rows', 'dy_rows', 'dt_rows', 'B_rows', 'C_rows', 'y_rows', 'ddt_rows',
           'x_at', 'dy_at', 'dt_at', 'B_at', 'C_at', 'y_at', 'dx_at', 'ddt_at', 'dB_at', 'dC_at',
           'valid', 'delta', 'slope', 'dz', 'h', 'decay', 'state', 'dstate', 'local', 'carried',
           'starts', 'dA_tile', 'dt_sums', 'B_sums', 'C_sums', 'totals')

ARGUMENTS = np.dtype([*((name, ROWS) for name in WITH_ROWS),
                      *((name, 'i8') for name in (*CONTIGUOUS, *SIZES)),
                      ('scratch', _record(*SCRATCH)),
                      # threads' own memory, and bytes of one
                      ('memory', 'i8'), ('memory_size', 'i8'),
                      # integers: orders (K, 3), the next thread and unit, and finished units
                      # (parts, groups)
                      *((name, 'i8') for name in ('sequences', 'next_thread', 'next_unit',
                                                  'finished'))])
