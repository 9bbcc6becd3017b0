"""``uniex bench code``: the committed counts of the Triton kernels' machine code are those of the kernels, and within their bounds."""

import json
from collections import Counter
from pathlib import Path

import pytest

from unified_extractor.benchmarks.machine_code import report
from unified_extractor.benchmarks.machine_code.instructions import code_of
from unified_extractor.benchmarks.machine_code.warp import UnknownValueError, Warp

triton = pytest.importorskip("triton", reason="Triton is not installed")
FILE = Path(__file__).parents[2] / "benchmarks" / "triton_code.json"
COMMITTED = json.loads(FILE.read_text())
HERE = [row for row in COMMITTED["now"]["kernels"] if row["triton"] == triton.__version__]
COUNTS = ("pass", "kernel", "warps", "registers", "shared", "spills", "instructions", "barriers", "loads", "lines")


@pytest.mark.parametrize(
    "only", ["involution torch.bfloat16", *(pytest.param(dtype, marks=pytest.mark.thorough) for dtype in ("torch.b", "torch.f"))]
)
def test_the_committed_counts_are_those_of_the_kernels(only):
    """Where this fails, the kernels have changed: ``uniex bench code`` writes the file anew."""
    if not HERE:
        pytest.skip(f"the file has no counts of Triton {triton.__version__}")
    words = [str(report.ARCHITECTURE), "--defaults", "--walk", "--channels-last", "--only", only]
    expected = [row for row in HERE if only in f"{row['call']} torch.{row['dtype']}"]
    found = report.lines_of(words)
    assert [{key: row.get(key) for key in COUNTS} for row in found] == [{key: row.get(key) for key in COUNTS} for row in expected]


def test_the_committed_table_is_made_of_the_committed_counts():
    assert FILE.with_suffix(".md").read_text() == report.markdown(COMMITTED)


def test_everything_is_counted_and_nothing_spills():
    for row in COMMITTED["now"]["kernels"]:
        assert row["instructions"], row
        assert not row["spills"], row


MOST_LINES = {"slice_gather": 8, "slice_backward": 8, "slice_static_kernel": 8}
"""A thread of these has 32 bytes of a line: two loads, one behind the other, touch the same eight lines."""
UNCOUNTED = {"banded_image_gradient", "banded_fold", "banded_fold_kernel_gradient"}
"""Kernels whose addresses are not all known under every Triton: where they are not, their lines are not counted."""


def test_wide_loads_touch_whole_lines_under_every_triton():
    assert {row["triton"] for row in COMMITTED["now"]["kernels"]} >= {"3.6.0", triton.__version__}
    for row in COMMITTED["now"]["kernels"]:
        if "16" in row["loads"] and (row["lines"] is not None or row["kernel"] not in UNCOUNTED):
            assert row["lines"] <= MOST_LINES.get(row["kernel"], 4.5), row


CODE = """
        /*0000*/                   S2R R0, SR_TID.X ;                   /* 0x0 */
        /*0010*/                   ULDC.64 UR4, c[0x0][0x210] ;         /* 0x0 */
        /*0020*/                   HFMA2.MMA R5, -RZ, RZ, 0, 0 ;        /* 0x0 */
        /*0030*/                   IMAD.U32 R2, RZ, RZ, UR4 ;           /* 0x0 */
        /*0040*/                   MOV R3, UR5 ;                        /* 0x0 */
        /*0050*/                   IMAD.WIDE.U32 R2, R0, {stride}, R2 ; /* 0x0 */
        /*0060*/                   LDG.E.128 R8, desc[UR6][R2.64+0x100] ; /* 0x0 */
        /*0070*/                   IADD3 R5, R5, 0x1, RZ ;              /* 0x0 */
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;        /* 0x0 */
        /*0090*/                   ISETP.NE.AND P0, PT, R5, {times}, PT ; /* 0x0 */
        /*00a0*/               @P0 BRA 0x60 ;                           /* 0x0 */
        /*00b0*/                   EXIT ;                               /* 0x0 */
"""
BASE = {0x210: 0x1000, 0x214: 0x7}


@pytest.mark.parametrize(("stride", "lines"), [("0x10", 4), ("0x20", 8), ("0x80", 32), ("0x0", 1), ("0x84", 32)])
def test_a_loop_is_walked_and_its_lines_are_counted(stride, lines):
    counts = Warp(code_of(CODE.format(stride=stride, times="0x7")), BASE, 0).run()
    assert counts.instructions == 6 + 7 * 5 + 1
    assert counts.barriers == 7
    assert counts.loads == Counter({16: 7})
    assert counts.lines == [lines + (stride == "0x84" and 1)] * 7


def test_a_loop_of_unknown_length_is_not_counted():
    text = CODE.format(stride="0x10", times="R77")
    with pytest.raises(UnknownValueError, match="the branch at 0xa0 depends on an unknown value"):
        Warp(code_of(text), BASE, 0).run()
