package tokensecret

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Secret  corev1.Secret          `json:"secret"`
	Account *corev1.ServiceAccount `json:"account"`
}

type output struct {
	Remove bool              `json:"remove,omitempty"`
	Token  bool              `json:"token,omitempty"`
	Data   map[string]string `json:"data,omitempty"`
	UID    string            `json:"uid,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		a := plan(&in.Secret, in.Account, "CA")
		out := output{Remove: a.remove}
		if a.update != nil {
			out.Token, out.Data, out.UID = a.token, map[string]string{}, a.update.Annotations[corev1.ServiceAccountUIDKey]
			for key, value := range a.update.Data {
				out.Data[key] = string(value)
			}
		}
		return out
	})
}
