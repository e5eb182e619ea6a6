//go:build !seeded_emptied_services

package seeded

// EmptiedServices takes all endpoints from all Services while any node is held for dead.
const EmptiedServices = false
