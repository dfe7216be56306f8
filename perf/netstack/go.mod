module github.com/np-appliance/np/perf/netstack

go 1.26.0

require (
	golang.org/x/sys v0.50.0
	gvisor.dev/gvisor v0.0.0-20240722211153-64c016c92987
)

require (
	github.com/google/btree v1.1.2 // indirect
	golang.org/x/time v0.5.0 // indirect
)
