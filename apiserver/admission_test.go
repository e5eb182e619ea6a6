package apiserver

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

func quantities(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// withResources asks for what its only container needs.
func withResources(requests, limits corev1.ResourceList) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
}

// dryPod is a pod as it would be created.
func dryPod(t *testing.T, c kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	t.Helper()
	return c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// TestPodsGetDefaults is about what the cluster's classes and ranges give a pod.
func TestPodsGetDefaults(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx, options := t.Context(), metav1.CreateOptions{}
	pod, err := dryPod(t, c, simplePod("plain"))
	if err != nil || *pod.Spec.Priority != 0 || *pod.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Fatalf("%v %v", pod, err)
	}
	never := corev1.PreemptNever
	for _, class := range []schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 7, GlobalDefault: true},
		{ObjectMeta: metav1.ObjectMeta{Name: "patient"}, Value: 100, PreemptionPolicy: &never},
	} {
		if _, err := c.SchedulingV1().PriorityClasses().Create(ctx, &class, options); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the default class to be known", func(context.Context) (bool, error) {
		pod, err := dryPod(t, c, simplePod("plain"))
		return err == nil && pod.Spec.PriorityClassName == "usual" && *pod.Spec.Priority == 7, err
	})
	named := func(class string, change ...func(*corev1.Pod)) *corev1.Pod {
		return simplePod("p", append(change, func(p *corev1.Pod) { p.Spec.PriorityClassName = class })...)
	}
	if pod, err = dryPod(t, c, named("patient")); err != nil || *pod.Spec.Priority != 100 || *pod.Spec.PreemptionPolicy != never {
		t.Errorf("%v %v", pod, err)
	}
	refused(t, second(dryPod(t, c, named("nowhere"))), "no PriorityClass with name nowhere was found")
	five := int32(5)
	refused(t, second(dryPod(t, c, named("patient", func(p *corev1.Pod) { p.Spec.Priority = &five }))),
		"the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 100 from the given PriorityClass name")
	refused(t, second(c.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "second"}, GlobalDefault: true}, options)),
		"PriorityClass usual is already marked as default. Only one default can exist")

	if _, err := c.NodeV1().RuntimeClasses().Create(ctx, &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "sandboxed"}, Handler: "runsc", Overhead: &nodev1.Overhead{PodFixed: quantities("memory", "64Mi")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"sandbox": "yes"}, Tolerations: []corev1.Toleration{{Key: "sandbox", Operator: corev1.TolerationOpExists}}},
	}, options); err != nil {
		t.Fatal(err)
	}
	sandboxed := "sandboxed"
	inSandbox := func(p *corev1.Pod) { p.Spec.RuntimeClassName = &sandboxed }
	if pod, err = dryPod(t, c, simplePod("p", inSandbox)); err != nil || pod.Spec.Overhead.Memory().String() != "64Mi" || pod.Spec.NodeSelector["sandbox"] != "yes" || pod.Spec.Tolerations[len(pod.Spec.Tolerations)-1].Key != "sandbox" {
		t.Errorf("%v %v", pod, err)
	}
	refused(t, second(dryPod(t, c, simplePod("p", inSandbox, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"sandbox": "no"} }))),
		"conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no")
	refused(t, second(dryPod(t, c, simplePod("p", func(p *corev1.Pod) { p.Spec.Overhead = quantities("cpu", "1") }))),
		"pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")

	if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}, options); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a pod to know its node's zone", func(context.Context) (bool, error) {
		pod, err := dryPod(t, c, simplePod("p", on("n")))
		return err == nil && pod.Labels[corev1.LabelTopologyZone] == "z1", err
	})
	if _, err := c.CoreV1().Pods("default").Create(ctx, simplePod("bound"), options); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, options); err != nil {
		t.Fatal(err)
	}
	if pod, err = c.CoreV1().Pods("default").Get(ctx, "bound", metav1.GetOptions{}); err != nil || pod.Spec.NodeName != "n" || pod.Labels[corev1.LabelTopologyZone] != "z1" {
		t.Errorf("a pod that is bound is on %q and has the labels %v (%v)", pod.Spec.NodeName, pod.Labels, err)
	}
}

// TestLimitRanges wants a range's defaults filled in, and its bounds held in
// upstream's words.
func TestLimitRanges(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx, options := t.Context(), metav1.CreateOptions{}
	if _, err := c.CoreV1().LimitRanges("default").Create(ctx, &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "bounds"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Default: quantities("cpu", "500m"), DefaultRequest: quantities("cpu", "100m"), Min: quantities("cpu", "50m"), Max: quantities("cpu", "1"), MaxLimitRequestRatio: quantities("cpu", "10")},
			{Type: corev1.LimitTypePersistentVolumeClaim, Max: quantities("storage", "1Gi")},
		}},
	}, options); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the range to be known", func(context.Context) (bool, error) {
		pod, err := dryPod(t, c, simplePod("p"))
		return err == nil && pod.Annotations["kubernetes.io/limit-ranger"] == "LimitRanger plugin set: cpu request for container c; cpu limit for container c" &&
			pod.Spec.Containers[0].Resources.Limits.Cpu().String() == "500m" && pod.Spec.Containers[0].Resources.Requests.Cpu().String() == "100m", err
	})
	for want, r := range map[string][2]corev1.ResourceList{
		"minimum cpu usage per Container is 50m, but request is 10m":                          {quantities("cpu", "10m"), quantities("cpu", "60m")},
		"maximum cpu usage per Container is 1, but limit is 2":                                {quantities("cpu", "1"), quantities("cpu", "2")},
		"cpu max limit to request ratio per Container is 10, but provided ratio is 20.000000": {quantities("cpu", "50m"), quantities("cpu", "1")},
	} {
		refused(t, second(dryPod(t, c, simplePod("p", withResources(r[0], r[1])))), want)
	}
	refused(t, second(c.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim("big", "2Gi"), options)),
		"maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")
}

func claim(name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: quantities("storage", size)},
		},
	}
}

// TestClassesByDefault is about what claims and Ingresses get that name no class,
// and what becomes of a claim.
func TestClassesByDefault(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx, options := t.Context(), metav1.CreateOptions{}
	for name, mark := range map[string]string{"fast": "true", "slow": "false"} {
		if _, err := c.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": mark}}, Provisioner: "p.example.com",
		}, options); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.NetworkingV1().IngressClasses().Create(ctx, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "front", Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: "c.example.com/front"},
	}, options); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	eventually(t, "the default StorageClass to be known", func(context.Context) (bool, error) {
		got, err := c.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim("x", "1Gi"), dry)
		return err == nil && got.Spec.StorageClassName != nil && *got.Spec.StorageClassName == "fast", err
	})
	eventually(t, "the default IngressClass to be known", func(context.Context) (bool, error) {
		got, err := c.NetworkingV1().Ingresses("default").Create(ctx, &networkingv1.Ingress{
			ObjectMeta: metav1.ObjectMeta{Name: "x"},
			Spec:       networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}},
		}, dry)
		return err == nil && got.Spec.IngressClassName != nil && *got.Spec.IngressClassName == "front", err
	})
	got, err := c.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim("real", "1Gi"), options)
	if err != nil || len(got.Finalizers) != 1 || got.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Fatalf("%v %v", got, err)
	}
	got.Status.Phase = corev1.ClaimBound
	if got, err = c.CoreV1().PersistentVolumeClaims("default").UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got.Spec.Resources.Requests = quantities("storage", "2Gi")
	refused(t, second(c.CoreV1().PersistentVolumeClaims("default").Update(ctx, got, metav1.UpdateOptions{})),
		"only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}

// TestQuotas holds a namespace to what its quota says, counted as upstream counts.
func TestQuotas(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx := t.Context()
	// The status is the quota controller's; here it is written by hand.
	hard := quantities("pods", "2", "requests.cpu", "1", "count/configmaps", "1", "services.nodeports", "1", "requests.storage", "3Gi")
	q, err := c.CoreV1().ResourceQuotas("default").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status.Hard, q.Status.Used = hard, quantities("pods", "0", "requests.cpu", "0", "count/configmaps", "0", "services.nodeports", "0", "requests.storage", "0")
	if _, err := c.CoreV1().ResourceQuotas("default").UpdateStatus(ctx, q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the quota to be known", func(context.Context) (bool, error) {
		_, err := dryPod(t, c, simplePod("p"))
		return err != nil && strings.Contains(err.Error(), "failed quota: team: must specify requests.cpu for: c"), nil
	})
	refused(t, second(dryPod(t, c, simplePod("p", withResources(quantities("cpu", "2"), nil)))),
		`pods "p" is forbidden: exceeded quota: team, requested: requests.cpu=2, used: requests.cpu=0, limited: requests.cpu=1`)
	half := withResources(quantities("cpu", "500m"), nil)
	mustCreatePod(t, c, simplePod("one", half))
	mustCreatePod(t, c, simplePod("two", half))
	refused(t, second(c.CoreV1().Pods("default").Create(ctx, simplePod("three", withResources(quantities("cpu", "0"), nil)), metav1.CreateOptions{})),
		"exceeded quota: team, requested: pods=1, used: pods=2, limited: pods=2")
	configMap := func(name string) error {
		return second(c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
	}
	if err := configMap("a"); err != nil {
		t.Error(err)
	}
	refused(t, configMap("b"), "exceeded quota: team, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1")
	balancer := service("front")
	balancer.Spec.Type = corev1.ServiceTypeLoadBalancer
	balancer.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}
	refused(t, second(c.CoreV1().Services("default").Create(ctx, balancer, metav1.CreateOptions{})), "requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1")
	refused(t, second(c.CoreV1().PersistentVolumeClaims("default").Create(ctx, claim("c", "4Gi"), metav1.CreateOptions{})), "requested: requests.storage=4Gi, used: requests.storage=0, limited: requests.storage=3Gi")
	if got, err := c.CoreV1().ResourceQuotas("default").Get(ctx, "team", metav1.GetOptions{}); err != nil || got.Status.Used.Pods().Value() != 2 {
		t.Errorf("%v %v", got, err)
	}
}
