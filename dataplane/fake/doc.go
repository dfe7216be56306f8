// Package fake is an in-memory [dataplane.Plane] for tests of the control
// plane. It keeps the contract of dataplane/plane.go as strictly as it can:
// commands are invisible until Flush, bodies are poisoned after Release, stale
// handles are refused, every set-up call is recorded.
//
// A test makes a [Plane], opens connections with [Plane.Dial], speaks through
// the [Peer] it gets (handshake frames, messages, resets), and reads there what
// the control plane sent. Pipes and UDP sockets reach others of the same plane, so that
// whatever listens and dials can be tested in memory; the far end of a pipe can be a
// test's too ([Plane.DialPipe], [Plane.Serve]). Nothing here starts a goroutine or sleeps, so it
// works inside testing/synctest.
//
// It must not know: handshakes, NPRO bodies, configuration.
package fake
