# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Reading what `sailvit data sizes` left; how tables are weighted is tested with the sizes of a stage."""

import json

import pytest

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement.planning.tables import Table, read_table


def test_sums_without_what_cannot_be_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"samples": 9, "unreadable": 2, "tokens": 70, "tiles": 7}), encoding="utf-8")
    assert read_table(path) == Table(str(path), 7, 70, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [("no JSON", "is no file of sizes"), ("[]", "is no file of sizes"), ('{"samples": 1}', "is no file of sizes"),
     ('{"samples": 2, "unreadable": 2, "tokens": 0, "tiles": 0}', "has no sample that can be read")],
)  # fmt: skip
def test_other_files(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(SailvitError, match=words):
        read_table(tmp_path / "x.json")
