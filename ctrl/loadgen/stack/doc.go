// Package stack loads a TCP server from a data plane of its own: connections
// of np's own stack on an interface over AF_XDP, driven by the load generator
// of a poll core (csrc/session/load.c). A kernel client on one core is
// saturated before most servers are; this one is not.
//
// One poll core: what comes back to another queue than the first is handed on
// between cores, which is not what a measurement should measure.
//
// It must not know: npd, configuration files.
package stack
