"""What stays in registers: types for Numba, and the writer of LLVM instructions that the operations in ``vectors.py`` share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_type_hints

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model
from torch import Tensor

from unified_extractor.ops.backends.compiled.compilation import VECTOR_BITS
from unified_extractor.ops.backends.compiled.tables import Table

T = 8
"""Positions in a tile."""
INDEX, _SHUFFLE = ir.IntType(64), ir.IntType(32)


def lanes_of(bits: int) -> int:
    """L, the channels in a tile of numbers with so many bits."""
    return VECTOR_BITS // bits


class _Registers(types.Type):
    """A Numba type that lives in registers; two of the same name are one type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"{type(self).__name__}({dtype}, {VECTOR_BITS})")


class Tile(_Registers):
    """T vectors of L channels."""


class Row(_Registers):
    """One number for each of T positions."""


class Places(_Registers):
    """T distances from the start of a memory."""


class Memory(_Registers):
    """The first element of an array."""


def number_type(dtype: Any) -> ir.Type:
    """LLVM's type of one number."""
    return {"int64": INDEX, "float32": ir.FloatType(), "float64": ir.DoubleType()}[dtype.name]


def vector_type(dtype: Any) -> ir.VectorType:
    """LLVM's type of L numbers."""
    return ir.VectorType(number_type(dtype), lanes_of(dtype.bitwidth))


def _model(kind: type, layout: Callable[[Any], ir.Type]) -> None:
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, numba_type: Any) -> None:
            super().__init__(manager, numba_type, layout(numba_type.dtype))

    register_model(kind)(Model)


_model(Tile, lambda dtype: ir.ArrayType(vector_type(dtype), T))
_model(Row, lambda dtype: ir.VectorType(number_type(dtype), T))
_model(Places, lambda dtype: ir.ArrayType(INDEX, T))
_model(Memory, lambda dtype: number_type(dtype).as_pointer())
PLACES = Places(types.intp)


class Emitter:
    """Writes LLVM instructions for one call of an operation."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments

    def dtype(self, position: int = 0) -> Any:
        return self.signature.args[position].dtype

    def at(self, base: Any, *steps: Any) -> Any:
        for step in steps:
            base = self.builder.gep(base, [INDEX(step) if isinstance(step, int) else step])
        return base

    def load(self, address: Any, kind: ir.Type, dtype: Any) -> Any:
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=dtype.bitwidth // 8)

    def store(self, value: Any, address: Any, dtype: Any) -> Any:
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=dtype.bitwidth // 8)

    def split(self, value: Any) -> list[Any]:
        """The vectors of a tile, the one of a row, the numbers of places."""
        if isinstance(value.type, ir.VectorType):
            return [value]
        return [self.builder.extract_value(value, t) for t in range(T)]

    def joined(self, values: Iterable[Any]) -> Any:
        """The inverse of :meth:`split`."""
        if isinstance(self.signature.return_type, Row):
            (row,) = values
            return row
        result = ir.Constant(self.context.get_value_type(self.signature.return_type), ir.Undefined)
        for t, value in enumerate(values):
            result = self.builder.insert_value(result, value, t)
        return result

    def constant(self, value: float, like: Any) -> Any:
        """The same number in all lanes of a vector such as ``like``."""
        return ir.Constant(like.type, [value] * like.type.count)

    def splat(self, number: Any, dtype: Any) -> Any:
        kind = vector_type(dtype)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, _SHUFFLE(0))
        return self.shuffled(first, [0] * kind.count)

    def shuffled(self, value: Any, lanes: Iterable[int], other: Any = None) -> Any:
        mask = [_SHUFFLE(lane) for lane in lanes]
        other = ir.Constant(value.type, ir.Undefined) if other is None else other
        return self.builder.shuffle_vector(value, other, ir.Constant(ir.VectorType(_SHUFFLE, len(mask)), mask))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        bits = 32 if isinstance(a.type.element, ir.FloatType) else 64
        name = f"llvm.fmuladd.v{a.type.count}f{bits}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return self.builder.call(function, [a, b, c])

    def transposed(self, rows: list[Any]) -> list[Any]:
        """n vectors of m lanes as m vectors of n lanes, by interleaving halves."""
        count, length = len(rows), rows[0].type.count
        while len(rows) > 1:
            half, width = len(rows) // 2, rows[0].type.count
            interleaved = [lane + side for lane in range(width) for side in (0, width)]
            rows = [self.shuffled(a, interleaved, b) for a, b in zip(rows[:half], rows[half:], strict=True)]
        return [self.shuffled(rows[0], range(m * count, (m + 1) * count)) for m in range(length)]


def written(signature: Any, write: Callable[..., Any]) -> tuple[Any, Any]:
    """What Numba asks of an operation: its type, and what writes it; ``write`` gets an emitter and the LLVM values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = write(Emitter(context, builder, signature, arguments), *arguments)
        return context.get_dummy_value() if value is None else value

    return signature, generate


def described(record: Any, dtype: Any) -> Any:
    """Numba's type of a named tuple that :func:`numbers_of` wrote down, with memories for its arrays."""
    members = []
    for hint in get_type_hints(record).values():
        if isinstance(hint, type) and issubclass(hint, tuple):
            members.append(described(hint, dtype))
        elif hint is int:
            members.append(types.intp)
        else:
            members.append(Memory(types.int64 if hint == Table else dtype))
    return types.BaseTuple.from_types(members, record)


def numbers_of(record: Any) -> list[int]:
    """A named tuple of ints, arrays, tensors and such tuples as a list of numbers and addresses, 0 for None."""
    found: list[int] = []
    for value in record:
        if isinstance(value, tuple):
            found += numbers_of(value)
        elif isinstance(value, np.ndarray):
            found.append(value.ctypes.data)
        elif isinstance(value, Tensor):
            found.append(value.data_ptr())
        else:
            found.append(int(value or 0))
    return found


def read_back(emit: Emitter, kind: Any, numbers: Iterator[Any]) -> Any:
    """The value of a :func:`described` type from the numbers."""
    if isinstance(kind, Memory):
        return emit.builder.inttoptr(next(numbers), number_type(kind.dtype).as_pointer())
    if isinstance(kind, (types.NamedTuple, types.NamedUniTuple)):
        return emit.context.make_tuple(emit.builder, kind, [read_back(emit, member, numbers) for member in kind.types])
    return next(numbers)
