// Package dataplane is what the control plane knows of the data plane: one
// interface, [Plane], with its types and errors. It is pure Go and imports
// nothing of its implementations: dataplane/npc drives the C cores,
// dataplane/fake stands in for them in tests.
package dataplane
