// Package claim reads members out of a token's claims. It knows nothing of tokens, and
// starts no goroutine.
package claim
