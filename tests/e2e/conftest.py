"""Tests against real servers and clusters are there only when one is asked for: nothing is collected otherwise."""

from __future__ import annotations

import os

collect_ignore = []
if not {"MARLIN_VLLM_URL", "MARLIN_VLLM_POOLING_URL"} & set(os.environ):
    collect_ignore.append("test_vllm_contract.py")
if "MARLIN_VLLM_CLIENTS_URL" not in os.environ:
    collect_ignore.append("test_clients_at_vllm.py")
if "MARLIN_E2E_CLUSTERS" not in os.environ:
    collect_ignore += ["test_across_clusters.py", "test_quickstart_on_kind.py"]
