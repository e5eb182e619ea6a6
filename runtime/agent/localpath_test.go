package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// TestDataGoesOnlyIfTheQuorumSaysSo: the watch alone destroys nothing.
func TestDataGoesOnlyIfTheQuorumSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolume) // between the watch and the quorum
		gone   bool
	}{
		"nothing changed": {func(*corev1.PersistentVolume) {}, true},
		"it is to be retained": {func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}, false},
		"another of its name":     {func(v *corev1.PersistentVolume) { v.UID = "other" }, false},
		"nobody wants it deleted": {func(v *corev1.PersistentVolume) { v.DeletionTimestamp = nil }, false},
	} {
		root := t.TempDir()
		v := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{
				Name: "v", UID: "u", DeletionTimestamp: &metav1.Time{}, Finalizers: []string{LocalPathFinalizer},
				Labels: map[string]string{corev1.LabelHostname: "n1"}, Annotations: map[string]string{provisionedBy: LocalPathProvisioner},
			},
			Spec: corev1.PersistentVolumeSpec{
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
				PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: filepath.Join(root, "v")}},
			},
		}
		if err := os.Mkdir(v.Spec.Local.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		seen := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
		if err := seen.Add(v); err != nil {
			t.Fatal(err)
		}
		fresh := v.DeepCopy()
		c.change(fresh)
		l := &localPaths{client: fake.NewClientset(fresh), nodeName: "n1", root: root, events: record.NewFakeRecorder(1), inUse: func(string) bool { return false }}
		if err := l.remove(t.Context(), corelisters.NewPersistentVolumeLister(seen), "v"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(v.Spec.Local.Path); errors.Is(err, os.ErrNotExist) != c.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
