# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""The code and the recipe of docs/data.md do what the comments beside them say."""

import re
from pathlib import Path

import pytest
import yaml

from sailvit_hf.refinement.recipes.recipe import Source, _build

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_code_runs_and_gives_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    checked = 0
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            code, _, said = line.partition("    # ")
            said = re.sub(r": named, not opened$", "", said.strip())
            if said and said[0] in "[('{":
                assert eval(code, names) == eval(said)
                checked += 1
            else:
                exec(line, names)
    assert checked == 4
    assert len(names["rows"]) == 2


def test_the_recipe_is_valid():
    text = re.search(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[1]
    sources = [_build(Source, each, "data") for each in yaml.safe_load(text)["stages"]["fine"]["data"]]
    assert [(source.dataset.streaming, source.weight) for source in sources] == [(False, 3.0), (True, 1.0)]


@pytest.mark.parametrize("name", ["weight", "max_samples", "epochs", "shuffle_buffer", "match_image_extension"])
def test_what_the_page_names_exists(name):
    from sailvit_hf.refinement import RefinementArguments
    from sailvit_hf.refinement.recipes.recipe import DatasetSource

    known = {*RefinementArguments.__dataclass_fields__, *Source.__dataclass_fields__}
    assert name in PAGE and name in known | set(DatasetSource.__dataclass_fields__)
