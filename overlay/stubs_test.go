package overlay

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestDNSConfig(t *testing.T) {
	for _, tc := range []struct{ stubs, upstreams, want, wrong string }{
		{`{"Corp.Example": ["10.1.2.3", "10.1.2.4:5353"]}`, "", "[{corp.example. [10.1.2.3:53 10.1.2.4:5353]}] []", ""},
		{"", `["192.0.2.53"]`, "[] [192.0.2.53:53]", ""},
		{"", "", "[] []", ""},
		{"{", "", "", "is not like"},
		{`{"a": []}`, "", "", "no server"},
		{`{"a": ["b"]}`, "", "", "neither"},
		{`{"a..b": ["192.0.2.1"]}`, "", "", "no domain"},
		{"", `{}`, "", "is not like"},
	} {
		got, err := parseDNSConfig(&corev1.ConfigMap{Data: map[string]string{"stubDomains": tc.stubs, "upstreamNameservers": tc.upstreams}})
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%+v: %v", tc, err)
			}
			continue
		}
		if err != nil || fmt.Sprintf("%v %v", got.stubs, got.upstreams) != tc.want {
			t.Errorf("%+v: %v, %v", tc, got, err)
		}
	}
}
