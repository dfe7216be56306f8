// Package daemon is npd without its command line: it makes the plane, ports,
// sessions, listeners and management sockets of a configuration, reloads, and
// ends in good order. The data plane and the machine are arguments, so tests
// run it on a fake of each.
//
// Start-up is all or nothing: on an error everything that was made is taken
// down again, and the error names the place in the configuration. Reload too:
// a change that cannot be applied to a running npd leaves all as it was. A
// configuration that an operator sends (npctl config apply) goes the same way as one
// that HUP reads, one at a time; what was in force is kept as files to go back to.
package daemon
