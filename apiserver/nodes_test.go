package apiserver

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

// on puts a pod on a node, without a scheduler.
func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func mustCreatePod(t *testing.T, c kubernetes.Interface, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	got, err := c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestNodesReadWhatTheirPodsNeed follows every edge from a node to what it may read.
func TestNodesReadWhatTheirPodsNeed(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	root, a, b := clientOf(t, s, admin), clientOf(t, s, nodeUser("a")), clientOf(t, s, nodeUser("b"))
	defaultNamespace(t, root)
	ctx := t.Context()
	for _, name := range []string{"used", "pulled", "unused", "mounts"} {
		if _, err := root.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	class := "fast"
	if _, err := root.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: size}, VolumeName: "pv",
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, claim := range map[string]string{"pv": "claim", "stolen": "another"} {
		if _, err := root.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
				ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: claim},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					Driver: "d.example.com", VolumeHandle: name, NodeStageSecretRef: &corev1.SecretReference{Namespace: "default", Name: "mounts"},
				}},
			},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustCreatePod(t, root, simplePod("p", on("a"), func(p *corev1.Pod) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pulled"}}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "used"}}},
			{Name: "c", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		}
	}))

	get := metav1.GetOptions{}
	reads := map[string]func(kubernetes.Interface) error{
		"secret": func(c kubernetes.Interface) error { return second(c.CoreV1().Secrets("default").Get(ctx, "used", get)) },
		"pull secret": func(c kubernetes.Interface) error {
			return second(c.CoreV1().Secrets("default").Get(ctx, "pulled", get))
		},
		"volume's secret": func(c kubernetes.Interface) error {
			return second(c.CoreV1().Secrets("default").Get(ctx, "mounts", get))
		},
		"one secret, listed": func(c kubernetes.Interface) error {
			return second(c.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=used"}))
		},
		"root CA": func(c kubernetes.Interface) error {
			return second(c.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", get))
		},
		"claim": func(c kubernetes.Interface) error {
			return second(c.CoreV1().PersistentVolumeClaims("default").Get(ctx, "claim", get))
		},
		"volume": func(c kubernetes.Interface) error {
			return second(c.CoreV1().PersistentVolumes().Get(ctx, "pv", get))
		},
		"pod": func(c kubernetes.Interface) error { return second(c.CoreV1().Pods("default").Get(ctx, "p", get)) },
	}
	for what, read := range reads {
		if err := read(a); err != nil {
			t.Errorf("%s, of the pod's node: %v", what, err)
		}
		if err := read(b); !apierrors.IsForbidden(err) {
			t.Errorf("%s, of another node: %v", what, err)
		}
	}
	refused(t, second(a.CoreV1().Secrets("default").Get(ctx, "unused", get)),
		`secrets "unused" is forbidden: User "system:node:a" cannot get resource "secrets" in API group "" in the namespace "default": node: no relationship found between node 'a' and this object`)
	refused(t, second(a.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})), "No Object name found")
	refused(t, second(a.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})), "can only read namespaced object of this type")
	refused(t, second(a.CoreV1().PersistentVolumes().Get(ctx, "stolen", get)), "no relationship found")
	refused(t, second(a.CoreV1().Pods("").List(ctx, metav1.ListOptions{})), "can only list/watch pods with spec.nodeName field selector")
	if pods, err := a.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=a"}); err != nil || len(pods.Items) != 1 {
		t.Errorf("%v %v", pods, err)
	}

	zero := int64(0)
	if err := root.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node to have lost what only its pod needed", func(context.Context) (bool, error) {
		return apierrors.IsForbidden(reads["secret"](a)), nil
	})
}

// TestNodesWriteOnlyTheirOwn is NodeRestriction and what registers a node.
func TestNodesWriteOnlyTheirOwn(t *testing.T) {
	s := startServer(t, raftstoretest.New(t), withAccountKey(t))
	root, a, b := clientOf(t, s, admin), clientOf(t, s, nodeUser("a")), clientOf(t, s, nodeUser("b"))
	defaultNamespace(t, root)
	ctx := t.Context()
	node, err := a.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "z", "kontiki.io/x": "y"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady || node.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
		t.Errorf("taints of a new node: %v", node.Spec.Taints)
	}
	refused(t, second(b.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})), `node "b" is not allowed to modify node "c"`)
	refused(t, second(b.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b", Labels: map[string]string{"node-role.kubernetes.io/x": ""}}}, metav1.CreateOptions{})),
		`node "b" is not allowed to set the following labels: node-role.kubernetes.io/x`)
	tainted := node.DeepCopy()
	tainted.Spec.Taints = nil
	refused(t, second(a.CoreV1().Nodes().Update(ctx, tainted, metav1.UpdateOptions{})), `node "a" is not allowed to modify taints`)
	refused(t, second(b.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})), `node "b" is not allowed to modify node "a"`)
	refused(t, second(b.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})), "cannot read 'a', only its own Node object")
	refused(t, a.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{}), "cannot delete resource")

	pod := mustCreatePod(t, root, simplePod("p", on("a")))
	pod.Status.Phase = corev1.PodRunning
	refused(t, second(b.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{})), `node "b" can only update pod status for pods with spec.nodeName set to itself`)
	if _, err := a.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	refused(t, b.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{}), `node "b" can only delete pods with spec.nodeName set to itself`)
	refused(t, second(a.CoreV1().Pods("default").Create(ctx, simplePod("own", on("a")), metav1.CreateOptions{})), `node "a" can only create mirror pods`)
	refused(t, second(a.CoreV1().Pods("default").Update(ctx, pod, metav1.UpdateOptions{})), "cannot update resource")

	token := func(c kubernetes.Interface, ref *authenticationv1.BoundObjectReference, audiences ...string) error {
		return second(c.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: ref},
		}, metav1.CreateOptions{}))
	}
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID}
	if err := token(a, bound); err != nil {
		t.Error(err)
	}
	refused(t, token(a, nil), "node requested token not bound to a pod")
	refused(t, token(b, bound), "no relationship found between node 'b' and this object")
	refused(t, token(a, bound, "vault"), `audience "vault" not found in pod spec volume, system:node:a is not authorized to request tokens for this audience`)

	lease := func(namespace, name string) error {
		return second(a.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	if _, err := root.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lease(corev1.NamespaceNodeLease, "a"); err != nil {
		t.Error(err)
	}
	refused(t, lease(corev1.NamespaceNodeLease, "b"), "can only access node lease with the same name as the requesting node")
	refused(t, lease("default", "a"), `can only access leases in the "kube-node-lease" system namespace`)
}
