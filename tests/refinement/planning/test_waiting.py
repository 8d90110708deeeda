# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Seconds in which packs are planned."""

import re
from pathlib import Path

import pytest

from sailvit_hf.refinement.planning.waiting import MEASURED, planning_seconds

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "rehearsal.txt"


def test_measured_are_those_of_the_rehearsal():
    seconds = {1: [], 4: []}
    for rank, last in re.findall(r", (\d) a rank .* ([\d.]+)$", RESULTS.read_text(encoding="utf-8"), re.MULTILINE):
        seconds[int(rank)].append(float(last))
    assert [(512 * rank, max(found)) for rank, found in seconds.items()] == list(MEASURED)


def test_a_pack_costs_more_where_a_step_has_many():
    assert [planning_seconds(packs) for packs, _ in MEASURED] == pytest.approx([seconds for _, seconds in MEASURED])
    assert planning_seconds(64) == pytest.approx(0.214 / 8)
    assert planning_seconds(4096) == pytest.approx(2.59)
    assert 2 * planning_seconds(512) < planning_seconds(1024) < planning_seconds(2048) / 2
