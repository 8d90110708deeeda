# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What refinement changed, in numbers and pictures: the whole MLLM, the ViT alone, and the ViT in other MLLMs."""
