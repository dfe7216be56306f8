// Package ports joins network interfaces to the data plane: it attaches the
// XDP program, opens the queues on the best rung of the backend ladder, steers
// the appliance's addresses to them, and keeps that so while devices vanish and
// return. What it tried and why it was refused is kept for npctl backend show.
//
// One goroutine, [Manager.Run], reacts to changes of links; Add and the
// operations on addresses and routes come from the daemon's set-up and reload,
// one at a time under a lock. It must not know: connections, sessions.
package ports
