// Package hugepages tells what huge pages the machine has on each NUMA node and
// reserves 2 MiB ones. A reservation can be undone: it takes back what it added and
// nothing else. Pages of 1 GiB are listed only: the kernel seldom finds them after
// boot.
//
// It must not know: the data plane, configuration.
package hugepages
