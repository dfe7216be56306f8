// Package cache is a bounded map whose entries end: what the policies remember of
// passwords, tokens and verdicts. Owner: who calls New; safe for concurrent use; starts no
// goroutine. Time is an argument.
package cache
