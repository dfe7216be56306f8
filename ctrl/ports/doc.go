// Package ports joins network interfaces to the data plane: it opens their queues on
// the best rung of the backend ladder ([ladder]; rungs.go has the table), attaches the
// XDP program where a rung needs it, steers the appliance's addresses to the queues, and
// keeps that so while devices vanish and return: those of the kernel by its reports of
// links, the others (DPDK's, TAPs) by what the plane's ports report. What it tried and
// why it was refused is kept for npctl backend show.
//
// One goroutine, [Manager.Run], reacts to changes of links; Add and the
// operations on addresses and routes come from the daemon's set-up and reload,
// one at a time under a lock. It must not know: connections, sessions.
package ports
