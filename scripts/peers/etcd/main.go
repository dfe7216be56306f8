// Command etcd is etcd's own server, for the tests of ctrl/discovery.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
