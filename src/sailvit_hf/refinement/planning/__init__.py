# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What a recipe will cost: memory, time and layout, before any GPU is rented. See docs/planner.md."""

from .machines import GPUS, Gpu, find_gpu
from .plan import Plan, Question, plan_recipes

__all__ = ["GPUS", "Gpu", "Plan", "Question", "find_gpu", "plan_recipes"]
