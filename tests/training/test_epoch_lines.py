"""What a run prints about its time."""

from types import SimpleNamespace

import pytest
import torch

from unified_extractor.training.callbacks import epoch_lines
from unified_extractor.training.run.step_count import StepCount


@pytest.mark.parametrize(("batches", "warned"), [(500, False), (6000, True)])
def test_the_first_steps_tell_how_long_an_epoch_and_the_run_take(batches, warned, monkeypatch, capsys):
    clock = iter([0.0, 9.0, *(9.0 + 0.7 * step for step in range(1, 20))])  # the first step compiles
    monkeypatch.setattr(epoch_lines.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(epoch_lines, "planned_steps", lambda *_: StepCount(batches, batches, 10 * batches))
    device = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, strategy=device, datamodule=None, current_epoch=4)
    lines = epoch_lines.EpochLines()
    lines.on_train_start(trainer, None)
    for _ in range(10):
        lines.on_train_batch_end(trainer)
    printed = capsys.readouterr()
    epoch, run = {500: ("6 min", "35 min"), 6000: ("70 min", "7 h 00 min")}[batches]
    assert printed.out == f"about {epoch} an epoch of {batches} steps, {run} for 6 of them, without validation\n"
    assert printed.err == ("uniex: warning: an epoch takes about 70 min here\n" if warned else "")
