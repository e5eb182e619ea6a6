//go:build seeded_unfenced_controllers

package seeded

import "time"

const (
	// UnfencedControllers has controllers write without the term that they work for, and
	// go on for some time when it is over.
	UnfencedControllers = true
	// Overtime is for how long.
	Overtime = 5 * time.Second
)
