// Package history keeps the revisions of StatefulSets and DaemonSets: one
// ControllerRevision for each pod template there was, in upstream's shape, which is
// what kubectl rollout history and undo work with.
//
// Choosing is pure; Keeper reads and writes and is safe for concurrent use. Only
// controllers import this package.
package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
)

// HashLabel carries the hash of a revision's data.
const HashLabel = "controller.kubernetes.io/hash"

// data is a strategic merge patch that puts the template back.
type data struct {
	Spec struct {
		Template map[string]any `json:"template"`
	} `json:"spec"`
}

// Data is what a revision records of a template.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("record pod template: %w", err)
	}
	var d data
	if err := json.Unmarshal(raw, &d.Spec.Template); err != nil {
		return nil, fmt.Errorf("record pod template: %w", err)
	}
	d.Spec.Template["$patch"] = "replace"
	return json.Marshal(d)
}

// Template is the template a revision recorded.
func Template(revision *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var d struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(revision.Data.Raw, &d); err != nil {
		return nil, fmt.Errorf("revision %s/%s holds no pod template: %w", revision.Namespace, revision.Name, err)
	}
	return &d.Spec.Template, nil
}

// New makes a revision of owner. Its name says what is in it, so that it cannot be
// made twice; collisions tells names apart whose hash is the same.
func New(owner metav1.Object, kind schema.GroupVersionKind, labels map[string]string, raw []byte, number int64, collisions *int32) *appsv1.ControllerRevision {
	hash := hashOf(raw, collisions)
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			Name:            nameOf(owner.GetName(), hash),
			Labels:          map[string]string{},
			Annotations:     map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data:     runtime.RawExtension{Raw: raw},
		Revision: number,
	}
	for k, v := range labels {
		r.Labels[k] = v
	}
	r.Labels[HashLabel] = hash
	for k, v := range owner.GetAnnotations() {
		if k != corev1.LastAppliedConfigAnnotation {
			r.Annotations[k] = v
		}
	}
	return r
}

func hashOf(raw []byte, collisions *int32) string {
	h := fnv.New32()
	h.Write(raw)
	if collisions != nil {
		h.Write([]byte(strconv.FormatInt(int64(*collisions), 10)))
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func nameOf(owner, hash string) string {
	return owner[:min(len(owner), 223)] + "-" + hash
}

// Choice is the revision a template belongs to.
type Choice struct {
	Revision *appsv1.ControllerRevision
	Create   bool // it is new
	Raise    bool // it is an old one that becomes the newest again, with a higher number
}

// Choose finds the revision that recorded raw among those there are, or makes one.
func Choose(revisions []*appsv1.ControllerRevision, owner metav1.Object, kind schema.GroupVersionKind, labels map[string]string, raw []byte, collisions *int32) Choice {
	next, newest := int64(1), -1
	for i, r := range revisions {
		if r.Revision >= next {
			next, newest = r.Revision+1, i
		}
	}
	found := -1
	for i, r := range revisions {
		if same(r.Data.Raw, raw) && (found < 0 || r.Revision > revisions[found].Revision) {
			found = i
		}
	}
	switch {
	case found < 0:
		return Choice{Revision: New(owner, kind, labels, raw, next, collisions), Create: true}
	case found == newest || newest < 0:
		return Choice{Revision: revisions[found]}
	}
	raised := revisions[found].DeepCopy()
	raised.Revision = next
	return Choice{Revision: raised, Raise: true}
}

// same compares what was recorded, not how it was written down.
func same(a, b []byte) bool {
	return bytes.Equal(a, b) || bytes.Equal(canonical(a), canonical(b))
}

func canonical(raw []byte) []byte {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}

// Surplus are the oldest revisions that nothing uses, as far as they exceed limit.
func Surplus(revisions []*appsv1.ControllerRevision, used map[string]bool, limit int) []*appsv1.ControllerRevision {
	var idle []*appsv1.ControllerRevision
	for _, r := range revisions {
		if !used[r.Name] && r.DeletionTimestamp == nil {
			idle = append(idle, r)
		}
	}
	if len(idle) <= limit {
		return nil
	}
	slices.SortFunc(idle, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	return idle[:len(idle)-limit]
}
