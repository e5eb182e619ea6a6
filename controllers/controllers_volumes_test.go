package controllers

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/controllers/localpath"
)

// TestAPodIsBoundWithItsVolume goes round all who have a part in it: the class, the
// scheduler's choice, the provisioner, the binder, protection, and then the pod.
func TestAPodIsBoundWithItsVolume(t *testing.T) {
	keeps := node("a")
	keeps.Annotations = map[string]string{localpath.VolumesPathAnnotation: "/volumes"}
	c, ctx := newCluster(t, keeps), context.Background()
	c.start()
	c.eventually("the class local-path", func() bool {
		_, err := c.StorageV1().StorageClasses().Get(ctx, "local-path", metav1.GetOptions{})
		return err == nil
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: template("db").Spec}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claimSpec()}}}},
	}
	if _, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec()}
	if _, err := c.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pod to be bound", func() bool {
		pods := c.pods()
		return len(pods) == 1 && pods[0].Spec.NodeName == "a"
	})
	for _, name := range []string{"data", "db-own"} {
		claim, err := c.CoreV1().PersistentVolumeClaims("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName != "pvc-"+string(claim.UID) {
			t.Errorf("%s is %s, to %q", name, claim.Status.Phase, claim.Spec.VolumeName)
		}
		c.eventually("protection of "+name, func() bool {
			claim, err := c.CoreV1().PersistentVolumeClaims("default").Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(claim.Finalizers) == 1
		})
		v, err := c.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if v.Spec.Local.Path != "/volumes/"+v.Name || v.Status.Phase != corev1.VolumeBound || v.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("the volume of %s: %+v", name, v)
		}
	}
}

func claimSpec() corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To("local-path"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
}
