// The kinds of the Gateway API and of its inference extension, as tests install them on API servers: one pinned version
// of each, out of the Go module proxy (scripts/gateway_kinds.sh). Nothing is built of them.
module marlin.dev/tests/controlplane/gateway-api

go 1.26.0

require (
	sigs.k8s.io/gateway-api v1.4.1
	sigs.k8s.io/gateway-api-inference-extension v1.2.1
)
