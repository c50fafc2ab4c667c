"""The selective scans' kernels for a CPU, in Numba: one pass over the tokens, forward and backward.

A unit of work is an image (or several, if there are many), a block of channels, and the sequences
whose outputs are added up; any thread takes the next. A unit runs each sequence through tiles of
tokens. In a tile, one vector of channels comes after the other: step sizes first, then the
recurrence.

A row is what one token has of a tensor. It is read where it lies if its numbers lie side by side
and are of the dtype of the sums. It is copied into the thread's own memory if they are not, along
columns, and if the block's last vector is not full. A row of padding is a row of zeros, and the
step there is 0.

Backward starts from the states that forward kept, one for each segment of tiles. It runs a segment
again for the states before its tiles, and a tile again for those before its tokens.

An image may have 66,800 tokens, and a state may last for all of them. The error must not grow with
every token. So a tile runs from a state of zero, and the earlier state decays beside it. At the
tile's end that decays anew, by the tile's whole time. Sums over tokens are compensated from tile to
tile.

Only what compiles the kernels imports this module.
"""
from typing import Callable, Dict, NamedTuple

from numba import carray, from_dtype, njit, types

from mmvssd_kernels import numba_vectors
from mmvssd_kernels.numba_vectors import BYTES, byte, count_up, integer, put_integer
from mmvssd_kernels.selective_scan.numba_table import (
    ARGUMENTS,
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
)

#: What a kernel takes: the arguments.
SIGNATURE = types.void(types.CPointer(from_dtype(ARGUMENTS)))


class Sequence(NamedTuple):
    """How a sequence runs over the grid, and the group of units that run it."""

    transposed: int
    reverse: int
    group: int


class Unit(NamedTuple):
    """What a thread takes: a part of the images, a group, and a block of channels.

    Attributes:
        n: Number of the image that is at work.
        part: Number of the part.
        group: Number of the group of sequences.
        block: Number of the block.
        c: The first channel.
        vectors: Vectors of channels.
        numbers: Channels that there are, the last vector may have fewer than lanes.
    """

    n: int
    part: int
    group: int
    block: int
    c: int
    vectors: int
    numbers: int


@njit
def sequence_of(a, k):
    """Return sequence ``k``."""
    place = a.sequences + 24 * k
    return Sequence(integer(place), integer(place + 8), integer(place + 16))


def kernels(dtype: types.Float) -> Dict[str, Callable]:
    """Return the kernels ``forward`` and ``backward`` with sums of ``dtype``, to be compiled."""
    vectors = numba_vectors.functions(dtype)
    LANES, SIZE = vectors.lanes, vectors.size
    OWN = FLOAT32 if SIZE == 4 else FLOAT64
    load, store, number, put = vectors.load, vectors.store, vectors.number, vectors.put
    splat, zero, fma, exp, log1p = (vectors.splat, vectors.zero, vectors.fma, vectors.exp,
                                    vectors.log1p)
    positive, negative_abs, where_negative = (vectors.positive, vectors.negative_abs,
                                              vectors.where_negative)
    totals = vectors.totals

    def widener(name: str, size: int):
        """Make a function that widens ``count`` numbers of one dtype."""
        load_wide = getattr(vectors, f'load_{name}')
        number_wide = getattr(vectors, f'number_{name}')

        @njit
        def widen(address, distance, count, out):
            done = 0
            if distance == size:
                while done + LANES <= count:
                    store(out + done * SIZE, load_wide(address + done * size))
                    done += LANES
            while done < count:
                put(out + done * SIZE, number_wide(address + done * distance))
                done += 1

        return widen

    widen_float32, widen_float64 = widener('float32', 4), widener('float64', 8)
    widen_bfloat16, widen_float16 = widener('bfloat16', 2), widener('float16', 2)

    @njit
    def fill_zeros(address, numbers):
        for i in range(numbers):
            put(address + i * SIZE, dtype(0))

    @njit
    def copy_vectors(source, count, out):
        for i in range(count):
            store(out + i * BYTES, load(source + i * BYTES))

    @njit
    def clear(address, vectors_):
        for i in range(vectors_):
            store(address + i * BYTES, zero())

    @njit
    def locate(rows, base, sequence, first, count, H, W, at):
        """Write the addresses of the rows of a tile's tokens, from token ``first`` on."""
        place = H * W - 1 - first if sequence.reverse else first
        along, across, length = rows.column, rows.row, W
        if sequence.transposed:
            along, across, length = rows.row, rows.column, H
        line = place // length
        column = place - line * length
        for t in range(count):
            put_integer(at + 8 * t, base + line * across + column * along)
            if sequence.reverse:
                column -= 1
                if column < 0:
                    column = length - 1
                    line -= 1
            else:
                column += 1
                if column == length:
                    column = 0
                    line += 1

    @njit
    def widen_rows(rows, count, numbers, room, own, at):
        """Widen rows into memory of one's own, ``room`` numbers each, zeros behind the last."""
        for t in range(count):
            address = integer(at + 8 * t)
            row = own + t * room * SIZE
            if rows.dtype == FLOAT32:
                widen_float32(address, rows.channel, numbers, row)
            elif rows.dtype == FLOAT64:
                widen_float64(address, rows.channel, numbers, row)
            elif rows.dtype == BFLOAT16:
                widen_bfloat16(address, rows.channel, numbers, row)
            elif rows.dtype == FLOAT16:
                widen_float16(address, rows.channel, numbers, row)
            fill_zeros(row + numbers * SIZE, room - numbers)
            put_integer(at + 8 * t, row)

    @njit
    def bring(a, rows, base, sequence, first, count, numbers, room, own, at, scratch):
        """Have addresses of a tile's rows at ``at``, from which they can be read."""
        locate(rows, base, sequence, first, count, a.H, a.W, at)
        if a.mask.address:
            for t in range(count):
                if not integer(scratch + a.scratch.valid + 8 * t):
                    put_integer(at + 8 * t, scratch + a.scratch.zeros)
        # rows of a column may lie so far apart that all go to the same few lines of a cache
        if rows.dtype != OWN or rows.channel != SIZE or numbers != room or sequence.transposed:
            widen_rows_but_zeros(a, rows, count, numbers, room, own, at, scratch)
        # step sizes are computed for four tokens at a time
        for t in range(count, (count + 3) // 4 * 4):
            put_integer(at + 8 * t, scratch + a.scratch.zeros)

    @njit
    def widen_rows_but_zeros(a, rows, count, numbers, room, own, at, scratch):
        first = 0
        zeros = scratch + a.scratch.zeros
        while first < count:
            last = first
            while last < count and integer(at + 8 * last) != zeros:
                last += 1
            widen_rows(rows, last - first, numbers, room, own + first * room * SIZE, at + 8 * first)
            first = last + 1

    @njit
    def base(rows, unit, sequence):
        """Return where a tensor's rows begin for a unit's image and channels."""
        return (rows.address + unit.n * rows.image + sequence * rows.sequence
                + unit.c * rows.channel)

    @njit
    def bring_tile(a, unit, sequence, k, first, count, scratch):
        """Have the rows of x, step sizes, B and C of a tile."""
        n, c, numbers = unit.n, unit.c, unit.numbers
        own = a.scratch
        if a.mask.address:
            mask = a.mask
            locate(mask, mask.address + n * mask.image, sequence, first, count, a.H, a.W,
                   scratch + own.valid)
            for t in range(count):
                put_integer(scratch + own.valid + 8 * t,
                            byte(integer(scratch + own.valid + 8 * t)))
        dt = a.dt
        bring(a, a.x, base(a.x, unit, k), sequence, first, count, numbers, unit.vectors * LANES,
              scratch + own.x_rows, scratch + own.x_at, scratch)
        start = dt.address + n * dt.image + k * dt.sequence
        if a.R:
            bring(a, dt, start, sequence, first, count, a.R, a.R, scratch + own.dt_rows,
                  scratch + own.dt_at, scratch)
        else:
            bring(a, dt, start + c * dt.channel, sequence, first, count, numbers,
                  unit.vectors * LANES, scratch + own.dt_rows, scratch + own.dt_at, scratch)
        bring(a, a.B, a.B.address + n * a.B.image + k * a.B.sequence, sequence, first, count, a.S,
              a.S, scratch + own.B_rows, scratch + own.B_at, scratch)
        bring(a, a.C, a.C.address + n * a.C.image + k * a.C.sequence, sequence, first, count, a.S,
              a.S, scratch + own.C_rows, scratch + own.C_at, scratch)

    @njit
    def put_step(a, scratch, t, z, slopes):
        """Make a step size of what softplus takes, and its slope if that is asked for."""
        delta, slope = z, splat(dtype(1))
        if a.softplus:
            small = exp(negative_abs(z))
            delta = positive(z) + log1p(small)
            if slopes:
                one = splat(dtype(1))
                slope = where_negative(z, small, one) / (one + small)
        if is_padding(a, scratch, t):
            delta, slope = zero(), zero()
        store(scratch + a.scratch.delta + t * BYTES, delta)
        if slopes:
            store(scratch + a.scratch.slope + t * BYTES, slope)

    @njit
    def step_sizes(a, scratch, k, c, v, count, slopes):
        """Compute step sizes of one vector of channels for all tokens of a tile."""
        dt_at = scratch + a.scratch.dt_at
        bias = load(a.bias + (k * a.width + c) * SIZE)
        if not a.R:
            for t in range(count):
                put_step(a, scratch, t, load(integer(dt_at + 8 * t) + v * BYTES) + bias, slopes)
            return
        R, distance = a.R, a.width * SIZE
        weight = a.weight + (k * R * a.width + c) * SIZE
        for t in range(0, count, 4):
            row0, row1 = integer(dt_at + 8 * t), integer(dt_at + 8 * t + 8)
            row2, row3 = integer(dt_at + 8 * t + 16), integer(dt_at + 8 * t + 24)
            z0, z1, z2, z3 = zero(), zero(), zero(), zero()
            for r in range(R):
                w = load(weight + r * distance)
                z0 = fma(splat(number(row0 + r * SIZE)), w, z0)
                z1 = fma(splat(number(row1 + r * SIZE)), w, z1)
                z2 = fma(splat(number(row2 + r * SIZE)), w, z2)
                z3 = fma(splat(number(row3 + r * SIZE)), w, z3)
            # the bias last: it is the largest term, and would round what is added to it
            put_step(a, scratch, t, z0 + bias, slopes)
            if t + 1 < count:
                put_step(a, scratch, t + 1, z1 + bias, slopes)
            if t + 2 < count:
                put_step(a, scratch, t + 2, z2 + bias, slopes)
            if t + 3 < count:
                put_step(a, scratch, t + 3, z3 + bias, slopes)

    @njit
    def put_tile(a, rows, at, own, room, count, numbers, fresh, scratch):
        """Write rows of one's own to where a tensor has them, or add them to what is there."""
        for t in range(count):
            put_row(own + t * room * SIZE, integer(at + 8 * t), rows.channel, numbers, fresh,
                    is_padding(a, scratch, t))

    @njit
    def put_row(row, address, distance, numbers, fresh, padding):
        done = 0
        if distance == SIZE:
            while done + LANES <= numbers:
                value, place = load(row + done * SIZE), address + done * SIZE
                if padding:
                    value = zero()
                if not fresh:
                    value = load(place) + value
                store(place, value)
                done += LANES
        while done < numbers:
            total, place = number(row + done * SIZE), address + done * distance
            if padding:
                total = dtype(0)
            if not fresh:
                total = number(place) + total
            put(place, total)
            done += 1

    @njit
    def is_padding(a, scratch, t):
        return a.mask.address and not integer(scratch + a.scratch.valid + 8 * t)

    @njit
    def run(a, scratch, k, c, v, count, room):
        """Run one vector of channels through a tile."""
        own, S = a.scratch, a.S
        step_sizes(a, scratch, k, c, v, count, False)
        x_at, B_at, C_at = scratch + own.x_at, scratch + own.B_at, scratch + own.C_at
        decay, distance = a.A + (k * S * a.width + c) * SIZE, a.width * SIZE
        state, local = scratch + own.state + v * S * BYTES, scratch + own.local
        carried = scratch + own.carried
        clear(local, S)
        copy_vectors(state, S, carried)
        skip = load(a.skip + (k * a.width + c) * SIZE)
        outputs = scratch + own.y_rows
        time = zero()
        for t in range(count):
            delta = load(scratch + own.delta + t * BYTES)
            x = load(integer(x_at + 8 * t) + v * BYTES)
            time = time + delta
            step = delta * x
            y = skip * x
            B, C = integer(B_at + 8 * t), integer(C_at + 8 * t)
            for s in range(S):
                factor = exp(delta * load(decay + s * distance))
                h = fma(factor, load(local + s * BYTES), step * splat(number(B + s * SIZE)))
                rest = factor * load(carried + s * BYTES)
                store(local + s * BYTES, h)
                store(carried + s * BYTES, rest)
                y = fma(h + rest, splat(number(C + s * SIZE)), y)
            store(outputs + t * room + v * BYTES, y)
        carry(a, state, local, time, decay)

    @njit
    def carry(a, state, local, time, decay):
        """Bring a state over a tile: as it has decayed, and what the tile itself gives."""
        for s in range(a.S):
            factor = exp(time * load(decay + s * a.width * SIZE))
            store(state + s * BYTES, fma(factor, load(state + s * BYTES), load(local + s * BYTES)))

    @njit
    def keep_state(a, unit, k, segment, scratch, back):
        """Keep the state before a segment, or fetch it; before the first it is zero."""
        if segment == 0:
            clear(scratch + a.scratch.state, unit.vectors * a.S)
            return
        kept = (a.H * a.W - 1) // (a.tile * a.segment)
        place = ((unit.n * a.K + k) * kept + segment - 1) * a.S
        for s in range(a.S):
            row = a.states + ((place + s) * a.width + unit.c) * SIZE
            for v in range(unit.vectors):
                own = scratch + a.scratch.state + (v * a.S + s) * BYTES
                if back:
                    store(own, load(row + v * BYTES))
                else:
                    store(row + v * BYTES, load(own))

    @njit
    def run_sequence(a, unit, sequence, k, fresh, scratch):
        """Run a sequence of a unit, and keep the states before segments."""
        own, L = a.scratch, a.H * a.W
        for first in range(0, L, a.tile):
            if first % (a.tile * a.segment) == 0:
                keep_state(a, unit, k, first // (a.tile * a.segment), scratch, False)
            count = min(a.tile, L - first)
            bring_tile(a, unit, sequence, k, first, count, scratch)
            locate(a.y, base(a.y, unit, unit.group), sequence, first, count, a.H, a.W,
                   scratch + own.y_at)
            for v in range(unit.vectors):
                run(a, scratch, k, unit.c + v * LANES, v, count, unit.vectors * BYTES)
            put_tile(a, a.y, scratch + own.y_at, scratch + own.y_rows, unit.vectors * LANES, count,
                     unit.numbers, fresh, scratch)

    @njit
    def unit_of(a, number_, image):
        """Return a unit by its number, at work on one of its images."""
        block = number_ % a.blocks
        rest = number_ // a.blocks
        part = rest // a.groups
        c = block * a.block * LANES
        vectors_ = min(a.block, a.width // LANES - block * a.block)
        return Unit(part * a.images + image, part, rest % a.groups, block, c, vectors_,
                    min(vectors_ * LANES, a.channels - c))

    @njit
    def images_of(a, number_):
        """Return how many images a unit has: the last part may have fewer."""
        return min(a.images, a.N - unit_of(a, number_, 0).n)

    @njit
    def run_image(a, unit, scratch):
        fresh = True
        for k in range(a.K):
            sequence = sequence_of(a, k)
            if sequence.group == unit.group:
                run_sequence(a, unit, sequence, k, fresh, scratch)
                fresh = False

    def forward(pointer):
        a = carray(pointer, 1)[0]
        scratch = a.memory + count_up(a.next_thread) * a.memory_size
        clear(scratch + a.scratch.zeros, (a.scratch.x_rows - a.scratch.zeros) // BYTES)
        while True:
            number_ = count_up(a.next_unit)
            if number_ >= a.units:
                return
            for image in range(images_of(a, number_)):
                run_image(a, unit_of(a, number_, image), scratch)

    @njit
    def add_total(address, value):
        """Add to a sum what its rounding left out before (W. Kahan, 1965)."""
        total = load(address)
        value = value - load(address + BYTES)
        new = total + value
        store(address + BYTES, (new - total) - value)
        store(address, new)

    @njit
    def run_back(a, scratch, k, c, v, count, room):
        """Run one vector of channels through a tile, and back; the tile's states are kept."""
        own, S = a.scratch, a.S
        step_sizes(a, scratch, k, c, v, count, True)
        x_at, dy_at = scratch + own.x_at, scratch + own.dy_at
        B_at, C_at = scratch + own.B_at, scratch + own.C_at
        decay, distance = a.A + (k * S * a.width + c) * SIZE, a.width * SIZE
        states, decays = scratch + own.h, scratch + own.decay
        local, carried = scratch + own.local, scratch + own.carried
        clear(local, S)
        copy_vectors(scratch + own.state + v * S * BYTES, S, carried)
        copy_vectors(carried, S, states)
        time = zero()
        for t in range(count):
            delta = load(scratch + own.delta + t * BYTES)
            time = time + delta
            step = delta * load(integer(x_at + 8 * t) + v * BYTES)
            B, row = integer(B_at + 8 * t), states + (t + 1) * S * BYTES
            for s in range(S):
                factor = exp(delta * load(decay + s * distance))
                h = fma(factor, load(local + s * BYTES), step * splat(number(B + s * SIZE)))
                rest = factor * load(carried + s * BYTES)
                store(local + s * BYTES, h)
                store(carried + s * BYTES, rest)
                store(decays + (t * S + s) * BYTES, factor)
                store(row + s * BYTES, h + rest)

        dA, dstate = scratch + own.dA_tile, scratch + own.dstate + v * S * BYTES
        clear(dA, S)
        clear(local, S)
        copy_vectors(dstate, S, carried)
        skip = load(a.skip + (k * a.width + c) * SIZE)
        dskip, dbias = zero(), zero()
        for t in range(count - 1, -1, -1):
            delta = load(scratch + own.delta + t * BYTES)
            x = load(integer(x_at + 8 * t) + v * BYTES)
            dy = load(integer(dy_at + 8 * t) + v * BYTES)
            step = delta * x
            B, C, row = integer(B_at + 8 * t), integer(C_at + 8 * t), states + t * S * BYTES
            dstep, ddelta = zero(), zero()
            for s in range(S):
                factor = load(decays + (t * S + s) * BYTES)
                dh = fma(dy, splat(number(C + s * SIZE)), load(local + s * BYTES))
                rest = load(carried + s * BYTES)
                whole = dh + rest
                passed, rest = factor * dh, factor * rest
                store(local + s * BYTES, passed)
                store(carried + s * BYTES, rest)
                through = (passed + rest) * load(row + s * BYTES)
                ddelta = fma(through, load(decay + s * distance), ddelta)
                store(dA + s * BYTES, fma(through, delta, load(dA + s * BYTES)))
                dstep = fma(whole, splat(number(B + s * SIZE)), dstep)
                # a state and a decay have been read for the last time: what dC and dB add up
                # over channels takes their places
                state = row + (S + s) * BYTES
                store(state, dy * load(state))
                store(decays + (t * S + s) * BYTES, whole * step)
            dz = fma(dstep, x, ddelta) * load(scratch + own.slope + t * BYTES)
            store(scratch + own.dz + t * BYTES, dz)
            dbias = dbias + dz
            dskip = fma(dy, x, dskip)
            store(scratch + own.y_rows + t * room + v * BYTES, fma(dstep, delta, skip * dy))
            if not a.R:
                store(scratch + own.ddt_rows + t * room + v * BYTES, dz)
        carry(a, dstate, local, time, decay)
        total = scratch + own.totals + v * (S + a.R + 2) * 2 * BYTES
        add_total(total, dbias)
        add_total(total + 2 * BYTES, dskip)
        for s in range(S):
            add_total(total + (2 + s) * 2 * BYTES, load(dA + s * BYTES))
        add_over_channels(scratch + own.C_sums, states + S * BYTES, count * S)
        add_over_channels(scratch + own.B_sums, decays, count * S)
        add_weight(a, scratch, total + (2 + S) * 2 * BYTES, count)
        add_low_rank(a, scratch, k, c, count)

    @njit
    def add_over_channels(sums, products, count):
        """Add each vector's numbers to a sum; there is room for whole vectors of sums."""
        for i in range(0, count, LANES):
            place = sums + i * SIZE
            store(place, load(place) + totals(products + i * BYTES))

    @njit
    def add_weight(a, scratch, total, count):
        """Add what a tile gives to the gradient of the weight of the step sizes."""
        dz, dt_at = scratch + a.scratch.dz, scratch + a.scratch.dt_at
        r = 0
        while r + 4 <= a.R:
            w0, w1, w2, w3 = zero(), zero(), zero(), zero()
            for t in range(count):
                z, row = load(dz + t * BYTES), integer(dt_at + 8 * t) + r * SIZE
                w0 = fma(z, splat(number(row)), w0)
                w1 = fma(z, splat(number(row + SIZE)), w1)
                w2 = fma(z, splat(number(row + 2 * SIZE)), w2)
                w3 = fma(z, splat(number(row + 3 * SIZE)), w3)
            add_total(total + r * 2 * BYTES, w0)
            add_total(total + (r + 1) * 2 * BYTES, w1)
            add_total(total + (r + 2) * 2 * BYTES, w2)
            add_total(total + (r + 3) * 2 * BYTES, w3)
            r += 4
        while r < a.R:
            w0 = zero()
            for t in range(count):
                row = integer(dt_at + 8 * t) + r * SIZE
                w0 = fma(load(dz + t * BYTES), splat(number(row)), w0)
            add_total(total + r * 2 * BYTES, w0)
            r += 1

    @njit
    def add_low_rank(a, scratch, k, c, count):
        """Add what a vector of channels gives to the gradient of the low-rank step sizes."""
        dz, sums = scratch + a.scratch.dz, scratch + a.scratch.dt_sums
        weight, row = a.weight_back + (k * a.width + c) * a.ranks * SIZE, a.ranks * SIZE
        for r in range(0, a.ranks, LANES):
            for t in range(0, count, 4):
                z, place = dz + t * BYTES, sums + t * row + r * SIZE
                s0, s1 = load(place), load(place + row)
                s2, s3 = load(place + 2 * row), load(place + 3 * row)
                for i in range(LANES):
                    w, lane = load(weight + i * row + r * SIZE), z + i * SIZE
                    s0 = fma(splat(number(lane)), w, s0)
                    s1 = fma(splat(number(lane + BYTES)), w, s1)
                    s2 = fma(splat(number(lane + 2 * BYTES)), w, s2)
                    s3 = fma(splat(number(lane + 3 * BYTES)), w, s3)
                store(place, s0)
                store(place + row, s1)
                store(place + 2 * row, s2)
                store(place + 3 * row, s3)

    @njit
    def bring_gradients(a, unit, sequence, k, first, count, scratch):
        """Have the rows of dy of a tile, and where those of gradients are."""
        own = a.scratch
        bring(a, a.dy, base(a.dy, unit, unit.group), sequence, first, count, unit.numbers,
              unit.vectors * LANES, scratch + own.dy_rows, scratch + own.dy_at, scratch)
        locate(a.dx, base(a.dx, unit, unit.group), sequence, first, count, a.H, a.W,
               scratch + own.dx_at)
        locate(a.dB, base_of_block(a.dB, unit, k), sequence, first, count, a.H, a.W,
               scratch + own.dB_at)
        locate(a.dC, base_of_block(a.dC, unit, k), sequence, first, count, a.H, a.W,
               scratch + own.dC_at)
        start = base_of_block(a.ddt, unit, k) if a.R else base(a.ddt, unit, k)
        locate(a.ddt, start, sequence, first, count, a.H, a.W, scratch + own.ddt_at)

    @njit
    def base_of_block(rows, unit, k):
        """Return where the rows of a gradient begin to which all blocks of channels add."""
        return (rows.address + unit.block * rows.block + unit.n * rows.image
                + k * rows.sequence)

    @njit
    def add_blocks(a, number_):
        """Add up what blocks of channels gave, if this unit's is the last of them."""
        if a.blocks == 1 or count_up(a.finished + 8 * (number_ // a.blocks)) < a.blocks - 1:
            return
        for image in range(images_of(a, number_)):
            unit = unit_of(a, number_, image)
            for k in range(a.K):
                if sequence_of(a, k).group == unit.group:
                    add_blocks_of(a, a.dB, unit, k, a.S)
                    add_blocks_of(a, a.dC, unit, k, a.S)
                    if a.R:
                        add_blocks_of(a, a.ddt, unit, k, a.R)

    @njit
    def add_blocks_of(a, rows, unit, k, numbers):
        first = rows.address + unit.n * rows.image + k * rows.sequence
        for i in range(a.H):
            for j in range(a.W):
                row = first + i * rows.row + j * rows.column
                for block in range(1, a.blocks):
                    for s in range(numbers):
                        place = row + s * rows.channel
                        put(place, number(place) + number(place + block * rows.block))

    @njit
    def run_tile_back(a, unit, sequence, k, first, count, fresh, scratch):
        own = a.scratch
        bring_tile(a, unit, sequence, k, first, count, scratch)
        bring_gradients(a, unit, sequence, k, first, count, scratch)
        clear(scratch + own.dt_sums, (own.totals - own.dt_sums) // BYTES)
        for v in range(unit.vectors):
            run_back(a, scratch, k, unit.c + v * LANES, v, count, unit.vectors * BYTES)
        S, room = a.S, unit.vectors * LANES
        put_tile(a, a.dx, scratch + own.dx_at, scratch + own.y_rows, room, count, unit.numbers,
                 fresh, scratch)
        put_tile(a, a.dB, scratch + own.dB_at, scratch + own.B_sums, S, count, S, True, scratch)
        put_tile(a, a.dC, scratch + own.dC_at, scratch + own.C_sums, S, count, S, True, scratch)
        if a.R:
            put_tile(a, a.ddt, scratch + own.ddt_at, scratch + own.dt_sums, a.ranks, count, a.R,
                     True, scratch)
        else:
            put_tile(a, a.ddt, scratch + own.ddt_at, scratch + own.ddt_rows, room, count,
                     unit.numbers, True, scratch)

    @njit
    def run_segment_back(a, unit, sequence, k, segment, fresh, scratch):
        """Run a segment's tiles for the states before them, then back from the last."""
        own = a.scratch
        start = segment * a.segment * a.tile
        stop = min(start + a.segment * a.tile, a.H * a.W)
        tiles, states = (stop - start + a.tile - 1) // a.tile, unit.vectors * a.S
        keep_state(a, unit, k, segment, scratch, True)
        for i in range(tiles):
            copy_vectors(scratch + own.state, states, scratch + own.starts + i * states * BYTES)
            if i < tiles - 1:
                bring_tile(a, unit, sequence, k, start + i * a.tile, a.tile, scratch)
                for v in range(unit.vectors):
                    run(a, scratch, k, unit.c + v * LANES, v, a.tile, unit.vectors * BYTES)
        for i in range(tiles - 1, -1, -1):
            copy_vectors(scratch + own.starts + i * states * BYTES, states, scratch + own.state)
            first = start + i * a.tile
            run_tile_back(a, unit, sequence, k, first, min(a.tile, stop - first), fresh, scratch)

    @njit
    def put_totals(a, unit, k, scratch):
        """Write what a sequence of a unit's images gives to the gradients of parameters."""
        S, R = a.S, a.R
        sequence = unit.part * a.K + k
        for v in range(unit.vectors):
            total = scratch + a.scratch.totals + v * (S + R + 2) * 2 * BYTES
            c = unit.c + v * LANES
            store(a.dbias + (sequence * a.width + c) * SIZE, load(total))
            store(a.dskip + (sequence * a.width + c) * SIZE, load(total + 2 * BYTES))
            for s in range(S):
                store(a.dA + ((sequence * S + s) * a.width + c) * SIZE,
                      load(total + (2 + s) * 2 * BYTES))
            for r in range(R):
                store(a.dweight + ((sequence * R + r) * a.width + c) * SIZE,
                      load(total + (2 + S + r) * 2 * BYTES))

    @njit
    def run_sequence_back(a, unit, sequence, k, fresh, scratch):
        own = a.scratch
        clear(scratch + own.dstate, unit.vectors * a.S)
        tokens = a.tile * a.segment
        for segment in range((a.H * a.W + tokens - 1) // tokens - 1, -1, -1):
            run_segment_back(a, unit, sequence, k, segment, fresh, scratch)

    @njit
    def run_unit_back(a, number_, scratch):
        unit = unit_of(a, number_, 0)
        fresh = True
        for k in range(a.K):
            sequence = sequence_of(a, k)
            if sequence.group == unit.group:
                clear(scratch + a.scratch.totals, unit.vectors * (a.S + a.R + 2) * 2)
                for image in range(images_of(a, number_)):
                    run_sequence_back(a, unit_of(a, number_, image), sequence, k, fresh, scratch)
                put_totals(a, unit, k, scratch)
                fresh = False
        add_blocks(a, number_)

    def backward(pointer):
        a = carray(pointer, 1)[0]
        scratch = a.memory + count_up(a.next_thread) * a.memory_size
        clear(scratch + a.scratch.zeros, (a.scratch.x_rows - a.scratch.zeros) // BYTES)
        # rows of tokens beyond a tile's last are computed with, and what they give left out
        clear(scratch + a.scratch.dz, (a.scratch.state - a.scratch.dz) // BYTES)
        while True:
            number_ = count_up(a.next_unit)
            if number_ >= a.units:
                return
            run_unit_back(a, number_, scratch)

    return {'forward': forward, 'backward': backward}
