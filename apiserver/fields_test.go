package apiserver

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// selectable is what field selectors can ask of the samples, by kind, with the samples' values:
// upstream's labels, and its words for one that it does not know.
var selectable = map[string]struct {
	fields  map[string]string
	refusal string // of spec.nothing
}{
	"v1/Pod": {map[string]string{
		"spec.nodeName": "", "spec.host": "", "spec.restartPolicy": "Always", "spec.schedulerName": "default-scheduler",
		"spec.serviceAccountName": "?", "spec.hostNetwork": "false", "status.phase": "Pending", "status.podIP": "", "status.podIPs": "", "status.nominatedNodeName": "",
	}, "field label not supported: spec.nothing"},
	"v1/Node":                  {map[string]string{"spec.unschedulable": "false"}, "field label not supported: spec.nothing"},
	"v1/Namespace":             {map[string]string{"status.phase": "Active"}, "field label not supported: spec.nothing"},
	"v1/Secret":                {map[string]string{"type": "Opaque"}, "field label not supported: spec.nothing"},
	"v1/Service":               {map[string]string{"spec.type": "NodePort", "spec.clusterIP": "?"}, "field label not supported: spec.nothing"},
	"v1/ReplicationController": {map[string]string{"status.replicas": "0"}, "field label not supported: spec.nothing"},
	"v1/Event": {map[string]string{
		"involvedObject.kind": "Pod", "involvedObject.namespace": "default", "involvedObject.name": "sample", "involvedObject.uid": "",
		"involvedObject.apiVersion": "", "involvedObject.resourceVersion": "", "involvedObject.fieldPath": "",
		"reason": "Started", "reportingComponent": "", "source": "", "type": "Normal",
	}, "field label not supported: spec.nothing"},
	"events.k8s.io/v1/Event": {map[string]string{
		"regarding.kind": "Pod", "regarding.namespace": "default", "regarding.name": "sample", "regarding.uid": "",
		"regarding.apiVersion": "", "regarding.resourceVersion": "", "regarding.fieldPath": "",
		"reason": "Started", "reportingController": "kontiki.io/agent", "type": "Normal",
	}, "field label not supported: spec.nothing"},
	"batch/v1/Job": {map[string]string{"status.successful": "0"}, `field label "spec.nothing" not supported for Job`},
	"certificates.k8s.io/v1/ClusterTrustBundle": {map[string]string{"spec.signerName": ""}, "field label not supported: spec.nothing"},
	"certificates.k8s.io/v1/PodCertificateRequest": {map[string]string{"spec.signerName": "?", "spec.podName": "?", "spec.nodeName": "?"},
		"field label not supported: spec.nothing"},
	"certificates.k8s.io/v1/CertificateSigningRequest": {map[string]string{"spec.signerName": "?"}, "field label not supported: spec.nothing"},
	"resource.k8s.io/v1/ResourceSlice": {map[string]string{"spec.nodeName": "?", "spec.driver": "?", "spec.pool.name": "?"},
		"field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.nothing"},
}

// TestFieldSelectors asks of every sample by each field that can be selected.
func TestFieldSelectors(t *testing.T) {
	f := newFixture(t)
	met := map[string]bool{}
	for _, sample := range documents(t, "valid.yaml") {
		kind := sample.GetAPIVersion() + "/" + sample.GetKind()
		r, _ := f.resource(t, sample.GroupVersionKind())
		created, err := r.Create(t.Context(), sample, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		known, ok := selectable[kind]
		if !ok {
			// Kinds of which no more can be asked than of all.
			known.refusal = `"spec.nothing" is not a known field selector: only "metadata.name", "metadata.namespace"`
		}
		met[kind] = true
		one := "metadata.name=" + sample.GetName() + ","
		count := func(selector string) int {
			t.Helper()
			list, err := r.List(t.Context(), metav1.ListOptions{FieldSelector: one + selector})
			if err != nil {
				t.Errorf("%s, %s: %v", kind, selector, err)
				return -1
			}
			return len(list.Items)
		}
		for name, value := range known.fields {
			if value == "?" {
				value, _, _ = unstructured.NestedString(created.Object, strings.Split(name, ".")...)
			}
			if n := count(fmt.Sprintf("%s=%s", name, value)); n != 1 {
				t.Errorf("%s with %s=%q: %d", kind, name, value, n)
			}
			if n := count(fmt.Sprintf("%s!=%s", name, value)); n != 0 {
				t.Errorf("%s with %s!=%q: %d", kind, name, value, n)
			}
			if n := count(name + "=another"); n != 0 {
				t.Errorf("%s with %s=another: %d", kind, name, n)
			}
		}
		if _, err := r.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nothing=a"}); !apierrors.IsBadRequest(err) || !strings.HasSuffix(err.Error(), known.refusal) {
			t.Errorf("%s with a field that cannot be selected: %v, want %s", kind, err, known.refusal)
		}
		background, now := metav1.DeletePropagationBackground, int64(0)
		if err := r.Delete(t.Context(), sample.GetName(), metav1.DeleteOptions{PropagationPolicy: &background, GracePeriodSeconds: &now}); err != nil {
			t.Errorf("%s: %v", kind, err) // some bound or choose others
		}
	}
	for kind := range selectable {
		if !met[kind] {
			t.Errorf("there is no sample of %s", kind)
		}
	}
}
