package node

import (
	"testing"

	"kontiki/controllers/localpath"
	"kontiki/runtime/agent"
)

// TestLocalPathNames: what makes volumes and what keeps their directories share no
// code, and must mean the same.
func TestLocalPathNames(t *testing.T) {
	for _, c := range []struct{ what, controllers, agent string }{
		{"provisioner", localpath.Provisioner, agent.LocalPathProvisioner},
		{"finalizer", localpath.Finalizer, agent.LocalPathFinalizer},
		{"annotation of nodes", localpath.VolumesPathAnnotation, agent.VolumesPathAnnotation},
	} {
		if c.controllers != c.agent {
			t.Errorf("%s: the controllers say %q, agents %q", c.what, c.controllers, c.agent)
		}
	}
}
