// Command kube-apiserver is upstream's, unchanged: the peer that the bench
// measures the API beside. It is built from the module k8s.io/kubernetes, in a
// module of its own, so that the product does not carry it.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/version" // what upstream's command registers
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
