#!/usr/bin/env bash
# actionlint, which reads the workflows, at the version of tests/chart/actionlint/go.mod: built where it is not there, and
# where it is printed.
#
#   scripts/actionlint.sh           a minute on two free, cold cores
#   scripts/actionlint.sh --find    builds nothing; exit 1 with one line when it is missing
#
# MARLIN_ACTIONLINT names a program to take instead.
set -euo pipefail
LDFLAGS= exec "$(dirname "$0")/go_tool.sh" \
    actionlint tests/chart/actionlint github.com/rhysd/actionlint github.com/rhysd/actionlint/cmd/actionlint "$@"
