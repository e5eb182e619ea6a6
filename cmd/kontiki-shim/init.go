package main

import (
	"fmt"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters namespaces in C, before Go's runtime begins

	_ "kontiki/runtime/shim/pause" // likewise, when this is executed as "pause"
	"kontiki/runtime/shim/server"
)

// libcontainer starts each container by executing this very program again with
// "init" as its argument, which must turn into the container before main begins: the
// one init() function of the project (STYLE.md, 18).
// Until main begins, Go runs it on the process's first thread, which is the one that executes the container's program.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		if err := server.EnterFilter(); err != nil {
			fmt.Fprintln(os.Stderr, "kontiki-shim:", err)
			os.Exit(initFailed)
		}
		libcontainer.Init() // does not return
	}
}

// initFailed is libcontainer's exit status of an init stage that came to nothing.
const initFailed = 255
