package acceptance

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// TestCheckerFindsWhatIsWrong shows what the ground's checker makes of a cluster's
// objects; the checker itself is tested in jepsen/check.
func TestCheckerFindsWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		held  []string // names of ConfigMaps
		count string   // of counter 0
		want  string   // in the error; empty for none
	}{
		"all there, each once":              {[]string{"written-1", "written-2"}, "3", ""},
		"one more, which was not confirmed": {[]string{"written-1", "written-2", "written-3"}, "3", ""},
		"a write is lost":                   {[]string{"written-1"}, "3", "written-2"},
		"a count was applied twice":         {[]string{"written-1", "written-2"}, "4", "3 counts were acknowledged"},
		"a count is lost":                   {[]string{"written-1", "written-2"}, "2", "3 counts were acknowledged"},
	} {
		w := &workload{created: map[string]bool{"written-1": true, "written-2": true}}
		w.names.Store(3)
		w.counts[0] = 3
		objects := []runtime.Object{configMap(counterName(0), map[string]string{"n": test.count})}
		for _, name := range test.held {
			objects = append(objects, configMap(name, nil))
		}
		for _, o := range objects {
			o.(interface{ SetNamespace(string) }).SetNamespace("default")
		}
		err := w.holds(t.Context(), fake.NewClientset(objects...))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want an error that speaks of %q", name, err, test.want)
		}
	}
}
