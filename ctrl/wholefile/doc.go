// Package wholefile writes files as a whole: whoever opens one sees what it was before or
// what it is now, after a crash too. It must not know what is in them.
package wholefile
