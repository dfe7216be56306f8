// Package metrics gives Prometheus what npd counts: the generated tables of
// counters and drop reasons by core, queues and interfaces, sessions. Values
// are read when scraped; nothing is kept here. Labels have few values
// (interface, queue, core, reason, status), never an address.
package metrics
