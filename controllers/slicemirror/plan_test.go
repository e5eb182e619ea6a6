package slicemirror

import (
	"fmt"
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
	Copies int               `json:"copies"` // of the first address
}

type output struct {
	Create, Update, Remove []string `json:",omitempty"`
	Skipped                int      `json:",omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		zone := func(string) string { return "z" }
		var existing []*discoveryv1.EndpointSlice
		if in.Before != nil {
			existing = plan(in.Before, &corev1.Service{}, nil, zone).Create
		}
		skipped := 0
		if in.Endpoints != nil {
			for i := 1; i < in.Copies; i++ {
				subset := &in.Endpoints.Subsets[0]
				subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("10.1.%d.%d", i/250, i%250)})
			}
			skipped = tooMany(in.Endpoints)
		}
		a := plan(in.Endpoints, in.Service, existing, zone)
		if in.Copies > 0 {
			return output{Create: []string{fmt.Sprint(len(a.Create[0].Endpoints), " addresses")}, Skipped: skipped}
		}
		return output{tell(a.Create), tell(a.Update), tell(a.Remove), skipped}
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
