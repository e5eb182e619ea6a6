package apiserver

import (
	"encoding/json"
	"regexp"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// elsewhere are fields that others fill in, which is tested by itself: admission,
// allocation, and the storage that defaults what it has read.
var elsewhere = map[string][][]string{
	"Pod":                   {{"spec", "tolerations"}, {"spec", "priority"}, {"spec", "preemptionPolicy"}, {"spec", "serviceAccount"}, {"spec", "serviceAccountName"}},
	"Service":               {{"spec", "clusterIP"}, {"spec", "clusterIPs"}, {"spec", "ipFamilies"}, {"spec", "ipFamilyPolicy"}},
	"PersistentVolumeClaim": {{"status"}, {"metadata", "finalizers"}},
	"PersistentVolume":      {{"metadata", "finalizers"}},
	"CSIDriver":             {{"metadata", "generation"}},
}

// chosen is what differs each time: identities, moments and node ports.
var chosen = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|\d{4}-\d\d-\d\dT[0-9:]+Z|"nodePort": \d+,\s*`)

// TestDefaults wants of each object what a kube-apiserver v1.37.2 makes of it.
func TestDefaults(t *testing.T) {
	f := newFixture(t)
	docs := documents(t, "defaults.yaml")
	for i := 0; i < len(docs); i += 2 {
		sent, want := docs[i], docs[i+1]
		t.Run(sent.GetKind()+"/"+sent.GetName(), func(t *testing.T) {
			if sent.GetKind() == "Pod" {
				_ = unstructured.SetNestedField(sent.Object, false, "spec", "automountServiceAccountToken") // it is an object
				_ = unstructured.SetNestedField(want.Object, false, "spec", "automountServiceAccountToken")
			}
			r, _ := f.resource(t, sent.GroupVersionKind())
			got, err := r.Create(t.Context(), sent, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				t.Fatal(err)
			}
			for _, obj := range []*unstructured.Unstructured{got, want} {
				for _, name := range []string{"uid", "creationTimestamp", "resourceVersion", "managedFields"} {
					unstructured.RemoveNestedField(obj.Object, "metadata", name)
				}
				for _, path := range elsewhere[obj.GetKind()] {
					unstructured.RemoveNestedField(obj.Object, path...)
				}
			}
			a, errA := json.MarshalIndent(got.Object, "", " ")
			b, errB := json.MarshalIndent(want.Object, "", " ")
			if errA != nil || errB != nil {
				t.Fatal(errA, errB)
			}
			if a, b = chosen.ReplaceAll(a, nil), chosen.ReplaceAll(b, nil); string(a) != string(b) {
				t.Errorf("got\n%s\nwant\n%s", a, b)
			}
		})
	}
}
