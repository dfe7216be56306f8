// Package ksock makes the kernel sockets that a plane's cores serve or connect
// by (dataplane.ListenConfig.Sockets, dataplane.ConnectConfig.Socket): bound,
// with their options and file modes set, nonblocking. Whoever gets the
// descriptors owns them. Safe for concurrent use; knows nothing of planes.
package ksock
