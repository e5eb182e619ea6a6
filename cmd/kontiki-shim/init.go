package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces in C, before Go's runtime begins

	_ "kontiki/runtime/shim/pause" // likewise, when this is executed as "pause"
)

// libcontainer starts each container by executing this very program again with
// "init" as its argument, which must turn into the container before main begins: the
// one init() function of the project (STYLE.md, 18).
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
}
