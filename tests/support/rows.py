"""Rows of runs that never happened."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np

from unified_extractor.results.record import EpochMetrics, Record
from unified_extractor.results.switches import read_switches

ROW = Record(
    schema=2,
    run="run-00000000",
    name="digits/involution",
    question="",
    variant="involution",
    budget="",
    dataset="digits",
    config_hash="0123abcd",
    settings_hash="5e771195",
    network="unified_extractor.models.ExtractorNet",
    specs=[{"kernel_size": [3, 3], "dynamic_kernel": {"source": "generated", "groups": 4}}],
    parameters=12_345,
    multiply_adds=1_234_567,
    seed=0,
    epochs=2,
    best_epoch=2,
    train_images=1000,
    epoch_images=992,
    test_images=200,
    batch_size=64,
    test_accuracy=0.9625,
    test_top5_accuracy=0.9987,
    test_loss=0.125,
    test_calibration_error=0.0314,
    val_accuracy=0.9712,
    val_loss=0.111,
    seconds_per_epoch=1.25,
    seconds_per_step=0.01,
    peak_memory_bytes=300 * 2**20,
    device="cpu x86_64",
    devices=1,
    precision="32-true",
    threads=1,
    versions={"torch": "2.11"},
    commit=None,
    dirty=None,
    finished="2025-01-01T00:00:00+00:00",
    curve=[
        EpochMetrics(epoch=1, train_loss=1.1, train_accuracy=0.5, val_loss=0.9, val_accuracy=0.61),
        EpochMetrics(epoch=2, train_loss=0.4, train_accuracy=0.9, val_loss=0.3, val_accuracy=0.9712),
    ],
)


def row(variant="involution", seed=0, **fields):
    """A row whose run's name tells variant, seed and group."""
    dataset, budget = fields.get("dataset", "digits"), fields.get("budget", "")
    run = f"run-{variant}-{seed}-{dataset}{budget}"
    return replace(ROW, **{"run": run, "name": f"{dataset}/{variant}", "variant": variant, "seed": seed, **fields})


def rows_of(accuracies, **fields):
    """Rows of variants by name, a test accuracy a seed."""
    return [
        row(variant, seed, **{"test_accuracy": value, **fields})
        for variant, own in accuracies.items()
        for seed, value in enumerate(own)
    ]


def segmented(variant="involution", seed=0, **fields):
    """A row of a segmentation."""
    curve = [replace(point, val_miou=point.val_accuracy / 2) for point in ROW.curve]
    own = {"test_top5_accuracy": None, "test_calibration_error": None, "val_miou": 0.48, "test_miou": 0.45, "curve": curve}
    return row(
        variant, seed, **{"dataset": "camvid", **own, "test_class_iou": {"sky": 0.8, "sign": 0.1, "fence": None}, **fields}
    )


SWITCHES_FILE = Path(__file__).parents[2] / "experiments" / "01_unified" / "switches.yaml"
SWITCHES = read_switches(SWITCHES_FILE)
FACTORIAL_SWITCHES = ("offsets", "static kernel", "wide view", "softmax", "fold")


def factorial_spec(offsets, static, wide, softmax, fold, **more):
    return {
        "kernel_size": 3,
        "offsets": {"kind": "learned" if offsets else "none"},
        "static_kernel": {"channels": "depthwise" if static else "none"},
        "dynamic_kernel": {"source": "generated", "channels_per_group": 16, "normalization": "softmax" if softmax else "none"},
        "generator": {"view": 7 if wide else 1, "reduction": 4, "pointwise": True},
        "aggregation": "fold" if fold else "gather",
        **more,
    }


def factorial_rows(truth, *, seeds=1, noise=0.0):
    """All 32 cells; ``truth(*levels)`` is a cell's accuracy."""
    random, rows = np.random.default_rng(0), []
    for levels in itertools.product([False, True], repeat=5):
        name = "-".join(name.split()[0] for name, on in zip(FACTORIAL_SWITCHES, levels, strict=True) if on) or "none"
        for seed in range(seeds):
            accuracy = truth(*levels) + 0.01 * seed + random.normal(0, noise)
            rows.append(row(name, seed, specs=[factorial_spec(*levels)] * 3, test_accuracy=accuracy))
    return rows
