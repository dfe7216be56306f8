// Package logs makes the daemon's logger (log/slog, text or JSON, console and
// file, level changed and file reopened while running) and holds back lines
// that peers cause, so that nobody from outside can fill a disk. [File] is the log file,
// for others that write lines of their own.
package logs
