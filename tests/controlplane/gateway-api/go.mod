// The Gateway API's kinds as tests install them on the API server: one pinned version, out of the Go module proxy
// (scripts/gateway_kinds.sh). Nothing is built of it.
module marlin.dev/tests/controlplane/gateway-api

go 1.26.0

require sigs.k8s.io/gateway-api v1.4.1
