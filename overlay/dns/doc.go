// Package dns answers names of the cluster, by the Kubernetes DNS specification
// 1.1.0, from a local copy of Services and EndpointSlices, and asks other servers
// for all other names.
//
// Answer decides (pure, over a Source), Server talks. A Server serves any number
// of queries at once. Only overlay imports this package.
package dns
