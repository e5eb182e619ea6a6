package volumebinder

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"kontiki/controllers/plantest"
)

// input is a claim, or a volume, to be planned for, and what there is.
type input struct {
	Claim   string                          `json:"claim"`
	Volume  string                          `json:"volume"`
	Claims  []*corev1.PersistentVolumeClaim `json:"claims"`
	Volumes []*corev1.PersistentVolume      `json:"volumes"`
	Classes []*storagev1.StorageClass       `json:"classes"`
	Default string                          `json:"default"`
	Waiting []string                        `json:"waiting"`
}

type output struct {
	Volume *shortVolume `json:"volume,omitempty"`
	Claim  *shortClaim  `json:"claim,omitempty"`
	Look   string       `json:"look,omitempty"`
	Events []string     `json:"events,omitempty"`
}

type shortVolume struct {
	Name        string            `json:"name"`
	Phase       string            `json:"phase,omitempty"`
	Message     string            `json:"message,omitempty"`
	Claim       string            `json:"claim,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type shortClaim struct {
	Name        string            `json:"name"`
	Phase       string            `json:"phase,omitempty"`
	Volume      string            `json:"volume,omitempty"`
	Class       *string           `json:"class,omitempty"`
	Capacity    string            `json:"capacity,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		var todo actions
		if in.Volume != "" {
			at := slices.IndexFunc(in.Volumes, func(v *corev1.PersistentVolume) bool { return v.Name == in.Volume })
			v := in.Volumes[at]
			var claim *corev1.PersistentVolumeClaim
			if ref := v.Spec.ClaimRef; ref != nil {
				if i := slices.IndexFunc(in.Claims, func(c *corev1.PersistentVolumeClaim) bool { return c.UID == ref.UID && ref.UID != "" }); i >= 0 {
					claim = in.Claims[i]
				}
			}
			todo = planVolume(v, claim)
		} else {
			at := slices.IndexFunc(in.Claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == in.Claim })
			w := claimWorld{claim: in.Claims[at], volumes: in.Volumes, waiting: in.Waiting}
			for _, class := range in.Classes {
				if w.claim.Spec.StorageClassName != nil && *w.claim.Spec.StorageClassName == class.Name {
					w.class = class
				}
				if class.Name == in.Default {
					w.defaultClass = class
				}
			}
			todo = planClaim(w)
		}
		out := output{Look: todo.look}
		if v := todo.volume; v != nil {
			out.Volume = &shortVolume{Name: v.Name, Phase: string(v.Status.Phase), Message: v.Status.Message, Annotations: v.Annotations}
			if ref := v.Spec.ClaimRef; ref != nil {
				out.Volume.Claim, out.Volume.UID = ref.Name, string(ref.UID)
			}
		}
		if c := todo.claim; c != nil {
			out.Claim = &shortClaim{Name: c.Name, Phase: string(c.Status.Phase), Volume: c.Spec.VolumeName, Class: c.Spec.StorageClassName, Annotations: c.Annotations}
			if q, ok := c.Status.Capacity[corev1.ResourceStorage]; ok {
				out.Claim.Capacity = q.String()
			}
		}
		for _, e := range todo.events {
			out.Events = append(out.Events, e.kind+" "+e.reason+" "+e.message)
		}
		return out
	})
}
