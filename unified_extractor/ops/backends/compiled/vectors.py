"""Registers as values: the few vector operations from which the loops are written, for Numba.

A *tile* holds T positions times L channels, one vector register of L lanes for each position. A *row* is a vector of T numbers, one
for each position. *Places* are T distances, in elements from the start of a memory. Numba sees each as one value; LLVM keeps it in
registers and splits vectors the machine does not have. T is the register block of every loop: eight accumulators hide the latency of a
fused multiply-add, at any kernel size. L fills 512 bits where the machine has them, else 256. A *memory* is an array without its
length and without a reference count, which would cost as much as the loops; the caller of a kernel keeps the arrays alive.
"""

# mypy: ignore-errors

import math
import operator
from itertools import count

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from unified_extractor.ops.backends.compiled.registers import (
    INDEX,
    PLACES,
    Memory,
    Row,
    T,
    Tile,
    described,
    lanes_of,
    number_type,
    read_back,
    vector_type,
    written,
)


@intrinsic
def unpacked(typing, numbers, like, record):
    """The named tuple ``record`` from its numbers and addresses; ``like``: a number of the call's dtype."""
    kind = described(record.instance_class, like)

    def write(emit, numbers, like, record):
        base = emit.context.make_array(emit.signature.args[0])(emit.context, emit.builder, numbers).data
        return read_back(emit, kind, (emit.builder.load(emit.at(base, i)) for i in count()))

    return written(kind(numbers, like, record), write)


@intrinsic
def laid_out(typing, memory, starts):
    """The same named tuple with the memory from each of its elements on."""

    def write(emit, memory, starts):
        kind = emit.signature.args[1]
        members = [emit.at(memory, emit.builder.extract_value(starts, i)) for i in range(len(kind))]
        return emit.context.make_tuple(emit.builder, emit.signature.return_type, members)

    kind = types.BaseTuple.from_types([memory] * len(starts), starts.instance_class)
    return written(kind(memory, starts), write)


@intrinsic
def number(typing, memory, value):
    """The integer as a number of the memory's dtype."""
    return written(
        memory.dtype(memory, types.intp), lambda emit, memory, value: emit.builder.sitofp(value, number_type(emit.dtype()))
    )


@intrinsic
def _load(typing, memory, index):
    return written(memory.dtype(memory, types.intp), lambda emit, memory, index: emit.builder.load(emit.at(memory, index)))


@intrinsic
def _store(typing, memory, index, value):
    def write(emit, memory, index, value):
        emit.builder.store(value, emit.at(memory, index))

    return written(types.void(memory, types.intp, memory.dtype), write)


@overload(operator.getitem)
def _getitem(memory, index):
    if isinstance(memory, Memory):
        return lambda memory, index: _load(memory, index)
    return None


@overload(operator.setitem)
def _setitem(memory, index, value):
    if isinstance(memory, Memory):
        return lambda memory, index, value: _store(memory, index, value)
    return None


@intrinsic
def lanes(typing, memory):
    """L for the numbers of this memory."""
    return written(types.intp(memory), lambda emit, memory: INDEX(lanes_of(emit.dtype().bitwidth)))


@intrinsic
def zeros(typing, memory):
    """A tile of zeros, of the memory's dtype."""
    return written(
        Tile(memory.dtype)(memory),
        lambda emit, memory: ir.Constant(emit.context.get_value_type(emit.signature.return_type), None),
    )


@intrinsic
def places(typing, table, start, shift):
    """``table[start + t] + shift``."""

    def write(emit, table, start, shift):
        return emit.joined(emit.builder.add(emit.builder.load(emit.at(table, start, t)), shift) for t in range(T))

    return written(PLACES(table, types.intp, types.intp), write)


@intrinsic
def gather(typing, memory, places, shift):
    """The tile whose vector t is ``memory[places[t] + shift :][:L]``."""

    def write(emit, memory, places, shift):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        return emit.joined(emit.load(emit.at(base, place), kind, emit.dtype()) for place in emit.split(places))

    return written(Tile(memory.dtype)(memory, places, types.intp), write)


@intrinsic
def scatter(typing, memory, places, shift, tile):
    """Write vector t to ``memory[places[t] + shift :][:L]``."""

    def write(emit, memory, places, shift, tile):
        base = emit.at(memory, shift)
        for place, vector in zip(emit.split(places), emit.split(tile), strict=True):
            emit.store(vector, emit.at(base, place), emit.dtype())

    return written(types.void(memory, places, types.intp, tile), write)


@intrinsic
def scatter_add(typing, memory, places, shift, tile):
    """Add vector t where :func:`scatter` would write it, one position after the other: two may share a place."""

    def write(emit, memory, places, shift, tile):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        for place, vector in zip(emit.split(places), emit.split(tile), strict=True):
            address = emit.at(base, place)
            emit.store(emit.builder.fadd(emit.load(address, kind, emit.dtype()), vector), address, emit.dtype())

    return written(types.void(memory, places, types.intp, tile), write)


@intrinsic
def scatter_multiply_add(typing, memory, places, shift, weights, tile):
    """Add ``weights * tile`` like :func:`scatter_add`."""

    def write(emit, memory, places, shift, weights, tile):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        for place, weight, vector in zip(*(emit.split(value) for value in (places, weights, tile)), strict=True):
            address = emit.at(base, place)
            total = emit.multiply_add(weight, vector, emit.load(address, kind, emit.dtype()))
            emit.store(total, address, emit.dtype())

    return written(types.void(memory, places, types.intp, weights, tile), write)


@intrinsic
def load_tile(typing, memory, start):
    """The tile at ``memory[start:]``, vector after vector."""

    def write(emit, memory, start):
        kind = vector_type(emit.dtype())
        return emit.joined(emit.load(emit.at(memory, start, t * kind.count), kind, emit.dtype()) for t in range(T))

    return written(Tile(memory.dtype)(memory, types.intp), write)


@intrinsic
def store_tile(typing, memory, start, tile):
    """Write the tile to ``memory[start:]``, vector after vector."""

    def write(emit, memory, start, tile):
        for t, vector in enumerate(emit.split(tile)):
            emit.store(vector, emit.at(memory, start, t * vector.type.count), emit.dtype())

    return written(types.void(memory, types.intp, tile), write)


@intrinsic
def load_columns(typing, memory, start, stride):
    """The tile whose lane c is ``memory[start + c*stride :][:T]``: a corner of an image ``[C, P]``, channels last."""

    def write(emit, memory, start, stride):
        kind, address, rows = ir.VectorType(number_type(emit.dtype()), T), emit.at(memory, start), []
        for _ in range(lanes_of(emit.dtype().bitwidth)):
            rows.append(emit.load(address, kind, emit.dtype()))
            address = emit.at(address, stride)
        return emit.joined(emit.transposed(rows))

    return written(Tile(memory.dtype)(memory, types.intp, types.intp), write)


@intrinsic
def store_columns(typing, memory, start, stride, tile):
    """The inverse of :func:`load_columns`."""

    def write(emit, memory, start, stride, tile):
        address = emit.at(memory, start)
        for row in emit.transposed(emit.split(tile)):
            emit.store(row, address, emit.dtype())
            address = emit.at(address, stride)

    return written(types.void(memory, types.intp, types.intp, tile), write)


@intrinsic
def each_position(typing, memory, start, step):
    """The tile whose vector t holds ``memory[start + t*step]`` in all lanes."""

    def write(emit, memory, start, step):
        address, vectors = emit.at(memory, start), []
        for _ in range(T):
            vectors.append(emit.splat(emit.builder.load(address), emit.dtype()))
            address = emit.at(address, step)
        return emit.joined(vectors)

    return written(Tile(memory.dtype)(memory, types.intp, types.intp), write)


@intrinsic
def each_channel(typing, memory, start):
    """The tile whose vectors all are ``memory[start:][:L]``."""

    def write(emit, memory, start):
        vector = emit.load(emit.at(memory, start), vector_type(emit.dtype()), emit.dtype())
        return emit.joined([vector] * T)

    return written(Tile(memory.dtype)(memory, types.intp), write)


def _pairwise(instruction):
    """An operation on two tiles or rows, number by number, by LLVM's instruction of that name."""

    @intrinsic
    def operation(typing, a, b):
        def write(emit, a, b):
            pairs = zip(emit.split(a), emit.split(b), strict=True)
            return emit.joined(getattr(emit.builder, instruction)(*pair) for pair in pairs)

        return written(a(a, b), write)

    return operation


add, subtract, multiply = _pairwise("fadd"), _pairwise("fsub"), _pairwise("fmul")


@intrinsic
def multiply_add(typing, a, b, c):
    """``a*b + c`` of three tiles or rows, rounded once where the machine can."""

    def write(emit, a, b, c):
        return emit.joined(emit.multiply_add(*three) for three in zip(*(emit.split(v) for v in (a, b, c)), strict=True))

    return written(a(a, b, c), write)


@intrinsic
def larger(typing, a, b):
    """The larger of two rows, number by number; where one is nan, the second."""

    def write(emit, a, b):
        return emit.builder.select(emit.builder.fcmp_ordered(">", a, b), a, b)

    return written(a(a, b), write)


@intrinsic
def reciprocal(typing, row):
    """One divided by it."""
    return written(row(row), lambda emit, row: emit.builder.fdiv(emit.constant(1.0, row), row))


@intrinsic
def each_of(typing, number):
    """A row of the same number."""

    def write(emit, number):
        kind = ir.VectorType(number.type, T)
        first = emit.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        return emit.shuffled(first, [0] * T)

    return written(Row(number)(number), write)


@intrinsic
def exponential(typing, row):
    """e to its power, to a rounding or two; 0 below the smallest normal number, infinite from half the largest on."""

    def write(emit, row):
        builder, single = emit.builder, row.type.element == ir.FloatType()
        # 2^n is written into the exponent's bits, e^rest is a series for |rest| <= log(2)/2
        mantissa, bias, terms = (23, 127, 8) if single else (52, 1023, 14)
        high, low = (0.693359375, -2.12194440e-4) if single else (6.93145751953125e-1, 1.42860682030941723212e-6)
        least, most = (bias - 1) * -math.log(2), (bias + 1) * math.log(2)
        nothing = builder.fcmp_ordered("<", row, emit.constant(least, row))
        row = builder.select(builder.fcmp_ordered(">", row, emit.constant(most, row)), emit.constant(most, row), row)
        rounding = emit.constant(1.5 * 2.0**mantissa, row)  # numbers so large have no fraction
        shifted = emit.multiply_add(row, emit.constant(1 / math.log(2), row), rounding)
        whole = builder.fsub(shifted, rounding)
        rest = emit.multiply_add(whole, emit.constant(-high, row), row)
        rest = emit.multiply_add(whole, emit.constant(-low, row), rest)
        total = emit.constant(1 / math.factorial(terms - 1), row)
        for term in reversed(range(terms - 1)):
            total = emit.multiply_add(total, rest, emit.constant(1 / math.factorial(term), row))
        integers = ir.VectorType(ir.IntType(32 if single else 64), row.type.count)
        bits = builder.add(builder.bitcast(shifted, integers), ir.Constant(integers, [bias] * row.type.count))
        power = builder.bitcast(builder.shl(bits, ir.Constant(integers, [mantissa] * row.type.count)), row.type)
        return builder.select(nothing, emit.constant(0.0, row), builder.fmul(total, power))

    return written(row(row), write)


@intrinsic
def add_positions(typing, memory, start, weights, first, step, tile):
    """Add ``sum_t weights[first + t*step] * tile[t]`` to ``memory[start:][:L]``."""

    def write(emit, memory, start, weights, first, step, tile):
        address, weight = emit.at(memory, start), emit.at(weights, first)
        total = emit.load(address, vector_type(emit.dtype()), emit.dtype())
        for vector in emit.split(tile):
            total = emit.multiply_add(emit.splat(emit.builder.load(weight), emit.dtype()), vector, total)
            weight = emit.at(weight, step)
        emit.store(total, address, emit.dtype())

    return written(types.void(memory, types.intp, weights, types.intp, types.intp, tile), write)


@intrinsic
def add_channels(typing, memory, start, tile):
    """Add the sum over channels of vector t to ``memory[start + t]``."""

    def write(emit, memory, start, tile):
        vectors = emit.split(tile)
        while len(vectors) > 1:
            count = vectors[0].type.count
            vectors = [emit.shuffled(a, range(2 * count), b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        (total,) = vectors
        while total.type.count > T:
            even, odd = (emit.shuffled(total, range(side, total.type.count, 2)) for side in (0, 1))
            total = emit.builder.fadd(even, odd)
        address = emit.at(memory, start)
        emit.store(emit.builder.fadd(emit.load(address, total.type, emit.dtype()), total), address, emit.dtype())

    return written(types.void(memory, types.intp, tile), write)


@intrinsic
def load_row(typing, memory, start):
    """``memory[start:][:T]``."""

    def write(emit, memory, start):
        return emit.load(emit.at(memory, start), ir.VectorType(number_type(emit.dtype()), T), emit.dtype())

    return written(Row(memory.dtype)(memory, types.intp), write)


@intrinsic
def store_row(typing, memory, start, row):
    """Write the row to ``memory[start:][:T]``."""
    return written(
        types.void(memory, types.intp, row),
        lambda emit, memory, start, row: emit.store(row, emit.at(memory, start), emit.dtype()),
    )
