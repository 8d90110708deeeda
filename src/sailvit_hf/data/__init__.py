# Copyright 2026 The sailvit_hf authors. Licensed under the Apache License, Version 2.0.
"""What refinement learns from: conversations with pictures, and the demo world that makes them from a seed."""
