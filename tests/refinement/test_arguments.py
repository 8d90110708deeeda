# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Arguments of a stage: rates per module, the global batch, the command line."""

import pytest
from transformers import HfArgumentParser

from sailvit_hf.errors import SailvitError
from sailvit_hf.refinement import STAGES, RefinementArguments


def arguments(tmp_path, **options):
    return RefinementArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_defaults(tmp_path):
    args = arguments(tmp_path)
    assert args.learning_rate is None and args.report_to == [] and not args.remove_unused_columns
    assert (args.weight_decay, args.warmup_steps, args.max_grad_norm) == (0.05, 0.03, 1.0)
    assert args.lr_scheduler_type == "cosine" and args.num_train_epochs == 1.0


@pytest.mark.parametrize(
    "asked", [{"gradient_checkpointing": True}, {"gradient_checkpointing_modules": ["vision_tower"]}]
)
def test_gradient_checkpointing_in_all_versions(asked, tmp_path, recwarn):
    kwargs = {"use_reentrant": False}
    args = arguments(tmp_path, gradient_checkpointing_kwargs=kwargs, **asked)
    names = [name for name in ("gradient_checkpointing", "activation_checkpointing") if hasattr(args, name)]
    assert all(getattr(args, name) is True and getattr(args, f"{name}_kwargs") == kwargs for name in names)
    assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]


def test_rates_default_to_the_stage(tmp_path):
    assert arguments(tmp_path).module_learning_rates(STAGES["fine"]) == {
        "vision_tower": 2e-5,
        "multi_modal_projector": 2e-5,
    }


def test_rates_per_module_override_the_common_one(tmp_path):
    args = arguments(tmp_path, learning_rate=1e-3, vision_tower_learning_rate=1e-4, language_model_learning_rate=0.0)
    assert args.module_learning_rates(STAGES["world"]) == {
        "vision_tower": 1e-4,
        "multi_modal_projector": 1e-3,
        "language_model": 0.0,
    }


def test_a_rate_for_a_frozen_module_is_an_error(tmp_path):
    args = arguments(tmp_path, vision_tower_learning_rate=1e-4)
    with pytest.raises(SailvitError, match="vision_tower_learning_rate.*'coarse'"):
        args.module_learning_rates(STAGES["coarse"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size would change the samples of a step"),
        ({"train_sampling_strategy": "group_by_length"}, "'group_by_length' draws an order .* set packing=True"),
    ],
)
def test_what_would_be_another_run(options, message, tmp_path):
    with pytest.raises(SailvitError, match=message):
        arguments(tmp_path, **options)


def test_global_batch_sets_the_accumulation(tmp_path):
    args = arguments(tmp_path, global_batch_size=64, per_device_train_batch_size=16)
    assert args.gradient_accumulation_steps == 4
    with pytest.raises(SailvitError, match="60 is not a multiple of 16"):
        arguments(tmp_path, global_batch_size=60, per_device_train_batch_size=16)


def test_command_line(tmp_path):
    parser = HfArgumentParser(RefinementArguments)
    options = ["--learning_rate", "2e-4", "--clip_per_module", "--max_length", "512", "--use_cpu"]
    (args,) = parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path), *options])
    assert (args.learning_rate, args.clip_per_module, args.max_length) == (2e-4, True, 512)
    assert args.vision_tower_learning_rate is None
    assert "Peak learning rate of the connector" in parser.format_help()


@pytest.mark.parametrize(
    ("options", "stage", "message"),
    [
        ({"freeze_vision_layers": 2}, "coarse", "freeze_vision_layers is set, but stage 'coarse' does not train the"),
        ({"vision_tower_layer_decay": 0.9}, "coarse", "vision_tower_layer_decay is set, but stage 'coarse'"),
        ({"freeze_vision_layers": -1}, "fine", "freeze_vision_layers is -1: give 0 or more"),
        ({"vision_tower_layer_decay": 0.0}, "fine", "vision_tower_layer_decay is 0.0: give a number above 0"),
        ({"vision_tower_layer_decay": 2.0}, "fine", "vision_tower_layer_decay is 2.0: give a number above 0"),
    ],
)
def test_layers_that_cannot_be_frozen_or_decayed(options, stage, message, tmp_path):
    with pytest.raises(SailvitError, match=message):
        arguments(tmp_path, **options).module_learning_rates(STAGES[stage])
