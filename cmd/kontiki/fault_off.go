//go:build !faultinject

package main

import "kontiki/node"

// A product breaks nothing on request.
func faults() node.Faults { return node.Faults{} }
