# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The table of versions: counted right, and the committed page is the one that the committed results give."""

from pathlib import Path

from tests.compat.run import CHECKS, PAGE, ROOT, SETUPS, outcomes, page, ranges, stored

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_import" name="a"/>
<testcase classname="tests.processing.test_tiling_sailvit" name="b[x]"><failure message="no"/></testcase>
<testcase classname="tests.processing.test_tiling_sailvit" name="c"/>
<testcase classname="tests.hub.test_hostile" name="d"><skipped message="too old"/></testcase>
</testsuite></testsuites>"""


def test_outcomes_are_counted_by_column(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    checks, skips, failures = outcomes(tmp_path / "report.xml")
    assert checks.pop("processors") == {"failed": 1, "passed": 1}
    assert checks == {"import": {"passed": 1}, "hostile files": {"skipped": 1}}
    assert skips == ["too old"] and failures == ["tests/processing/test_tiling_sailvit::b[x]"]


def test_every_check_has_tests() -> None:
    assert all((ROOT / path).exists() for paths in CHECKS.values() for path in paths)


def test_the_range_is_covered() -> None:
    oldest = ranges()["transformers"].partition(",")[0].removeprefix(">=")
    assert min(SETUPS, key=lambda version: [*map(int, version.split("."))]).startswith(f"{oldest}.")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for version in ("5.20.2", "5.23.0"):  # for Python 3.10 and for the others
        assert f"transformers=={version};" in pinned and version in SETUPS


def test_the_page_is_the_one_of_the_results() -> None:
    """If it is not: `python -m tests.compat.run --page`, or `make compat` where the versions changed."""
    rows = stored()
    assert PAGE.read_text(encoding="utf-8") == page(rows)
    assert len(rows) >= 3 and not [failure for row in rows for failure in row.failures]
