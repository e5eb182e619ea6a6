package apiserver

import (
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"kontiki/raftstore/raftstoretest"
)

// runningPod creates a pod of app=web and says for its node that it runs.
func runningPod(t *testing.T, c kubernetes.Interface, name string, ready corev1.ConditionStatus) *corev1.Pod {
	t.Helper()
	p := createPod(t, c, pod(name, onNode, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} }))
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	p, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// webBudget creates a budget over app=web with the status that its controller would write.
func webBudget(t *testing.T, c kubernetes.Interface, name string, status policyv1.PodDisruptionBudgetStatus) *policyv1.PodDisruptionBudget {
	t.Helper()
	minimum := intstr.FromInt32(1)
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &minimum, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	b, err := c.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), b, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Status = status
	if b, err = c.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func evict(t *testing.T, c kubernetes.Interface, name string, change ...func(*policyv1.Eviction)) error {
	t.Helper()
	e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	for _, f := range change {
		f(e)
	}
	// A client that is asked to come back later would: here the first answer is wanted.
	return c.PolicyV1().RESTClient().Post().AbsPath("/api/v1/namespaces/default/pods", name, "eviction").Body(e).MaxRetries(0).Do(t.Context()).Error()
}

// refusedBecause wants upstream's 429 with the budget as its cause.
func refusedBecause(t *testing.T, err error, cause string) {
	t.Helper()
	if !apierrors.IsTooManyRequests(err) || err.Error() != "Cannot evict pod as it would violate the pod's disruption budget." {
		t.Fatalf("eviction: %v", err)
	}
	got, ok := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause)
	if !ok || got.Message != cause {
		t.Errorf("cause %q, want %q", got.Message, cause)
	}
}

func TestEvictionTakesFromTheBudget(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	for _, name := range []string{"a", "b", "c"} {
		runningPod(t, c, name, corev1.ConditionTrue)
	}
	webBudget(t, c, "web", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 3, DesiredHealthy: 2, ExpectedPods: 3})

	if err := evict(t, c, "a", func(e *policyv1.Eviction) {
		e.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	}); err != nil {
		t.Fatalf("dry run: %v", err)
	}
	// Of all that ask at once, one gets the one disruption there is.
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, name := range []string{"a", "b", "c"} {
		wg.Go(func() { errs[i] = evict(t, c, name) })
	}
	wg.Wait()
	gone := ""
	for i, name := range []string{"a", "b", "c"} {
		if errs[i] == nil {
			gone += name
			continue
		}
		refusedBecause(t, errs[i], "The disruption budget web does not allow evicting pods currently")
	}
	if len(gone) != 1 {
		t.Fatalf("evicted %q", gone)
	}
	p, err := c.CoreV1().Pods("default").Get(t.Context(), gone, metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil {
		t.Fatalf("%v %v", p, err)
	}
	target := p.Status.Conditions[len(p.Status.Conditions)-1]
	if target.Type != corev1.DisruptionTarget || target.Reason != "EvictionByEvictionAPI" || target.Message != "Eviction API: evicting" {
		t.Errorf("condition %v", target)
	}
	b, err := c.PolicyV1().PodDisruptionBudgets("default").Get(t.Context(), "web", metav1.GetOptions{})
	if _, noted := b.Status.DisruptedPods[gone]; err != nil || !noted || len(b.Status.DisruptedPods) != 1 || b.Status.DisruptionsAllowed != 0 {
		t.Errorf("budget %v %v", b.Status, err)
	}
}

func TestEvictionAsksTheBudget(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	runningPod(t, c, "ready", corev1.ConditionTrue)
	runningPod(t, c, "unready", corev1.ConditionFalse)
	pending := createPod(t, c, pod("pending", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} }))
	b := webBudget(t, c, "web", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 1})

	refusedBecause(t, evict(t, c, "ready"), "The disruption budget web needs 1 healthy pods and has 1 currently")
	// What does not count as healthy may go.
	for _, name := range []string{"unready", "pending"} {
		if err := evict(t, c, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.CoreV1().Pods("default").Get(t.Context(), pending.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod on no node is still there: %v", err)
	}
	wrong := types.UID("other")
	err := evict(t, c, "ready", func(e *policyv1.Eviction) {
		e.DeleteOptions = &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}
	})
	refusedBecause(t, err, "The disruption budget web needs 1 healthy pods and has 1 currently")

	// A budget whose controller is behind refuses until it has caught up.
	two := intstr.FromInt32(2)
	b.Spec.MinAvailable = &two
	if b, err = c.PolicyV1().PodDisruptionBudgets("default").Update(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	refusedBecause(t, evict(t, c, "ready"), "The disruption budget web is still being processed by the server.")
	b.Status.ObservedGeneration = b.Generation
	b.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "no scale", LastTransitionTime: metav1.Now()}}
	if _, err := c.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	refusedBecause(t, evict(t, c, "ready"), "The disruption budget web does not allow evicting pods currently because it failed sync: no scale")

	webBudget(t, c, "second", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 5})
	if err := evict(t, c, "ready"); err == nil || err.Error() != "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support." {
		t.Errorf("two budgets: %v", err)
	}
}

func TestEphemeralContainers(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	pods := c.CoreV1().Pods("default")
	p := createPod(t, c, pod("a", onNode))
	debugger := corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}, TargetContainerName: "web",
	}
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, debugger)
	p.Spec.Containers[0].Image, p.Labels = "other:1", map[string]string{"x": "y"} // not through here
	p, err := pods.UpdateEphemeralContainers(t.Context(), "a", p, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.EphemeralContainers) != 1 || p.Spec.EphemeralContainers[0].TerminationMessagePath == "" || p.Spec.Containers[0].Image != "web:1" || len(p.Labels) != 0 || p.Generation != 2 {
		t.Errorf("%v", p)
	}
	// kubectl debug sends a patch.
	patch := `{"spec":{"ephemeralContainers":[{"name":"second","image":"busybox"}]}}`
	if p, err = pods.Patch(t.Context(), "a", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "ephemeralcontainers"); err != nil || len(p.Spec.EphemeralContainers) != 2 {
		t.Fatalf("%v %v", p, err)
	}
	for want, change := range map[string]func(*corev1.Pod){
		`spec.ephemeralContainers: Forbidden: existing ephemeral containers "debugger" may not be removed`: func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil },
		`spec.ephemeralContainers: Forbidden: existing ephemeral containers "debugger" may not be changed`: func(p *corev1.Pod) {
			for i := range p.Spec.EphemeralContainers {
				p.Spec.EphemeralContainers[i].Image = "other"
			}
		},
		`spec.ephemeralContainers[2].targetContainerName: Not found: "nobody"`: func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{TargetContainerName: "nobody",
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "third", Image: "a"}})
		},
		`spec.ephemeralContainers[2].ports: Forbidden: cannot be set for an Ephemeral Container`: func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{
				EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "third", Image: "a", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}})
		},
	} {
		changed := p.DeepCopy()
		change(changed)
		if _, err := pods.UpdateEphemeralContainers(t.Context(), "a", changed, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

func TestResize(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	pods := c.CoreV1().Pods("default")
	amounts := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Mi")}}
	}
	p := createPod(t, c, pod("a", onNode, func(p *corev1.Pod) { p.Spec.Containers[0].Resources = amounts("100m") }))
	p.Spec.Containers[0].Resources = amounts("200m")
	p.Spec.Containers[0].Image = "other:1"
	p, err := pods.UpdateResize(t.Context(), "a", p, metav1.UpdateOptions{})
	if err != nil || p.Spec.Containers[0].Resources.Requests.Cpu().String() != "200m" || p.Spec.Containers[0].Image != "web:1" || p.Generation != 2 {
		t.Fatalf("%v %v", p, err)
	}
	for want, change := range map[string]func(*corev1.Pod){
		`spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed`: func(p *corev1.Pod) {
			delete(p.Spec.Containers[0].Resources.Requests, corev1.ResourceCPU)
		},
		`Pod QOS Class may not change as a result of resizing`: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = p.Spec.Containers[0].Resources.Requests
		},
		`spec: Forbidden: only cpu and memory resources are mutable`: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceEphemeralStorage] = resource.MustParse("1Gi")
		},
		`spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize`: func(p *corev1.Pod) { p.Spec.Containers[0].Name = "b" },
	} {
		changed := p.DeepCopy()
		change(changed)
		if _, err := pods.UpdateResize(t.Context(), "a", changed, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}
