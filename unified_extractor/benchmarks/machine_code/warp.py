"""A warp that walks through a kernel's machine code: what it executes, and which cache lines its loads touch.

Loop counters, predicates and addresses are computed; loaded values are zeros, so offsets lie on the regular grid. What comes through
shared memory, from other threads or from operations that no address needs is *unknown*. An unknown condition skips nothing.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from unified_extractor.benchmarks.machine_code.arithmetic import (
    THREADS,
    Predicate,
    Values,
    bits,
    compared,
    extended,
    filled,
    floats,
    high,
    joined,
    looked_up,
    low,
    pair,
    permuted,
    shifted,
    signed,
)
from unified_extractor.benchmarks.machine_code.instructions import Code, Instruction

_LINE, _MOST = 128, 1_000_000
"""Bytes of a cache line, and the most instructions of a program: more are a loop without an end."""
_REGISTER, _CONSTANT = re.compile(r"U?R\d+$"), re.compile(r"c\[0x0\]\[(0x[0-9a-f]+)\]$")
_SILENT = {"BAR", "RED", "DEPBAR", "MEMBAR", "WARPSYNC", "NOP", "BSSY", "BSYNC", "LDGDEPBAR", "CCTL", "ERRBAR", "FENCE", "BREAK"}
"""Operations that write no register, stores beside."""


class UnknownValueError(RuntimeError):
    """The error for a value that is not known, where it decides how long a loop is."""


@dataclass
class Counts:
    """The work of one warp, counted."""

    instructions: int = 0
    barriers: int = 0
    loads: Counter[int] = field(default_factory=Counter)
    """Loads from global memory, by the bytes of a thread."""
    lines: list[int] = field(default_factory=list)
    """The lines that each load of 16 bytes touches; loads of unknown addresses are left out."""


class Warp:
    """The first warp of a program."""

    def __init__(self, code: Code, constants: Mapping[int, int], program: int) -> None:
        """Args: code: the kernel's. constants: 32-bit arguments by their place in the bank. program: its index along the first axis."""
        self.code, self.constants, self.program = code, constants, program
        self.registers: dict[str, Values | None] = {}
        self.predicates: dict[str, Predicate | None] = {}
        self.counts = Counts()
        self._calls: list[int] = []

    def run(self) -> Counts:
        """Execute the program to its end.

        Raises:
            UnknownValueError: an unknown condition ends a loop.
        """
        place: int | None = 0
        while place is not None:
            instruction = self.code.instructions[place]
            self.counts.instructions += 1
            if self.counts.instructions > _MOST:
                raise UnknownValueError("a loop does not end")
            self.counts.barriers += instruction.base == "BAR"
            place = self._following(place, instruction)
        return self.counts

    def _following(self, place: int, instruction: Instruction) -> int | None:
        """Execute an instruction and return the place of the next one; None at the end."""
        base = instruction.base
        if base == "EXIT":
            guard = self.guard(instruction)
            return None if guard is not None and guard.all() else place + 1
        if base in ("CALL", "BRA"):
            target = self.code.places[int(instruction.operands[-1].split()[-1], 16)]
            if base == "CALL":
                self._calls.append(place + 1)
            return target if base == "CALL" or self._jumps(instruction, target <= place) else place + 1
        if base == "RET":
            return self._calls.pop()
        self._execute(instruction)
        return place + 1

    def _jumps(self, instruction: Instruction, backward: bool) -> bool:
        """Return whether a branch is taken: back into a loop while any thread goes, past instructions if every thread does."""
        taken = self.guard(instruction)
        for operand in instruction.operands[:-1]:
            other = self.predicate(operand)
            taken = None if taken is None or other is None else taken & other
        if taken is None:
            if backward:
                raise UnknownValueError(f"the branch at {instruction.address:#x} depends on an unknown value")
            return False
        return bool(taken.any() if backward else taken.all())

    def _execute(self, instruction: Instruction) -> None:
        guard = self.guard(instruction)
        if instruction.base.startswith("LDG") and instruction.operands:
            self._load(instruction, guard)
        if instruction.base in _SILENT or instruction.base.startswith("ST") or not instruction.operands:
            return
        base = instruction.base if instruction.base in OPERATIONS else instruction.base.removeprefix("U")
        try:
            written = OPERATIONS[base](self, instruction) if base in OPERATIONS else _unknown_results(instruction)
        except UnknownValueError:
            written = _unknown_results(instruction)
        for name, value in written.items():
            self._write(name, value, guard)

    def _load(self, instruction: Instruction, guard: Predicate | None) -> None:
        """Count a load and, if it has 16 bytes, its lines."""
        self.counts.loads[instruction.bytes] += 1
        if instruction.bytes != 16 or guard is None or not guard.any():
            return
        try:
            first = self.address(instruction.global_address)[guard]
        except UnknownValueError:
            return
        self.counts.lines.append(len(np.unique(np.concatenate([first // _LINE, (first + 15) // _LINE]))))

    def _write(self, name: str, value: Values | Predicate | None, guard: Predicate | None) -> None:
        where = self.predicates if "P" in name else self.registers
        if name in ("RZ", "URZ", "PT", "UPT"):
            return
        if guard is None or value is None:
            where[name] = None
        elif guard.all():
            where[name] = value  # type: ignore[assignment]
        elif guard.any():
            before = where.get(name)
            where[name] = None if before is None else np.where(guard, value, before)

    def guard(self, instruction: Instruction) -> Predicate | None:
        """Return for which threads an instruction acts; None if unknown."""
        return self.predicate(("!" if instruction.negated else "") + (instruction.guard or "PT"))

    def predicate(self, text: str) -> Predicate | None:
        """Return the predicate of an operand; None if unknown."""
        name = text.removeprefix("!")
        found = np.ones(THREADS, np.bool_) if name in ("PT", "UPT") else self.predicates.get(name)
        return found if found is None or not text.startswith("!") else ~found

    def known_predicate(self, text: str) -> Predicate:
        """Return the predicate of an operand."""
        found = self.predicate(text)
        if found is None:
            raise UnknownValueError(text)
        return found

    def value(self, text: str) -> Values:
        """Return the 32 bits of an operand, of a negated one as many as a carry needs."""
        if text.startswith("-") and not text.startswith("-0x"):
            return np.uint64(2**32) - low(self.value(text[1:]))
        if text.startswith("~"):
            return low(~self.value(text[1:]))
        if text.startswith("|"):
            return np.abs(signed(self.value(text.strip("|")))).view(np.uint64)
        if text in ("RZ", "URZ", "SRZ"):
            return filled(0)
        if constant := _CONSTANT.match(text):
            if (place := int(constant.group(1), 16)) in self.constants:
                return filled(self.constants[place])
        elif _REGISTER.match(text):
            if (found := self.registers.get(text)) is not None:
                return found
        elif re.match(r"-?0x[0-9a-f]+$", text):
            return filled(int(text, 16))
        raise UnknownValueError(text)

    def wide(self, text: str) -> Values:
        """Return 64 bits of a pair of registers, of constants, or of a number that is extended by its sign."""
        if text in ("RZ", "URZ") or text.lstrip("-").startswith("0x"):
            return extended(low(self.value(text)))
        return pair(low(self.value(text)), low(self.value(_next(text))))

    def real(self, text: str) -> np.ndarray:
        """Return the float32 numbers of an operand."""
        if text.startswith("-") and not re.match(r"-[\d.]", text):
            return -self.real(text[1:])
        if text.startswith("|"):
            return np.abs(self.real(text.strip("|")))
        if re.match(r"[-+]?(\d|INF)", text) and "x" not in text:
            return np.full(THREADS, float(text.replace("INF", "inf")), np.float32)
        return floats(low(self.value(text)))

    def address(self, text: str) -> Values:
        """Return the address that a text such as ``R2.64+UR4+0x10`` names."""
        total = np.zeros(THREADS, np.uint64)
        for term in text.replace("+-", "+~").split("+"):
            name = term.removesuffix(".64").removesuffix(".U32").removesuffix(".X")
            if name.startswith("~"):
                total = total - filled(int(name[1:], 16))
            else:
                total = total + (self.value(name) if name.startswith("0x") or term.endswith(".U32") else self.wide(name))
        return total


def _next(text: str) -> str:
    """Return the name of the register, or the place of the constant, behind another."""
    if constant := _CONSTANT.match(text):
        return f"c[0x0][{int(constant.group(1), 16) + 4:#x}]"
    prefix, number = re.match(r"(U?R)(\d+)$", text).groups()  # type: ignore[union-attr]
    return f"{prefix}{int(number) + 1}"


def _registers_written(instruction: Instruction) -> int:
    """Return how many registers an instruction writes, the first of which is named."""
    base, modifiers = instruction.base, instruction.modifiers
    if base in ("HMMA", "IMMA"):
        return 2 if "F16" in modifiers else 4
    if base == "LDSM":
        return int(modifiers[-1]) if modifiers[-1].isdigit() else 1
    if base.startswith("LD"):
        return max(instruction.bytes // 4, 1)
    return 2 if {"WIDE", "64", "F64"} & set(modifiers) or base in ("DADD", "DMUL", "DFMA", "CS2R") else 1


def _unknown_results(instruction: Instruction) -> dict[str, None]:
    """Return every register that an instruction writes, without a value."""
    names = []
    for place, operand in enumerate(instruction.operands):
        if _REGISTER.match(operand):
            names += _run_of(operand, _registers_written(instruction))
            if place == 0:
                names += [later for later in instruction.operands[1:3] if re.match(r"U?P\d$", later)]
            break
        if re.match(r"U?P\d$", operand):
            names.append(operand)
        elif operand not in ("PT", "UPT", "RZ"):
            break
    return dict.fromkeys(names)


def _run_of(first: str, count: int) -> list[str]:
    names = [first]
    while len(names) < count:
        names.append(_next(names[-1]))
    return names


Results = Mapping[str, Values | Predicate | None]


def _split(instruction: Instruction) -> tuple[str, list[str], list[str]]:
    """Return the register that is written, the predicates written beside it, and the operands that are read."""
    target, *rest = instruction.operands
    carries = []
    while rest and re.match(r"U?P[\dT]$", rest[0]):
        carries.append(rest.pop(0))
    return target, carries, rest


def _add(warp: Warp, instruction: Instruction) -> Results:
    target, carries, (a, b, *rest) = _split(instruction)
    total = warp.value(a) + warp.value(b) + (warp.value(rest[0]) if rest else filled(0))
    if "X" in instruction.modifiers:
        for carry in rest[1:]:
            total = total + warp.known_predicate(carry)
    return {target: low(total)} | {name: high(total) > 0 for name in carries}


def _multiply_add(warp: Warp, instruction: Instruction) -> Results:
    target, carries, (a, b, c, *rest) = _split(instruction)
    modifiers = instruction.modifiers
    if "WIDE" not in modifiers and "HI" not in modifiers:
        total = low(warp.value(a)) * low(warp.value(b)) + warp.value(c)
        if "X" in modifiers:
            for carry in rest:
                total = total + warp.known_predicate(carry)
        return {target: low(total)} | dict.fromkeys(carries)
    factors = [low(warp.value(a)), low(warp.value(b))]
    if "U32" not in modifiers:
        factors = [extended(factor) for factor in factors]
    with np.errstate(over="ignore"):
        total = factors[0] * factors[1] + (warp.wide(c) if c != "RZ" else filled(0))
    if "HI" in modifiers:
        return {target: high(total)}
    return {target: low(total), _next(target): high(total)} | dict.fromkeys(carries)


def _shifted_add(warp: Warp, instruction: Instruction) -> Results:
    target, carries, (a, b, *rest) = _split(instruction)
    modifiers = instruction.modifiers
    if "HI" not in modifiers:
        total = low(low(warp.value(a)) << low(warp.value(rest[0]))) + warp.value(b)
        return {target: low(total)} | {name: high(total) > 0 for name in carries}
    upper = high(extended(low(warp.value(a)))) if "SX32" in modifiers else low(warp.value(rest.pop(0)))
    total = low(high(pair(low(warp.value(a)), upper) << low(warp.value(rest[0])))) + warp.value(b)
    if "X" in modifiers:
        for carry in rest[1:]:
            total = total + warp.known_predicate(carry)
    return {target: low(total)} | {name: high(total) > 0 for name in carries}


def _shift(warp: Warp, instruction: Instruction) -> Results:
    target, a, by, c = instruction.operands
    modifiers = instruction.modifiers
    arithmetic, left = "S32" in modifiers or "S64" in modifiers, "L" in modifiers
    values = pair(low(warp.value(a)), low(warp.value(c)))
    if left:
        result = shifted(values, warp.value(by), left=True)
        return {target: high(result) if "HI" in modifiers else low(result)}
    if "HI" in modifiers:  # the upper word alone
        upper = low(warp.value(c))
        return {target: low(shifted(extended(upper) if arithmetic else upper, warp.value(by), left=False, arithmetic=arithmetic))}
    return {target: low(shifted(values, warp.value(by), left=False, arithmetic=arithmetic))}


def _logic(warp: Warp, instruction: Instruction) -> Results:
    predicates = []
    operands = list(instruction.operands)
    while re.match(r"U?P[\dT]$", operands[0]):
        predicates.append(operands.pop(0))
    target, a, b, c, table, *_ = operands
    result = looked_up(int(table, 16), *(low(warp.value(text)) for text in (a, b, c)))
    return {target: result} | dict.fromkeys(predicates, result != 0)


def _predicate_logic(warp: Warp, instruction: Instruction) -> Results:
    first, second, a, b, c, table, other = instruction.operands
    inputs = [np.where(warp.known_predicate(text), np.uint64(1), np.uint64(0)) for text in (a, b, c)]
    found = [(looked_up(int(entry, 16), *inputs) & np.uint64(1)).astype(np.bool_) for entry in (table, other)]
    return {first: found[0], second: found[1]}


def _compare(warp: Warp, instruction: Instruction) -> Results:
    first, second, a, b, *rest = instruction.operands
    modifiers = instruction.modifiers
    values = [low(warp.value(text)) for text in (a, b)]
    if "U32" not in modifiers:
        values = [signed(value) for value in values]  # type: ignore[misc]
    result = compared(modifiers, *values)
    if "EX" in modifiers:  # of the upper words; the comparison of the lower ones decides where they are equal
        equal, lower = values[0] == values[1], warp.known_predicate(rest[1])
        result = equal & lower if modifiers[0] == "EQ" else np.where(equal, lower, result)
    given = warp.known_predicate(rest[0])
    return {first: joined(modifiers, result, given), second: joined(modifiers, ~result, given)}


def _select(warp: Warp, instruction: Instruction) -> Results:
    target, a, b, condition = instruction.operands
    return {target: np.where(warp.known_predicate(condition), low(warp.value(a)), low(warp.value(b)))}


def _minimum(warp: Warp, instruction: Instruction) -> Results:
    target, a, b, condition = instruction.operands[-4:]
    left, right = low(warp.value(a)), low(warp.value(b))
    smaller = left < right if "U32" in instruction.modifiers else signed(left) < signed(right)
    return {target: np.where(smaller == warp.known_predicate(condition), left, right)}


def _permute(warp: Warp, instruction: Instruction) -> Results:
    target, a, selector, b = instruction.operands
    return {target: permuted(*(low(warp.value(text)) for text in (a, selector, b)))}


def _extend(warp: Warp, instruction: Instruction) -> Results:
    target, a, width = instruction.operands
    number = int(warp.value(width)[0])
    kept = low(warp.value(a)) & np.uint64(2**number - 1)
    if "U32" in instruction.modifiers:
        return {target: kept}
    sign = np.uint64(1 << (number - 1))
    return {target: low((kept ^ sign) - sign)}


def _copy(warp: Warp, instruction: Instruction) -> Results:
    target, source = instruction.operands[:2]
    if "64" not in instruction.modifiers and instruction.base != "CS2R":
        return {target: low(warp.value(source))}
    values = warp.wide(source) if source != "SRZ" else filled(0)
    return {target: low(values), _next(target): high(values)}


def _special(warp: Warp, instruction: Instruction) -> Results:
    target, source = instruction.operands
    known = {"SR_CTAID.X": filled(warp.program), "SR_CTAID.Y": filled(0), "SR_CTAID.Z": filled(0)}
    threads = np.arange(THREADS, dtype=np.uint64)
    return {target: (known | {"SR_TID.X": threads, "SR_LANEID": threads}).get(source)}


def _half_constant(warp: Warp, instruction: Instruction) -> Results:
    target, a, b, *halves = instruction.operands
    if {a.lstrip("-"), b} != {"RZ"} or len(halves) != 2:
        raise UnknownValueError(instruction.name)
    upper, lower = (int(np.float16(float(half)).view(np.uint16)) for half in halves)
    return {target: filled(upper << 16 | lower)}


def _predicates_to_register(warp: Warp, instruction: Instruction) -> Results:
    target, _, source, mask = instruction.operands
    chosen, result = int(mask, 16), low(warp.value(source)) & filled(~int(mask, 16))
    for place in range(7):
        if chosen >> place & 1:
            result |= np.where(warp.known_predicate(f"P{place}"), np.uint64(1 << place), np.uint64(0))
    return {target: result}


def _register_to_predicates(warp: Warp, instruction: Instruction) -> Results:
    chosen = int(instruction.operands[-1], 16)
    names = [place for place in range(7) if chosen >> place & 1]
    try:
        values = warp.value(instruction.operands[1])
    except UnknownValueError:
        return {f"P{place}": None for place in names}
    return {f"P{place}": (values >> np.uint64(place) & np.uint64(1)).astype(np.bool_) for place in names}


def _absolute(warp: Warp, instruction: Instruction) -> Results:
    return {instruction.operands[0]: np.abs(signed(low(warp.value(instruction.operands[1])))).view(np.uint64)}


def _loaded(warp: Warp, instruction: Instruction) -> Results:
    return {name: filled(0) for name in _run_of(instruction.operands[0], _registers_written(instruction))}


def _to_float(warp: Warp, instruction: Instruction) -> Results:
    target, source = instruction.operands
    values = low(warp.value(source))
    exact = values.astype(np.float64) if "U32" in instruction.modifiers else signed(values).astype(np.float64)
    number = exact.astype(np.float32)
    if "RP" in instruction.modifiers:  # rounded up
        number = np.where(number < exact, np.nextafter(number, np.float32(np.inf)), number)
    return {target: bits(number)}


def _to_integer(warp: Warp, instruction: Instruction) -> Results:
    target, source = instruction.operands
    rounded = np.floor(warp.real(source)) if "FLOOR" in instruction.modifiers else np.trunc(warp.real(source))
    limits = (0, 2**32 - 1) if "U32" in instruction.modifiers else (-(2**31), 2**31 - 1)
    return {target: low(np.clip(np.nan_to_num(rounded.astype(np.float64)), *limits).astype(np.int64).view(np.uint64))}


def _real(compute: Callable[..., np.ndarray]) -> Callable[[Warp, Instruction], Results]:
    def run(warp: Warp, instruction: Instruction) -> Results:
        target, *operands = instruction.operands
        with np.errstate(all="ignore"):
            return {target: bits(compute(*(warp.real(operand) for operand in operands)))}

    return run


def _reciprocal(warp: Warp, instruction: Instruction) -> Results:
    if instruction.modifiers[:1] != ("RCP",):
        raise UnknownValueError(instruction.name)
    with np.errstate(all="ignore"):
        return {instruction.operands[0]: bits((1 / warp.real(instruction.operands[1])).astype(np.float32))}


def _compare_real(warp: Warp, instruction: Instruction) -> Results:
    first, second, a, b, given = instruction.operands
    result, before = compared(instruction.modifiers, warp.real(a), warp.real(b)), warp.known_predicate(given)
    return {first: joined(instruction.modifiers, result, before), second: joined(instruction.modifiers, ~result, before)}


OPERATIONS: dict[str, Callable[[Warp, Instruction], Results]] = {
    "IADD3": _add,
    "VIADD": _add,
    "IMAD": _multiply_add,
    "LEA": _shifted_add,
    "SHF": _shift,
    "LOP3": _logic,
    "PLOP3": _predicate_logic,
    "ISETP": _compare,
    "SEL": _select,
    "FSEL": _select,
    "VIMNMX": _minimum,
    "IMNMX": _minimum,
    "PRMT": _permute,
    "SGXT": _extend,
    "MOV": _copy,
    "CS2R": _copy,
    "LDC": _copy,
    "R2UR": _copy,
    "S2R": _special,
    "S2UR": _special,
    "HFMA2": _half_constant,
    "P2R": _predicates_to_register,
    "R2P": _register_to_predicates,
    "IABS": _absolute,
    "LDG": _loaded,
    "I2F": _to_float,
    "I2FP": _to_float,
    "F2I": _to_integer,
    "FADD": _real(np.add),
    "FMUL": _real(np.multiply),
    "FFMA": _real(lambda a, b, c: a * b + c),
    "FRND": _real(np.floor),
    "MUFU": _reciprocal,
    "FSETP": _compare_real,
}
"""The functions of operations; any other operation makes its results unknown."""
