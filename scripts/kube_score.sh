#!/usr/bin/env bash
# kube-score, which looks at the chart's objects, at the version of tests/chart/kube-score/go.mod: built where it is not
# there, and where it is printed.
#
#   scripts/kube_score.sh           two minutes on two free, cold cores
#   scripts/kube_score.sh --find    builds nothing; exit 1 with one line when it is missing
#
# MARLIN_KUBE_SCORE names a program to take instead.
set -euo pipefail
LDFLAGS= exec "$(dirname "$0")/go_tool.sh" \
    kube-score tests/chart/kube-score github.com/zegl/kube-score github.com/zegl/kube-score/cmd/kube-score "$@"
