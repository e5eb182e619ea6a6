package server

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"

	"kontiki/runtime/shim"
)

// The tree below the root, as upstream's: guaranteed pods are directly in
// kubepods, the others in a group for their class. Whose hand makes the groups is upstream's "cgroup
// driver": the shim's own by default, or systemd's, where it runs the machine and the root is the
// hierarchy's: there nobody else may make groups. On cgroup v1, which systemd has given up, it is not
// asked. Names of slices tell where they are, by dashes.
//
//	cgroupfs                                   systemd
//	ROOT/shim                                  system.slice/kontiki-shim-PID.scope   the shim itself
//	ROOT/kubepods/podUID/CONTAINER             kubepods.slice/kubepods-podUID.slice/kontiki-CONTAINER.scope
//	ROOT/kubepods/burstable/podUID/CONTAINER   kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/…
//	ROOT/kubepods/besteffort/podUID/CONTAINER  kubepods.slice/kubepods-besteffort.slice/…
type tree struct {
	root    string
	systemd bool
}

const (
	podsSlice   = "kubepods.slice"
	scopePrefix = "kontiki"
)

// newTree chooses the driver.
func newTree(root string, systemdRuns bool) tree {
	return tree{root: root, systemd: systemdRuns && path.Clean("/"+root) == "/"}
}

func (t tree) shim() string { return path.Join("/", t.root, "shim") }

func (t tree) kubepods() string {
	if t.systemd {
		return "/" + podsSlice
	}
	return path.Join("/", t.root, "kubepods")
}

func (t tree) class(q shim.QOSClass) (string, error) {
	switch q {
	case shim.Guaranteed:
		return t.kubepods(), nil
	case shim.Burstable, shim.BestEffort:
		return childOf(t.kubepods(), strings.ToLower(string(q))), nil
	}
	return "", fmt.Errorf("QoS class %q is unknown: %w", q, shim.ErrInvalid)
}

func (t tree) pod(q shim.QOSClass, uid string) (string, error) {
	class, err := t.class(q)
	return childOf(class, "pod"+uid), err
}

// containerGroup is the group of a container of the pod that has the group pod.
func containerGroup(pod, id string) string {
	if bySystemd(pod) {
		return path.Join(pod, scopePrefix+"-"+id+".scope")
	}
	return path.Join(pod, id)
}

// childOf is a parent's group for some of what is in it.
func childOf(group, name string) string {
	if !bySystemd(group) {
		return path.Join(group, name)
	}
	// A dash in the name would make a further slice of it.
	return path.Join(group, strings.TrimSuffix(path.Base(group), ".slice")+"-"+strings.ReplaceAll(name, "-", "_")+".slice")
}

// bySystemd tells from its path whose hand made a group: containers keep the driver that they were made with.
func bySystemd(group string) bool {
	return group == "/"+podsSlice || strings.HasPrefix(group, "/"+podsSlice+"/")
}

// groupConfig is a group as the library names it.
func groupConfig(group string, r *cgroups.Resources) *cgroups.Cgroup {
	if !bySystemd(group) {
		return &cgroups.Cgroup{Path: group, Resources: r}
	}
	parent := path.Base(path.Dir(group))
	if parent == "/" {
		parent = "-.slice" // systemd's name of the root
	}
	c := &cgroups.Cgroup{Systemd: true, Parent: parent, Name: path.Base(group), Resources: r}
	if name, ok := strings.CutSuffix(c.Name, ".scope"); ok {
		c.ScopePrefix, c.Name = scopePrefix, strings.TrimPrefix(name, scopePrefix+"-")
	}
	return c
}

// systemdRuns is sd_booted(3), of a machine with cgroup v2 alone.
func systemdRuns() bool { return systemd.IsRunningSystemd() && cgroups.IsCgroup2UnifiedMode() }
