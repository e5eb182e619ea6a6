package openapi

import (
	"testing"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Two callers share what is large, see nothing of what the other writes, and get
// references in the form they asked for.
func TestShared(t *testing.T) {
	const pod, prefix = "io.k8s.api.core.v1.Pod", "#/components/schemas/"
	form := func(prefix string) common.ReferenceCallback {
		return func(name string) spec.Ref { return spec.MustCreateRef(prefix + name) }
	}
	get := Shared()
	a, b, other := get(form(prefix)), get(form(prefix)), get(form("#/definitions/"))
	if len(a) < 100 || len(a) != len(b) || len(a) != len(other) {
		t.Fatalf("%d, %d and %d definitions", len(a), len(b), len(other))
	}
	name := ""
	for n, d := range a {
		if len(d.Schema.Extensions) > 0 {
			name = n
		}
	}
	if name == "" {
		t.Fatal("no definition has extensions")
	}
	a[name].Schema.Extensions["x-mine"] = true
	if _, ok := b[name].Schema.Extensions["x-mine"]; ok {
		t.Error("an extension that one caller set is seen by another")
	}
	for prefix, all := range map[string]map[string]common.OpenAPIDefinition{prefix: b, "#/definitions/": other} {
		property := all[pod].Schema.Properties["spec"]
		if got := property.Ref.String(); got != prefix+"io.k8s.api.core.v1.PodSpec" {
			t.Errorf("the reference to a pod's spec is %q", got)
		}
	}
}
