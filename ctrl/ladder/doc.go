// Package ladder climbs down a list of backends: the best one that works is
// taken, and none is left silently. Each refusal is kept for npctl backend show
// and logged once with its reason and the command that would cure it. Interfaces
// (ctrl/ports) and listeners (ctrl/daemon) have a ladder each; what their rungs do is
// theirs.
//
// A Ladder is one goroutine's at a time. It must not know: the data plane.
package ladder
