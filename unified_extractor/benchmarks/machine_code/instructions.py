"""The machine code of a kernel as a list of instructions, read from what NVIDIA's disassembler prints."""

import re
from typing import NamedTuple

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?)(U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", re.MULTILINE)
_ADDRESS = re.compile(r"\[([^\[\]]*)\]$")


class Instruction(NamedTuple):
    """One instruction: ``@!guard name operands``."""

    address: int
    negated: bool
    """True if it acts where the guard is false."""
    guard: str
    """The predicate register under which it acts; empty if it always acts."""
    name: str
    """The operation with its modifiers, such as ``LDG.E.128``."""
    operands: tuple[str, ...]

    @property
    def base(self) -> str:
        """The operation without its modifiers."""
        return self.name.split(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The modifiers of the operation."""
        return tuple(self.name.split(".")[1:])

    @property
    def bytes(self) -> int:
        """The bytes that a thread loads or stores by it."""
        sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
        return next((sizes[modifier] for modifier in reversed(self.modifiers) if modifier in sizes), 4)

    @property
    def global_address(self) -> str:
        """The text of the address in global memory, of a load or of a copy to shared memory."""
        found = next(operand for operand in reversed(self.operands) if operand.startswith(("desc", "[")))
        match = _ADDRESS.search(found)
        assert match is not None
        return match.group(1)


class Code(NamedTuple):
    """The instructions of a kernel, and where each lies."""

    instructions: list[Instruction]
    places: dict[int, int]
    """The place in the list of the instruction at an address."""

    def count(self, *bases: str) -> int:
        """Return how many instructions have one of these operations."""
        return sum(instruction.base in bases for instruction in self.instructions)


def code_of(text: str) -> Code:
    """Return the code that a disassembly lists."""
    found = []
    for address, negation, guard, name, rest in _LINE.findall(text):
        operands = tuple(operand.strip().replace(".reuse", "") for operand in rest.split(",")) if rest else ()
        found.append(Instruction(int(address, 16), bool(negation), guard, name, operands))
    return Code(found, {instruction.address: place for place, instruction in enumerate(found)})
