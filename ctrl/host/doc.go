// Package host is the machine's own files, /sys and /proc, under a root that tests
// choose: names have no leading slash, "sys/class/net". Doctor and nic read and write
// through it and nothing else.
//
// It must not know: the data plane, configuration.
package host
