// Package meter counts the gateway's exchanges: how many, how long, how many bytes, by
// listener, route, protocol, class of status and reason, and how many are in flight.
//
// Counting takes no lock and, but for the first exchange of its kind, allocates nothing:
// a kind's counters are found in a map that is replaced as a whole when a kind is new, and
// each is spread over several cache lines, so that cores seldom meet. Reading sums them
// up while exchanges go on.
//
// Kinds are of names in the configuration, never of what a client says; a listener keeps
// at most [MaxKinds] of them, and counts those beyond without their route.
//
// All methods are safe for concurrent use.
package meter
