# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a person sees of a training: the module table and the progress lines."""

import re

from rich.console import Console
from transformers import TrainerState

from sailvit_hf.refinement import STAGES
from sailvit_hf.refinement.callbacks import ModuleTable, StageProgress, module_summary

from .tiny import tiny_model, tiny_trainer


def test_module_summary():
    model = tiny_model()
    STAGES["coarse"].apply(model)
    rows = module_summary(model, {"multi_modal_projector": 1e-3})
    assert [row["module"] for row in rows] == ["vision_tower", "multi_modal_projector", "language_model"]
    assert sum(row["parameters"] for row in rows) == sum(p.numel() for p in model.parameters())
    assert [row["trainable"] > 0 for row in rows] == [False, True, False]
    assert [row["learning_rate"] for row in rows] == [None, 1e-3, None]
    assert {row["dtype"] for row in rows} == {"float32"}


def test_output_without_a_terminal(tmp_path, capsys):
    tiny_trainer(tmp_path, stage="fine", max_steps=20, disable_tqdm=False).train()
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "Fine-grained alignment  20 steps of 4 samples" in text
    assert re.search(r"vision_tower +[\d,]+ +[\d,]+ +1\.0e-02 +float32", text)
    assert re.search(r"language_model +[\d,]+ +0 +frozen +float32", text)
    progress = [line for line in lines if re.match(r"Fine-grained alignment +\d+/20  loss ", line)]
    assert len(progress) == 10 and " 20/20 " in progress[-1]


def test_the_table_shows_the_span_of_a_layer_decay(tmp_path, capsys):
    arguments = {"vision_tower_layer_decay": 0.5, "freeze_vision_layers": 1, "max_steps": 1, "disable_tqdm": False}
    tiny_trainer(tmp_path, stage="fine", **arguments).train()
    text = capsys.readouterr().err
    # two blocks and the final norm train, each block at half the rate of what is above it
    assert re.search(r"vision_tower +[\d,]+ +[\d,]+ +2\.5e-03 to 1\.0e-02 +float32", text)
    assert re.search(r"multi_modal_projector +[\d,]+ +[\d,]+ +1\.0e-02 +float32", text)
    assert max(map(len, text.splitlines())) <= 100


def test_nothing_is_printed_when_progress_is_off(tmp_path, capsys):
    tiny_trainer(tmp_path, disable_tqdm=True).train()
    assert capsys.readouterr() == ("", "")


def test_table_of_a_large_model_fits():
    trainer_state = TrainerState(max_steps=1_000_000, global_step=500_000)

    class Arguments:
        train_batch_size, gradient_accumulation_steps, world_size = 8, 30, 8

    rows = [
        {"module": m, "parameters": 30_532_122_624, "trainable": 30_532_122_624, "learning_rate": 1e-5, "dtype": d}
        for m, d in (("vision_tower", "float32"), ("language_model", "bfloat16, float32"))
    ]
    table = ModuleTable(STAGES["world"], {}).table(Arguments(), trainer_state, rows)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert "30,532,122,624" in text and "bfloat16, float32" in text and "from step 500,000" in text


def test_terminal_bar(tmp_path, monkeypatch):
    console = Console(force_terminal=True, width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    monkeypatch.setattr("sailvit_hf.refinement.callbacks._console", lambda: console)
    trainer = tiny_trainer(tmp_path, max_steps=4)
    trainer.add_callback(StageProgress(STAGES["world"].title, interval=0.0))
    trainer.train()
    last = console.export_text().rstrip().split("World-knowledge infusion")[-1]  # the bar as drawn last
    assert re.search(r"4/4 +loss \d+\.\d{4}  lr .* samples/s", last) and len(last) <= 76
