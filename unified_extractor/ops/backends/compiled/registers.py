"""Values in vector registers: their types for Numba, and the writer of LLVM instructions behind the operations in ``vectors.py``."""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from unified_extractor.ops.backends.compiled.compilation import VECTOR_BITS

T = 8
"""Positions in a tile."""
INDEX, _SHUFFLE = ir.IntType(64), ir.IntType(32)


def lanes_of(bits: int) -> int:
    """Return L, the channels in a vector of numbers with so many bits."""
    return VECTOR_BITS // bits


class _Registers(types.Type):
    """A Numba type whose values stay in registers; two of the same name are one type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"{type(self).__name__}({dtype}, {VECTOR_BITS})")


class Tile(_Registers):
    """T vectors of L channels."""


class Row(_Registers):
    """One number for each of T positions."""


class Places(_Registers):
    """A distance from the start of a memory for each of T positions."""


class Memory(_Registers):
    """The address of an array's first element."""


def number_type(dtype: Any) -> ir.Type:
    """Return LLVM's type of one number."""
    return {"int64": INDEX, "float32": ir.FloatType(), "float64": ir.DoubleType()}[dtype.name]


def vector_type(dtype: Any) -> ir.VectorType:
    """Return LLVM's type of L numbers."""
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
    """A writer of LLVM instructions for one call of an operation."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments

    def dtype(self, position: int = 0) -> Any:
        """Return the dtype of an argument."""
        return self.signature.args[position].dtype

    def at(self, base: Any, *steps: Any) -> Any:
        """Return the address of the element so many steps from ``base``."""
        for step in steps:
            base = self.builder.gep(base, [INDEX(step) if isinstance(step, int) else step])
        return base

    def load(self, address: Any, kind: ir.Type, dtype: Any) -> Any:
        """Return the vector of type ``kind`` at the address, aligned like one number."""
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), align=dtype.bitwidth // 8)

    def store(self, value: Any, address: Any, dtype: Any) -> Any:
        """Write the vector to the address, aligned like one number."""
        self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=dtype.bitwidth // 8)

    def split(self, value: Any) -> list[Any]:
        """Return the vectors of a tile, the vector of a row, or the numbers of places."""
        if isinstance(value.type, ir.VectorType):
            return [value]
        return [self.builder.extract_value(value, t) for t in range(T)]

    def join(self, values: Iterable[Any]) -> Any:
        """Return the tile, row or places of such values: the inverse of :meth:`split`."""
        if isinstance(self.signature.return_type, Row):
            (row,) = values
            return row
        result = ir.Constant(self.context.get_value_type(self.signature.return_type), ir.Undefined)
        for t, value in enumerate(values):
            result = self.builder.insert_value(result, value, t)
        return result

    def constant(self, value: float, like: Any) -> Any:
        """Return the same number in all lanes of a vector such as ``like``."""
        return ir.Constant(like.type, [value] * like.type.count)

    def splat(self, number: Any, dtype: Any) -> Any:
        """Return a vector with the number in all L lanes."""
        kind = vector_type(dtype)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, _SHUFFLE(0))
        return self.shuffle(first, [0] * kind.count)

    def shuffle(self, value: Any, lanes: Iterable[int], other: Any = None) -> Any:
        """Return these lanes of the two vectors, one behind the other, as a vector."""
        mask = [_SHUFFLE(lane) for lane in lanes]
        other = ir.Constant(value.type, ir.Undefined) if other is None else other
        return self.builder.shuffle_vector(value, other, ir.Constant(ir.VectorType(_SHUFFLE, len(mask)), mask))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Return ``a*b + c`` of three vectors, rounded once where the machine can."""
        bits = 32 if isinstance(a.type.element, ir.FloatType) else 64
        name = f"llvm.fmuladd.v{a.type.count}f{bits}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
        return self.builder.call(function, [a, b, c])

    def transpose(self, rows: list[Any]) -> list[Any]:
        """Return n vectors of m lanes as m vectors of n lanes, by interleaving halves."""
        count, length = len(rows), rows[0].type.count
        while len(rows) > 1:
            half, width = len(rows) // 2, rows[0].type.count
            interleaved = [lane + side for lane in range(width) for side in (0, width)]
            rows = [self.shuffle(a, interleaved, b) for a, b in zip(rows[:half], rows[half:], strict=True)]
        return [self.shuffle(rows[0], range(m * count, (m + 1) * count)) for m in range(length)]


def operation(signature: Any, write: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what Numba asks of an operation: its type and its writer; ``write`` takes an emitter and the LLVM values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = write(Emitter(context, builder, signature, arguments), *arguments)
        return context.get_dummy_value() if value is None else value

    return signature, generate
