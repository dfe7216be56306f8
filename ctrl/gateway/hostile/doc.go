// Package hostile is what tests of the gateway send: requests that servers have been found
// to disagree about, and such as are right but seldom. It is a package so that the tests
// of several can use it; nothing of the product imports it.
package hostile
