package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ports warns of ports that two containers want, or one twice.
func (w *warnings) ports(spec *corev1.PodSpec) {
	type place struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	known := map[string][]place{}
	eachContainer(spec, w.at, func(c *corev1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.say(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range known[key] {
				if how := clash(p, other.port); how != "" {
					w.say(at, "%s port definition with %s", how, other.at)
				}
			}
			known[key] = append(known[key], place{at, p})
		}
	})
	w.portNames(spec)
}

// clash says how two definitions of a port are in each other's way; empty if they are not.
func clash(a, b corev1.ContainerPort) string {
	switch {
	case a.HostIP == b.HostIP && a.HostPort == b.HostPort:
		return "duplicate"
	case a.HostPort == 0 || b.HostPort == 0:
		return "overlapping"
	case a.HostPort == b.HostPort && (a.HostIP == "") != (b.HostIP == ""):
		return "dangerously ambiguous"
	}
	return ""
}

// portNames warns of a name that two ports have.
func (w *warnings) portNames(spec *corev1.PodSpec) {
	first := map[string]*field.Path{}
	eachContainer(spec, w.at, func(c *corev1.Container, path *field.Path) {
		for i, p := range c.Ports {
			if p.Name == "" {
				continue
			}
			at := path.Child("ports").Index(i)
			if other, ok := first[p.Name]; ok {
				w.say(at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, other, other)
				continue
			}
			first[p.Name] = at
		}
	})
}
