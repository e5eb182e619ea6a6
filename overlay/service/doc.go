// Package service decides where connections to Services go from this node.
//
// Plan turns one Service and its EndpointSlices into frontends (an address,
// protocol and port that clients use) and the endpoints behind each. Table holds
// the plans of all Services and says what changes when one of them does. Watcher
// feeds it from informers and hands the changes to a Programmer: nftables today,
// IPVS could be another.
//
// Plan is pure, a Table belongs to one goroutine. Only overlay and the
// Programmers import this package.
package service
