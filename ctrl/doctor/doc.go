// Package doctor looks at a machine and a configuration and says what keeps np
// from running, or from running well: what was found, what it costs, and the command
// that cures it. What can be cured safely and taken back it cures itself, when asked.
//
// Checks are pure: they read files through [host.Files] and ask [Probes] for what
// must be tried, so that tests play any machine. They need no npd.
package doctor
