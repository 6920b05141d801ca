// The check of Grafana dashboards as the tests run it: Grafana's own generated types at one pinned version, built from
// the Go module proxy (scripts/dashboard_check.sh).
module marlin.dev/tests/chart/dashboard-check

go 1.26.0

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
