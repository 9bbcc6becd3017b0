"""Rows are read from run folders and files of rows, in order and once; a broken one is refused by its file and line."""

import json
import re
from dataclasses import asdict

import pytest

from tests.support.rows import ROW, row
from unified_extractor.results.record import RecordError, as_line, read_rows, write_rows
from unified_extractor.results.sources import find_rows, find_runs, read_run


def run_folder(folder, record):
    folder.mkdir(parents=True)
    write_rows(folder / "record.json", [record])
    return folder


def test_rows_come_in_the_order_of_sources_and_of_folders_and_each_once(tmp_path):
    a, b, c, d, e = (row(variant) for variant in "abcde")
    for place, record in (("runs/z/version_0", a), ("runs/b/version_1", b), ("runs/b/version_0", c), ("runs/a", e)):
        run_folder(tmp_path / place, record)
    write_rows(tmp_path / "rows.jsonl", [d])
    assert find_rows([tmp_path / "rows.jsonl", tmp_path / "runs"]) == [d, e, c, b, a]
    again = [tmp_path / "runs" / "z", tmp_path / "runs" / ".." / "runs", tmp_path / "runs" / "z" / "version_0"]
    assert find_rows(again) == [a, e, c, b]
    assert find_runs([tmp_path]) == [tmp_path / "runs" / place for place in ("a", "b/version_0", "b/version_1", "z/version_0")]
    assert read_run(tmp_path / "runs" / "z" / "version_0") == a


def test_a_run_that_two_files_hold_is_refused(tmp_path):
    run_folder(tmp_path / "run", row())
    write_rows(tmp_path / "rows.jsonl", [row(seed=1), row()])
    with pytest.raises(RecordError, match=r"rows.jsonl:2: the run run-involution-0-digits has a row already, .*record.json:1"):
        find_rows([tmp_path / "run", tmp_path / "rows.jsonl"])


def test_sources_without_rows_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for source, message in (
        (tmp_path / "no", "no: no such file or folder"),
        (tmp_path, "no record.json"),
        (tmp_path / "empty.jsonl", "no rows in .*empty.jsonl"),
    ):
        with pytest.raises(RecordError, match=message):
            find_rows([source])


@pytest.mark.parametrize("count", [0, 2])
def test_the_record_of_a_run_is_one_row(tmp_path, count):
    write_rows(tmp_path / "record.json", [row(seed=seed) for seed in range(count)])
    with pytest.raises(RecordError, match=f"record.json: the record of a run is one row, got {count}"):
        read_run(tmp_path)


GOOD = asdict(ROW)
POINT = GOOD["curve"][0]
BROKEN = {
    "bad JSON": ('{"schema": 2,', "not a row: Expecting property name"),
    "an empty line": ("", "not a row: Expecting value"),
    "no object": ("[2]", "not a row"),
    "an old schema": (json.dumps(GOOD | {"schema": 1}), "schema 1, only 2 is understood"),
    "no schema": (json.dumps({"name": "x"}), "schema None, only 2 is understood"),
    "a missing field": (json.dumps({key: value for key, value in GOOD.items() if key != "seed"}), "seed: Field required"),
    "an unknown field": (json.dumps(GOOD | {"sead": 1}), "sead: Unexpected keyword argument"),
    "text for a number": (json.dumps(GOOD | {"seed": "0"}), "seed: Input should be a valid integer"),
    "a fraction for a count": (json.dumps(GOOD | {"epochs": 1.5}), "epochs: Input should be a valid integer"),
    "an accuracy in percent": (
        json.dumps(GOOD | {"test_accuracy": 96.25}),
        "test_accuracy: Input should be less than or equal to 1",
    ),
    "an accuracy that is NaN": (json.dumps(GOOD | {"test_accuracy": float("nan")}), "test_accuracy: Input should be"),
    "a loss that is NaN": (json.dumps(GOOD | {"test_loss": float("nan")}), "test_loss: Input should be a finite number"),
    "an infinite time": (json.dumps(GOOD | {"seconds_per_epoch": float("inf")}), "seconds_per_epoch: Input should be a finite"),
    "NaN in a curve": (
        json.dumps(GOOD | {"curve": [POINT, POINT | {"val_loss": float("nan")}]}),
        "curve.1.val_loss: Input should be",
    ),
    "two faults": (json.dumps(GOOD | {"seed": "0", "name": 1}), "(and 1 more)"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_refused_by_file_and_line(tmp_path, kind):
    line, message = BROKEN[kind]
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{as_line(row(seed=1))}\n{line}\n{as_line(row(seed=2))}\n")
    with pytest.raises(RecordError, match=rf"^{re.escape(str(path))}:2: .*{re.escape(message)}"):
        read_rows([path])


def test_rows_survive_writing_and_reading_and_are_never_overwritten(tmp_path):
    rows = [row("ä|\n%", seed, test_top5_accuracy=None, dirty=True, test_loss=1 / 3) for seed in range(3)]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows([tmp_path / "rows.jsonl"]) == rows
    with pytest.raises(FileExistsError, match="never overwritten"):
        write_rows(tmp_path / "rows.jsonl", [])
    assert len(read_rows([tmp_path / "rows.jsonl"])) == 3


def test_former_hashes_and_names_are_read_as_today_s_and_stay_in_the_file(tmp_path):
    spec = {"dynamic_kernel": {"source": "generated", "groups": 1, "normalisation": "softmax"}, "overlap_normalise": False}
    run_folder(tmp_path / "a" / "b", row(config_hash="old", settings_hash="older", specs=[spec]))
    path = tmp_path / "a" / "b" / "record.json"
    written = path.read_text()
    assert read_rows([path])[0].config_hash == "old"
    (tmp_path / "former_hashes.csv").write_text("former_hash,hash\nold,new\nolder,newer\n")
    (read,) = read_rows([path])
    assert (read.config_hash, read.settings_hash) == ("new", "newer")
    assert read.specs == [
        {"dynamic_kernel": {"source": "generated", "groups": 1, "normalization": "softmax"}, "overlap_normalize": False}
    ]
    assert path.read_text() == written
    (tmp_path / "a" / "former_hashes.csv").write_text("former_hash,hash\nold,newest\n")
    assert read_rows([path])[0].config_hash == "newest", "the nearest table counts"


@pytest.mark.parametrize("text", ["", "old,new\n", "former_hash,hash\nold\n"])
def test_a_table_of_hashes_that_is_none_is_refused(tmp_path, text):
    run_folder(tmp_path / "run", row())
    (tmp_path / "former_hashes.csv").write_text(text)
    with pytest.raises(RecordError, match=r"former_hashes.csv: must have the columns former_hash and hash"):
        read_rows([tmp_path / "run" / "record.json"])
