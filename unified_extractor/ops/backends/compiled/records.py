"""Records, named tuples of integers, arrays and further records, on their way into the loops, which take them as integers and addresses.

A memory is an array without its length and without a reference count, which would cost as much as the loops: the caller of a kernel keeps
the arrays alive.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any, get_type_hints

import numpy as np
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from unified_extractor.ops.backends.compiled.plan import Table
from unified_extractor.ops.backends.compiled.registers import Emitter, Memory, number_type, operation


def _numba_type(record: Any, dtype: Any) -> Any:
    """Return Numba's type of a record, with memories for its arrays."""
    members = []
    for hint in get_type_hints(record).values():
        if isinstance(hint, type) and issubclass(hint, tuple):
            members.append(_numba_type(hint, dtype))
        elif hint is int:
            members.append(types.intp)
        else:
            members.append(Memory(types.int64 if hint == Table else dtype))
    return types.BaseTuple.from_types(members, record)


def flat_record(record: Any) -> list[int]:
    """Return a record as a list of its integers and of its arrays' addresses, 0 for None."""
    found: list[int] = []
    for value in record:  # on the way of every call: the frequent kinds first
        if value is None:
            found.append(0)
        elif isinstance(value, Tensor):
            found.append(value.data_ptr())
        elif isinstance(value, tuple):
            found += flat_record(value)
        elif isinstance(value, np.ndarray):
            found.append(value.ctypes.data)
        else:
            found.append(int(value))
    return found


def _rebuilt(emit: Emitter, kind: Any, numbers: Iterator[Any]) -> Any:
    """Write instructions that build a record of this type from the numbers of :func:`flat_record`; return its value."""
    if isinstance(kind, Memory):
        return emit.builder.inttoptr(next(numbers), number_type(kind.dtype).as_pointer())
    if isinstance(kind, (types.NamedTuple, types.NamedUniTuple)):
        return emit.context.make_tuple(emit.builder, kind, [_rebuilt(emit, member, numbers) for member in kind.types])
    return next(numbers)


@intrinsic
def read_record(typing: Any, numbers: Any, like: Any, record: Any) -> Any:
    """Return the record of this class from the numbers of :func:`flat_record`; ``like``: a number of the call's dtype."""
    kind = _numba_type(record.instance_class, like)

    def write(emit: Emitter, numbers: Any, like: Any, record: Any) -> Any:
        base = emit.context.make_array(emit.signature.args[0])(emit.context, emit.builder, numbers).data
        return _rebuilt(emit, kind, (emit.builder.load(emit.at(base, i)) for i in count()))

    return operation(kind(numbers, like, record), write)


@intrinsic
def lay_out(typing: Any, memory: Any, starts: Any) -> Any:
    """Return a record of ``starts`` with the memory from each of its starts on in their place."""

    def write(emit: Emitter, memory: Any, starts: Any) -> Any:
        kind = emit.signature.args[1]
        members = [emit.at(memory, emit.builder.extract_value(starts, i)) for i in range(len(kind))]
        return emit.context.make_tuple(emit.builder, emit.signature.return_type, members)

    kind = types.BaseTuple.from_types([memory] * len(starts), starts.instance_class)
    return operation(kind(memory, starts), write)
