# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Unreadable samples: counted, reported once, replaced in the same way in every run, and too many of them an error."""

import io
import logging
import random

import datasets
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from sailvit_hf.data.replacement import FaultLog, OverlongSampleError, UnreadableSamplesError, WithReplacements


class Numbers:
    """The numbers from 0 on, some of which cannot be read."""

    def __init__(self, length: int, bad: set[int]) -> None:
        self.length, self.bad, self.column_names = length, bad, ["number"]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise OSError(f"broken data stream\nwhen reading {index}")
        return index


def test_bad_samples_are_replaced_by_good_ones_the_same_in_every_run() -> None:
    bad = {3, 50, 199}
    runs = [[WithReplacements(Numbers(300, bad), limit=0.02)[index] for index in range(300)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert all(runs[0][index] == index for index in range(300) if index not in bad)
    assert not bad & set(runs[0])
    # Asked in another order they are replaced by the same ones.
    backwards = WithReplacements(Numbers(300, bad), limit=0.02)
    assert [backwards[index] for index in reversed(range(300))] == runs[0][::-1]


def test_each_is_reported_once_with_its_number_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    samples = WithReplacements(Numbers(300, {7}))
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").addHandler(caplog.handler)
        try:
            assert samples[7] == samples[7] != 7
        finally:
            logging.getLogger("transformers").removeHandler(caplog.handler)
    said = {record.getMessage() for record in caplog.records}
    assert said == {"sample 7 cannot be read and is replaced: broken data stream when reading 7"}
    assert samples.bad == {7: "broken data stream when reading 7"}


def test_too_many_stop_with_the_list() -> None:
    samples = WithReplacements(Numbers(1000, set(range(0, 1000, 10))), limit=0.01)
    with pytest.raises(UnreadableSamplesError, match=r"8 samples cannot be read.*sample 0: .*sample 10: .*sample 70"):
        for index in range(1000):
            samples[index]
    assert samples.asked == 71


@pytest.mark.parametrize("size, worst", [(50, 1), (300, 4), (100_000, 8)])
def test_what_is_more_than_the_limit_of_all_is_no_chance(size: int, worst: int) -> None:
    """Of few samples one more than the limit is too many; of many the share must be far above it."""
    log = FaultLog(0.01, size)
    with pytest.raises(UnreadableSamplesError, match=rf"^{worst} samples cannot be read"):
        for index in range(1000):
            log.ask()
            if index % 25 == 0:
                log.meet(index, "it", OSError("broken"))


def test_luck_of_one_of_many_workers_stops_no_run() -> None:
    def stopped(share: float) -> int:
        number = 0
        for worker in range(512):
            rng, log = random.Random(f"{worker}/{share}"), FaultLog(0.02)
            try:
                for index in range(800):
                    log.ask()
                    if rng.random() < share:
                        log.meet(index, "it", OSError("broken"))
            except UnreadableSamplesError:
                number += 1
        return number

    assert stopped(0.01) == 0 and stopped(0.08) == 512


def test_replacements_are_not_looked_for_without_end() -> None:
    """The rows of a pass may be bad, while others, of other passes, are not known."""
    numbers = Numbers(5, {0, 1, 2, 3, 4})
    numbers.distinct = 1000
    with pytest.raises(UnreadableSamplesError, match="^no sample can be used, 5 cannot be read and 0 are longer"):
        WithReplacements(numbers, limit=1.0)[0]


def test_a_data_set_of_which_nothing_can_be_read_is_an_error_and_not_a_loop() -> None:
    with pytest.raises(UnreadableSamplesError):
        WithReplacements(Numbers(4, {0, 1, 2, 3}), limit=1.0)[0]


def test_defects_are_not_taken_for_bad_data() -> None:
    class Defect(Numbers):
        def __getitem__(self, index: int) -> int:
            raise KeyError("no such column")

    with pytest.raises(KeyError):
        WithReplacements(Defect(10, set()))[0]


def test_a_truncated_picture_in_a_datasets_dataset_is_replaced() -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, format="PNG")
    whole = buffer.getvalue()
    rows = {"image": [{"bytes": whole if index != 2 else whole[:200], "path": None} for index in range(250)]}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    samples = WithReplacements(table)
    assert samples[2]["image"].size == (256, 256)
    assert list(samples.bad) == [2]
    batches = DataLoader(samples, batch_size=5, collate_fn=lambda batch: [row["image"].size for row in batch])
    assert sum(batches, []) == [(256, 256)] * 250
    assert samples.column_names == ["image"]


def test_of_very_many_overlong_samples_only_the_keys_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sailvit_hf.data.replacement.MOST_REMEMBERED", 2)
    log = FaultLog()
    for number in range(5):
        log.meet(number, f"sample {number}", OverlongSampleError(f"{number} is too long", drop=True))
    assert log.overlong == {0: "0 is too long", 1: "1 is too long", 2: "", 3: "", 4: ""}
    assert log.news()["overlong"] == [[0, "0 is too long"], [1, "1 is too long"]]
    assert log.knows(4) and log.kind(4) == log.kind(0)
