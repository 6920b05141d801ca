#!/usr/bin/env bash
# dashboard-check, which holds the chart's dashboards to Grafana's own types, at the version of
# tests/chart/dashboard-check/go.mod: built where it is not there, and where it is printed.
#
#   scripts/dashboard_check.sh           two minutes on two free, cold cores
#   scripts/dashboard_check.sh --find    builds nothing; exit 1 with one line when it is missing
#
# MARLIN_DASHBOARD_CHECK names a program to take instead.
set -euo pipefail
LDFLAGS= exec "$(dirname "$0")/go_tool.sh" \
    dashboard-check tests/chart/dashboard-check github.com/grafana/grafana-foundation-sdk/go . "$@"
