// Package pipes is connections in memory, for tests on the clock of a testing/synctest
// bubble: there a time-out means the same however slow the machine is. Connections of the
// kernel can't be used in one, since the clock would not go on while they are waited for.
//
// Whoever calls runs it: nothing here has a goroutine of its own but for timers of
// deadlines.
//
// It must not know: anything of the gateway. Nothing but tests uses it.
package pipes
