"""The Triton kernels compiled for GPUs that are not there, and what the compilers report. Nothing runs."""

import pytest

from unified_extractor.benchmarks.machine_code.report import lines_of

pytest.importorskip("triton", reason="Triton is not installed")
REGISTERS = 65536
"""Registers of a multiprocessor."""
PLANNED_WARPS = {
    "gather": 16,
    "fold": 16,
    "dynamic_kernel_backward": 16,
    "backward": 8,
    "slice_gather": 16,
    "slice_backward": 16,
    "slice_static_kernel": 16,
    "collect": 16,
    "banded_gather": 12,
    "banded_image_gradient": 12,
    "banded_kernel_gradient": 12,
    "banded_fold": 12,
    "banded_fold_kernel_gradient": 12,
}
"""Fewest warps that a multiprocessor must have room for in a kernel's default configuration: more where loads wait for memory, fewer
beside a matrix product. Another configuration, which only a measurement chooses, has room for eight."""


ARCHITECTURES = {
    "sm_90, each call once": ("90", "--defaults", "--once"),
    "sm_90": ("90", "--defaults"),
    "sm_80": ("80", "--defaults"),
    "sm_90, all configurations": ("90",),
}
FIRST, *OTHERS = ARCHITECTURES


@pytest.fixture(scope="module", params=[FIRST, *(pytest.param(name, marks=pytest.mark.thorough) for name in OTHERS)])
def kernels(request):
    return lines_of(ARCHITECTURES[request.param])


def name_of(row):
    return " ".join(str(row[key]) for key in ("call", "dtype", "layout", "kernel", "warps", "options"))


def test_every_kernel_is_compiled_in_both_layouts_and_dtypes(kernels):
    assert {row["kernel"] for row in kernels} == set(PLANNED_WARPS)
    assert {(row["dtype"], row["layout"]) for row in kernels} == {
        (dtype, layout) for dtype in ("bfloat16", "float32") for layout in ("channels_last", "contiguous")
    }


def test_nothing_spills_to_local_memory(kernels):
    """The default configuration spills nothing; another one that the tuner may take spills eight registers at most, by assembler."""
    assert not [name_of(row) for row in kernels if row["default"] and (row["spills"] or row["stack"])]
    assert not [name_of(row) for row in kernels if row["stack"] > 32]


def test_neighboring_channels_are_loaded_sixteen_bytes_at_once(kernels):
    """All kernels that load tiles of pixels do so in their default configuration."""
    for row in kernels:
        if row["layout"] == "channels_last" and row["default"] and row["kernel"] != "collect":
            assert max(row["widths"]) == 16, name_of(row)


def test_registers_leave_room_for_the_warps_planned(kernels):
    for row in kernels:
        a_block = 32 * row["warps"] * -(-row["registers"] // 8) * 8
        warps = REGISTERS // a_block * row["warps"]
        assert warps >= (PLANNED_WARPS[row["kernel"]] if row["default"] else 8), (
            f"{name_of(row)}: {row['registers']} registers, {warps} warps"
        )
