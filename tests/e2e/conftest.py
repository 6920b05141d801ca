"""Tests against real servers are there only when a server is: nothing here is collected, or skipped, otherwise."""

from __future__ import annotations

import os

collect_ignore = [] if {"MARLIN_VLLM_URL", "MARLIN_VLLM_POOLING_URL"} & set(os.environ) else ["test_vllm_contract.py"]
