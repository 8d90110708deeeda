# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""Four bits and adapters on a GPU, in bf16: training, resume, and a whole checkpoint (`pytest -m gpu`)."""

import pytest
import torch

from sailvit_hf.refinement import RefinementArguments
from sailvit_hf.refinement.adapters.injection import merge_adapters
from sailvit_hf.refinement.adapters.plan import AdapterPlan
from sailvit_hf.refinement.assembly import load_vlm, load_vlm_in_4bit
from tests.refinement.adapted import adapted_trainer, outputs
from tests.refinement.tiny import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_qlora(method, tmp_path):
    pytest.importorskip("bitsandbytes")
    tiny_model(tied=False).save_pretrained(tmp_path / "base")
    plans = {
        "language_model": AdapterPlan(method=method, rank=4, dropout=0.1, load_in_4bit=True),
        "vision_tower": AdapterPlan(rank=2),
    }
    options = {"use_cpu": False, "bf16": True, "gradient_checkpointing": True}

    def trainer():
        args = RefinementArguments(output_dir=str(tmp_path / "run"), bf16=True)
        return adapted_trainer(tmp_path / "run", plans, load_vlm_in_4bit(tmp_path / "base", args), **options)

    whole = trainer()
    whole.train()
    assert whole.model.model.language_model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.uint8
    again = trainer()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    merged, saved = merge_adapters(again.model).state_dict(), load_vlm(tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in saved.state_dict().items())
    assert torch.isfinite(outputs(saved)).all()
