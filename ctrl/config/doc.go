// Package config turns bytes into a validated, immutable [Config]: TOML files,
// environment variables and flags in, one value or all the errors out, each
// with its file, line and column. It opens no file and reads no clock; what
// only the machine can tell (does the interface exist?) is checked by those
// who apply a configuration, with [Config.Pos] to name the place.
package config
