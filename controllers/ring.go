package controllers

import "kontiki/controllers/nodelifecycle"

// RingHealth tells which nodes the ring holds for alive, suspect or dead; node
// fills it from gossip.
type RingHealth = nodelifecycle.RingHealth
