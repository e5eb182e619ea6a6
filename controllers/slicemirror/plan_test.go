package slicemirror

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Endpoints *corev1.Endpoints `json:"endpoints"`
	Service   *corev1.Service   `json:"service"`
	// Before are Endpoints whose mirror is there already.
	Before *corev1.Endpoints `json:"before"`
}

type output struct {
	Create, Update, Remove []string `json:",omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		zone := func(string) string { return "z" }
		var existing []*discoveryv1.EndpointSlice
		if in.Before != nil {
			existing = plan(in.Before, &corev1.Service{}, nil, zone).Create
		}
		a := plan(in.Endpoints, in.Service, existing, zone)
		return output{tell(a.Create), tell(a.Update), tell(a.Remove)}
	})
}

func tell(all []*discoveryv1.EndpointSlice) (texts []string) {
	for _, slice := range all {
		text := string(slice.AddressType)
		for _, e := range slice.Endpoints {
			text += " " + e.Addresses[0]
			if !*e.Conditions.Ready {
				text += "!"
			}
			if e.Zone != nil {
				text += "@" + *e.Zone
			}
		}
		texts = append(texts, text)
	}
	slices.Sort(texts) // names are hashes
	return texts
}
