"""Vector operations for Numba: the few from which all loops of the compiled backend are written.

A *tile* holds T positions times L channels, one vector register of L lanes for each position. A *row* is a vector of T numbers, one
for each position. *Places* are T distances, in elements from the start of a *memory*, which is an array's address. Numba sees each as
one value; LLVM keeps it in registers and splits vectors the machine does not have. T is the register block of every loop: eight
accumulators hide the latency of a fused multiply-add, at any kernel size. L fills 512 bits where the machine has them, else 256.
"""

# mypy: ignore-errors

import math
import operator

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
    lanes_of,
    number_type,
    operation,
    vector_type,
)


@intrinsic
def as_number(typing, memory, value):
    """Return the integer as a number of the memory's dtype."""
    return operation(
        memory.dtype(memory, types.intp), lambda emit, memory, value: emit.builder.sitofp(value, number_type(emit.dtype()))
    )


@intrinsic
def _load(typing, memory, index):
    return operation(memory.dtype(memory, types.intp), lambda emit, memory, index: emit.builder.load(emit.at(memory, index)))


@intrinsic
def _store(typing, memory, index, value):
    def write(emit, memory, index, value):
        emit.builder.store(value, emit.at(memory, index))

    return operation(types.void(memory, types.intp, memory.dtype), write)


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
def memory_from(typing, memory, start):
    """Return the memory from an element on."""
    return operation(memory(memory, types.intp), lambda emit, memory, start: emit.at(memory, start))


@intrinsic
def as_table(typing, memory):
    """Return the memory as one of integers."""
    table = Memory(types.int64)
    return operation(table(memory), lambda emit, memory: emit.builder.bitcast(memory, INDEX.as_pointer()))


@intrinsic
def lanes(typing, memory):
    """Return L for the numbers of this memory."""
    return operation(types.intp(memory), lambda emit, memory: INDEX(lanes_of(emit.dtype().bitwidth)))


@intrinsic
def zeros(typing, memory):
    """Return a tile of zeros, of the memory's dtype."""
    return operation(
        Tile(memory.dtype)(memory),
        lambda emit, memory: ir.Constant(emit.context.get_value_type(emit.signature.return_type), None),
    )


@intrinsic
def load_places(typing, table, start, shift):
    """Return the places ``table[start + t] + shift``."""

    def write(emit, table, start, shift):
        return emit.join(emit.builder.add(emit.builder.load(emit.at(table, start, t)), shift) for t in range(T))

    return operation(PLACES(table, types.intp, types.intp), write)


@intrinsic
def load_at(typing, memory, places, shift):
    """Return the tile whose vector t is ``memory[places[t] + shift :][:L]``."""

    def write(emit, memory, places, shift):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        return emit.join(emit.load(emit.at(base, place), kind, emit.dtype()) for place in emit.split(places))

    return operation(Tile(memory.dtype)(memory, places, types.intp), write)


@intrinsic
def store_at(typing, memory, places, shift, tile):
    """Write vector t to ``memory[places[t] + shift :][:L]``."""

    def write(emit, memory, places, shift, tile):
        base = emit.at(memory, shift)
        for place, vector in zip(emit.split(places), emit.split(tile), strict=True):
            emit.store(vector, emit.at(base, place), emit.dtype())

    return operation(types.void(memory, places, types.intp, tile), write)


@intrinsic
def add_at(typing, memory, places, shift, tile):
    """Add vector t where :func:`store_at` would write it, one position after the other: two may share a place."""

    def write(emit, memory, places, shift, tile):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        for place, vector in zip(emit.split(places), emit.split(tile), strict=True):
            address = emit.at(base, place)
            emit.store(emit.builder.fadd(emit.load(address, kind, emit.dtype()), vector), address, emit.dtype())

    return operation(types.void(memory, places, types.intp, tile), write)


@intrinsic
def multiply_add_at(typing, memory, places, shift, weights, tile):
    """Add ``weights * tile`` like :func:`add_at`."""

    def write(emit, memory, places, shift, weights, tile):
        base, kind = emit.at(memory, shift), vector_type(emit.dtype())
        for place, weight, vector in zip(*(emit.split(value) for value in (places, weights, tile)), strict=True):
            address = emit.at(base, place)
            total = emit.multiply_add(weight, vector, emit.load(address, kind, emit.dtype()))
            emit.store(total, address, emit.dtype())

    return operation(types.void(memory, places, types.intp, weights, tile), write)


@intrinsic
def load_tile(typing, memory, start):
    """Return the tile at ``memory[start:]``, vector after vector."""

    def write(emit, memory, start):
        kind = vector_type(emit.dtype())
        return emit.join(emit.load(emit.at(memory, start, t * kind.count), kind, emit.dtype()) for t in range(T))

    return operation(Tile(memory.dtype)(memory, types.intp), write)


@intrinsic
def store_tile(typing, memory, start, tile):
    """Write the tile to ``memory[start:]``, vector after vector."""

    def write(emit, memory, start, tile):
        for t, vector in enumerate(emit.split(tile)):
            emit.store(vector, emit.at(memory, start, t * vector.type.count), emit.dtype())

    return operation(types.void(memory, types.intp, tile), write)


@intrinsic
def load_columns(typing, memory, start, stride):
    """Return the tile whose lane c is ``memory[start + c*stride :][:T]``: T positions of an image ``[C, P]``, channels last."""

    def write(emit, memory, start, stride):
        kind, address, rows = ir.VectorType(number_type(emit.dtype()), T), emit.at(memory, start), []
        for _ in range(lanes_of(emit.dtype().bitwidth)):
            rows.append(emit.load(address, kind, emit.dtype()))
            address = emit.at(address, stride)
        return emit.join(emit.transpose(rows))

    return operation(Tile(memory.dtype)(memory, types.intp, types.intp), write)


@intrinsic
def store_columns(typing, memory, start, stride, tile):
    """Write lane c of the tile to ``memory[start + c*stride :][:T]``."""

    def write(emit, memory, start, stride, tile):
        address = emit.at(memory, start)
        for row in emit.transpose(emit.split(tile)):
            emit.store(row, address, emit.dtype())
            address = emit.at(address, stride)

    return operation(types.void(memory, types.intp, types.intp, tile), write)


@intrinsic
def per_position(typing, memory, start, step):
    """Return the tile whose vector t holds ``memory[start + t*step]`` in all lanes."""

    def write(emit, memory, start, step):
        address, vectors = emit.at(memory, start), []
        for _ in range(T):
            vectors.append(emit.splat(emit.builder.load(address), emit.dtype()))
            address = emit.at(address, step)
        return emit.join(vectors)

    return operation(Tile(memory.dtype)(memory, types.intp, types.intp), write)


@intrinsic
def per_channel(typing, memory, start):
    """Return the tile whose vectors all are ``memory[start:][:L]``."""

    def write(emit, memory, start):
        vector = emit.load(emit.at(memory, start), vector_type(emit.dtype()), emit.dtype())
        return emit.join([vector] * T)

    return operation(Tile(memory.dtype)(memory, types.intp), write)


def _pairwise(instruction):
    """Return an operation on two tiles or rows, number by number, by LLVM's instruction of that name."""

    @intrinsic
    def pairwise(typing, a, b):
        def write(emit, a, b):
            pairs = zip(emit.split(a), emit.split(b), strict=True)
            return emit.join(getattr(emit.builder, instruction)(*pair) for pair in pairs)

        return operation(a(a, b), write)

    return pairwise


add, subtract, multiply = _pairwise("fadd"), _pairwise("fsub"), _pairwise("fmul")


@intrinsic
def multiply_add(typing, a, b, c):
    """Return ``a*b + c`` of three tiles or rows, rounded once where the machine can."""

    def write(emit, a, b, c):
        return emit.join(emit.multiply_add(*three) for three in zip(*(emit.split(v) for v in (a, b, c)), strict=True))

    return operation(a(a, b, c), write)


@intrinsic
def larger(typing, a, b):
    """Return the larger of two rows, number by number; where one is nan, the second."""

    def write(emit, a, b):
        return emit.builder.select(emit.builder.fcmp_ordered(">", a, b), a, b)

    return operation(a(a, b), write)


@intrinsic
def reciprocal(typing, row):
    """Return one divided by the row, number by number."""
    return operation(row(row), lambda emit, row: emit.builder.fdiv(emit.constant(1.0, row), row))


@intrinsic
def constant_row(typing, number):
    """Return a row of the same number."""

    def write(emit, number):
        kind = ir.VectorType(number.type, T)
        first = emit.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        return emit.shuffle(first, [0] * T)

    return operation(Row(number)(number), write)


@intrinsic
def exponential(typing, row):
    """Return e to the power of the row, to a rounding or two; 0 below the smallest normal number, infinite from half the largest on."""

    def write(emit, row):
        builder, single = emit.builder, row.type.element == ir.FloatType()
        # 2^n is operation into the exponent's bits, e^rest is a series for |rest| <= log(2)/2
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

    return operation(row(row), write)


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

    return operation(types.void(memory, types.intp, weights, types.intp, types.intp, tile), write)


@intrinsic
def add_products(typing, memory, start, a, b):
    """Add ``sum_t a[t] * b[t]`` of two tiles to ``memory[start:][:L]``."""

    def write(emit, memory, start, a, b):
        address = emit.at(memory, start)
        pairs = list(zip(emit.split(a), emit.split(b), strict=True))
        even = emit.load(address, vector_type(emit.dtype()), emit.dtype())
        odd = emit.builder.fmul(*pairs[0])  # two sums, since each product waits for the one before it in its sum
        for i, pair in enumerate(pairs[1:]):
            even, odd = (even, emit.multiply_add(*pair, odd)) if i % 2 else (emit.multiply_add(*pair, even), odd)
        emit.store(emit.builder.fadd(even, odd), address, emit.dtype())

    return operation(types.void(memory, types.intp, a, b), write)


@intrinsic
def add_channels(typing, memory, start, tile):
    """Add the sum over channels of vector t to ``memory[start + t]``."""

    def write(emit, memory, start, tile):
        vectors = emit.split(tile)
        while len(vectors) > 1:
            count = vectors[0].type.count
            vectors = [emit.shuffle(a, range(2 * count), b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        (total,) = vectors
        while total.type.count > T:
            even, odd = (emit.shuffle(total, range(side, total.type.count, 2)) for side in (0, 1))
            total = emit.builder.fadd(even, odd)
        address = emit.at(memory, start)
        emit.store(emit.builder.fadd(emit.load(address, total.type, emit.dtype()), total), address, emit.dtype())

    return operation(types.void(memory, types.intp, tile), write)


@intrinsic
def load_row(typing, memory, start):
    """Return the row ``memory[start:][:T]``."""

    def write(emit, memory, start):
        return emit.load(emit.at(memory, start), ir.VectorType(number_type(emit.dtype()), T), emit.dtype())

    return operation(Row(memory.dtype)(memory, types.intp), write)


@intrinsic
def store_row(typing, memory, start, row):
    """Write the row to ``memory[start:][:T]``."""
    return operation(
        types.void(memory, types.intp, row),
        lambda emit, memory, start, row: emit.store(row, emit.at(memory, start), emit.dtype()),
    )
