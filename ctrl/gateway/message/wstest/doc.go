// Package wstest is a client of WebSocket that can do what it must not, and cases of RFC
// 6455 as the public suites have them, written anew: fragments, control frames between
// them, reserved bits and opcodes, text that is not UTF-8, close codes, sizes. It is for
// tests of servers and of proxies before them. It knows neither.
package wstest
