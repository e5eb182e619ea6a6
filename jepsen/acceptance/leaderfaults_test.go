package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"kontiki/jepsen/lab"
)

// undertaking is something that controllers do in many steps. It is begun, the leader
// falls out in the middle, and another leader has to end it: as it was wanted, exactly.
type undertaking struct {
	name  string
	begin func(ctx context.Context) error
	// ended is nil when all is as it was wanted. It must stay so, too, when the old leader
	// is back with plans of its term.
	ended func(ctx context.Context) error
}

// round is one fault, in the middle of all undertakings at once. All that is asked is
// asked through a node that stays.
type round struct {
	*cluster
	n       int
	born    map[string]string // what each pod with a volume wrote when it first came, in earlier rounds too
	via     *lab.Host
	client  kubernetes.Interface
	drained *lab.Host // neither the leader nor via
	evicted chan error
}

func (r *round) undertakings() []undertaking {
	return []undertaking{
		{"scaling", r.beginScale, r.scaled},
		{"a StatefulSet's update", r.beginSet, r.setUpdated},
		{"scaling a StatefulSet with volumes", r.beginStore, r.storeScaled},
		{"a DaemonSet's update", r.beginDaemons, r.daemonsUpdated},
		{"an autoscaler under real load", r.beginLoad, r.loadFollowed},
		{"a Job", r.beginJob, r.jobDone},
		{"a drain with a budget", r.beginDrain, r.drainEnded},
		{"a quota that fills up", r.beginQuota, r.quotaFull},
		{"a namespace that goes", r.beginNamespace, r.namespaceGone},
		{"scaling a ReplicationController", r.beginReplication, r.replicated},
		{"what owners leave behind", r.beginCollection, r.collected},
		{"what stands beside Services", r.beginServices, r.servicesStand},
		{"what namespaces, accounts and roles get", r.beginAccess, r.accessGiven},
		{"a pod's own volume", r.beginVolume, r.volumeMade},
		{"a certificate", r.beginRequest, r.requestSigned},
		{"a preemption", r.beginPreemption, r.preempted},
		{"a rollback", r.beginRollback, r.rolledBack},
		{"a rolling update", r.beginRoll, r.rolled}, // the last: it takes some seconds, and is waited for to be midway
	}
}

// TestLeaderFaults kills, pauses and cuts off the leader in the middle of everything
// that takes controllers many steps.
func TestLeaderFaults(t *testing.T) {
	if os.Getenv("KONTIKI_LONG") == "" {
		t.Skip("needs KONTIKI_LONG=1, as make jepsen sets it: it takes some minutes")
	}
	c := newCluster(t, "lfault", 3)
	c.onEvery(t, "image", "load", filepath.Join(filepath.Dir(c.bin), "examples", "web.tar"))
	c.busybox(t)
	n1 := c.Hosts()[0]
	c.kubectl(t, n1, "apply", "-f", filepath.Join("testdata", "leaderfaults.yaml"))
	client := c.client(t, n1)
	for app, n := range map[string]int{"roll": 4, "back": 3, "scaled": 1, "db": 2, "kept": 3, "store": 1, "daemons": 3, "burner": 1, "counted": 1} {
		c.waitFor(t, client, "app="+app, n)
	}
	c.kubectl(t, n1, "set", "env", "deployment/back", "REVISION=2") // so that there is one to go back to
	c.kubectl(t, n1, "rollout", "status", "deployment/back", "--timeout=80s")
	n, born := 0, map[string]string{}
	for _, fault := range leaderFaults() {
		n++
		t.Run("leader "+fault.name, func(t *testing.T) { c.faultInTheMiddle(t, n, born, fault) })
		if t.Failed() {
			return // each round goes on from where the one before ended
		}
	}
	n4, err := c.Add()
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range leaderFaults() {
		t.Run("a node joins, dies and leaves, the leader "+fault.name, func(t *testing.T) { c.nodeComesAndGoes(t, n4, fault) })
		if t.Failed() {
			return
		}
	}
	t.Run("a CronJob ran once a minute, whoever led", func(t *testing.T) { c.ranEachMinute(t) })
}

// leaderFaults are those of nemeses that take the leader away for as long as they last.
func leaderFaults() []nemesis {
	return slices.DeleteFunc(slices.Clone(nemeses), func(n nemesis) bool {
		return !slices.Contains([]string{"killed", "paused", "cut off"}, n.name)
	})
}

func (c *cluster) faultInTheMiddle(t *testing.T, n int, born map[string]string, fault nemesis) {
	leader := c.agreedLeader(t)
	others := c.others(leader)
	r := &round{cluster: c, n: n, born: born, via: others[0], client: c.client(t, others[0]), drained: others[1], evicted: make(chan error, 1)}
	r.fill(t)
	least := r.watchKept(t, leader)
	for _, u := range r.undertakings() {
		if err := u.begin(t.Context()); err != nil {
			t.Fatalf("begin %s: %v", u.name, err)
		}
	}
	c.eventually(t, "the rolling update to be in its middle", r.midway)
	c.eventually(t, "the less important pod to be leaving", r.makingRoom)
	if err := fault.strike(t, c, leader); err != nil {
		t.Fatal(err)
	}
	struck := time.Now()
	c.anotherLeads(t, r.via, leader)
	c.kubectl(t, r.via, "create", "deployment", "after-"+r.template(), "--image=kontiki.local/web:v1")
	c.eventually(t, "what is new to be done by the new leader", r.newBound)
	if err := fault.heal(t, c, leader); err != nil {
		t.Fatal(err)
	}
	healed := time.Now()
	for _, u := range r.undertakings() {
		c.eventually(t, u.name+" to end", u.ended)
	}
	c.agreedLeader(t)
	for _, u := range r.undertakings() {
		if err := u.ended(t.Context()); err != nil {
			t.Errorf("%s did not stay as it was, once the old leader was back: %v", u.name, err)
		}
	}
	if fewest := least(); fewest < 2 {
		t.Errorf("only %d of 3 pods were ready, or on the struck node; the budget keeps 2", fewest)
	}
	c.kubectl(t, r.via, "uncordon", r.drained.Name)
	c.kubectl(t, r.via, "delete", "pod", r.template()+"-urgent", "--now") // the next round may need the room
	t.Logf("leader %s %s: healed after %v, all ended %v later", leader.Name, fault.name, healed.Sub(struck).Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
}

// anotherLeads waits until another host leads than the one that is struck, as via sees it.
func (c *cluster) anotherLeads(t *testing.T, via, struck *lab.Host) {
	t.Helper()
	c.eventually(t, "another leader than "+struck.Name, func(ctx context.Context) error {
		for _, s := range c.Status(ctx) {
			if s.Host == via.Name && s.Leader != "" && s.Leader != struck.Name {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

func onNode(name string) func(corev1.Pod) bool {
	return func(pod corev1.Pod) bool { return pod.Spec.NodeName == name }
}

// template tells the rounds' pod templates apart.
func (r *round) template() string { return "round-" + strconv.Itoa(r.n) }

func (r *round) patchTemplate() []byte {
	return fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"round":%q}}}}}`, r.template())
}

func (r *round) beginRoll(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "patch", "deployment/roll", "--patch", string(r.patchTemplate()))
	return err
}

// midway: some pods are of the new template, and not all.
func (r *round) midway(ctx context.Context) error {
	d, err := r.client.AppsV1().Deployments("default").Get(ctx, "roll", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedReplicas == 0 {
		return fmt.Errorf("its status is %+v", d.Status)
	}
	return nil
}

// newBound: the pod of a Deployment that was made after the fault has a node.
func (r *round) newBound(ctx context.Context) error {
	pods, err := r.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=after-" + r.template()})
	if err == nil && (len(pods.Items) != 1 || pods.Items[0].Spec.NodeName == "") {
		err = fmt.Errorf("%d pods are there", len(pods.Items))
	}
	return err
}

func (r *round) rolled(ctx context.Context) error {
	return r.settled(ctx, "roll", 4, func(pod *corev1.Pod) bool { return pod.Annotations["round"] == r.template() })
}

func (r *round) beginRollback(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "rollout", "undo", "deployment/back")
	return err
}

// rolledBack: undoing goes to and fro between two templates, one of which has the
// variable REVISION.
func (r *round) rolledBack(ctx context.Context) error {
	return r.settled(ctx, "back", 3, func(pod *corev1.Pod) bool { return (len(pod.Spec.Containers[0].Env) > 0) == (r.n%2 == 0) })
}

func (r *round) size() int32 { return []int32{1, 6}[r.n%2] }

func (r *round) beginScale(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "scale", "deployment/scaled", fmt.Sprint("--replicas=", r.size()))
	return err
}

func (r *round) scaled(ctx context.Context) error {
	return r.settled(ctx, "scaled", int(r.size()), func(*corev1.Pod) bool { return true })
}

// settled says whether exactly n pods of a Deployment are there, ready and as wanted, and
// its status says so.
func (r *round) settled(ctx context.Context, app string, n int, wanted func(*corev1.Pod) bool) error {
	if err := r.pods(ctx, app, n, wanted); err != nil {
		return err
	}
	d, err := r.client.AppsV1().Deployments("default").Get(ctx, app, metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := appsv1.DeploymentStatus{Replicas: int32(n), UpdatedReplicas: int32(n), ReadyReplicas: int32(n), AvailableReplicas: int32(n)}
	s := d.Status
	if s.ObservedGeneration != d.Generation || s.Replicas != want.Replicas || s.UpdatedReplicas != want.UpdatedReplicas || s.ReadyReplicas != want.ReadyReplicas || s.AvailableReplicas != want.AvailableReplicas || s.UnavailableReplicas != 0 {
		return fmt.Errorf("status of %s: %+v", app, s)
	}
	return nil
}

// pods says whether exactly n pods with the label are there, ready and as wanted.
func (r *round) pods(ctx context.Context, app string, n int, wanted func(*corev1.Pod) bool) error {
	all, err := r.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return err
	}
	good := 0
	for i := range all.Items {
		if pod := &all.Items[i]; isReady(pod) && wanted(pod) {
			good++
		}
	}
	if good != n || len(all.Items) != n {
		return fmt.Errorf("%d pods of %s, %d of them as wanted; want %d", len(all.Items), app, good, n)
	}
	return nil
}

func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (r *round) beginSet(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "patch", "statefulset/db", "--patch", string(r.patchTemplate()))
	return err
}

func (r *round) setUpdated(ctx context.Context) error {
	if err := r.pods(ctx, "db", 2, func(pod *corev1.Pod) bool { return pod.Annotations["round"] == r.template() }); err != nil {
		return err
	}
	s, err := r.client.AppsV1().StatefulSets("default").Get(ctx, "db", metav1.GetOptions{})
	if err == nil && (s.Status.UpdatedReplicas != 2 || s.Status.CurrentRevision != s.Status.UpdateRevision) {
		err = fmt.Errorf("its status is %+v", s.Status)
	}
	return err
}

func (r *round) stores() int { return []int{1, 3}[r.n%2] }

func (r *round) beginStore(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "scale", "statefulset/store", fmt.Sprint("--replicas=", r.stores()))
	return err
}

// storeScaled: the pods are those of the lowest ordinals, and each finds what it wrote when it first
// came, though it went with its node's drain, or with an earlier round.
func (r *round) storeScaled(ctx context.Context) error {
	ordinal := func(pod *corev1.Pod) bool {
		i, err := strconv.Atoi(strings.TrimPrefix(pod.Name, "store-"))
		return err == nil && i < r.stores()
	}
	if err := r.pods(ctx, "store", r.stores(), ordinal); err != nil {
		return err
	}
	for i := range r.stores() {
		pod := fmt.Sprint("store-", i)
		now, err := r.tryKubectl(ctx, r.via, "exec", pod, "--", "cat", "/data/born")
		if err != nil {
			return err
		}
		if r.born[pod] == "" {
			r.born[pod] = now
		}
		if now == "" || now != r.born[pod] {
			return fmt.Errorf("%s wrote %q and finds %q", pod, r.born[pod], now)
		}
	}
	return nil
}

func (r *round) beginDaemons(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "patch", "daemonset/daemons", "--patch", string(r.patchTemplate()))
	return err
}

func (r *round) daemonsUpdated(ctx context.Context) error {
	if err := r.pods(ctx, "daemons", 3, func(pod *corev1.Pod) bool { return pod.Annotations["round"] == r.template() }); err != nil {
		return err
	}
	d, err := r.client.AppsV1().DaemonSets("default").Get(ctx, "daemons", metav1.GetOptions{})
	if err == nil && (d.Status.UpdatedNumberScheduled != 3 || d.Status.NumberReady != 3 || d.Status.ObservedGeneration != d.Generation) {
		err = fmt.Errorf("its status is %+v", d.Status)
	}
	return err
}

// load is how many pods the burner needs: three while it burns.
func (r *round) load() (burns string, pods int) {
	if r.n%2 == 0 {
		return "no", 1
	}
	return "yes", 3
}

func (r *round) beginLoad(ctx context.Context) error {
	burns, _ := r.load()
	_, err := r.tryKubectl(ctx, r.via, "set", "env", "deployment/burner", "BURN="+burns)
	return err
}

func (r *round) loadFollowed(ctx context.Context) error {
	burns, pods := r.load()
	return r.settled(ctx, "burner", pods, func(pod *corev1.Pod) bool { return pod.Spec.Containers[0].Env[0].Value == burns })
}

// beginJob makes a Job of six pods, two at a time, each of which ends at once: they are
// counted while the leader falls out.
func (r *round) beginJob(ctx context.Context) error {
	_, err := r.client.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: r.template()},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](6), Parallelism: ptr.To[int32](2), CompletionMode: ptr.To(batchv1.IndexedCompletion), BackoffLimit: ptr.To[int32](0),
			// One that the drain evicts is no failure.
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:          batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Containers:    []corev1.Container{{Name: "c", Image: "kontiki.local/web:v1", Command: []string{"/web", "exit", "0"}}},
			}},
		},
	}, metav1.CreateOptions{})
	return err
}

func (r *round) jobDone(ctx context.Context) error {
	job, err := r.client.BatchV1().Jobs("default").Get(ctx, r.template(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	s := job.Status
	if s.Succeeded != 6 || s.Failed != 0 || s.CompletedIndexes != "0-5" || s.CompletionTime == nil {
		return fmt.Errorf("its status is %+v", s)
	}
	return nil
}

func (r *round) beginDrain(ctx context.Context) error {
	go func() {
		_, err := r.tryKubectl(ctx, r.via, "drain", r.drained.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=80s")
		r.evicted <- err
	}()
	return nil
}

func (r *round) drainEnded(ctx context.Context) error {
	select {
	case err := <-r.evicted:
		r.evicted <- err // for whoever asks again
		if err != nil {
			return err
		}
	default:
		return errors.New("kubectl drain is at it still")
	}
	return r.pods(ctx, "kept", 3, func(pod *corev1.Pod) bool { return pod.Spec.NodeName != r.drained.Name })
}

// watchKept notes how few pods of those that a budget keeps were ready at any time, or
// on the node that is struck: what becomes of those is no eviction's fault.
func (r *round) watchKept(t *testing.T, struck *lab.Host) (least func() int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	fewest := make(chan int, 1)
	go func() {
		least := 3
		pace := time.NewTicker(20 * time.Millisecond)
		defer pace.Stop()
		for ctx.Err() == nil {
			if all, err := r.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=kept"}); err == nil {
				n := 0
				for i := range all.Items {
					if pod := &all.Items[i]; isReady(pod) || pod.Spec.NodeName == struck.Name {
						n++
					}
				}
				least = min(least, n)
			}
			<-pace.C
		}
		fewest <- least
	}()
	t.Cleanup(stop)
	return func() int { stop(); return <-fewest }
}

func (r *round) wanted() int32 { return []int32{0, 5}[r.n%2] }

func (r *round) beginQuota(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "-n", "limited", "scale", "deployment/wants", fmt.Sprint("--replicas=", r.wanted()))
	return err
}

// quotaFull: there are as many pods as are wanted and allowed, and they are counted.
func (r *round) quotaFull(ctx context.Context) error {
	want := min(r.wanted(), 3)
	quota, err := r.client.CoreV1().ResourceQuotas("limited").Get(ctx, "all", metav1.GetOptions{})
	if err != nil {
		return err
	}
	pods, err := r.client.CoreV1().Pods("limited").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	used := quota.Status.Used[corev1.ResourcePods]
	if used.Value() != int64(want) || len(pods.Items) != int(want) {
		return fmt.Errorf("%d pods are there, %s are counted; want %d", len(pods.Items), used.String(), want)
	}
	return nil
}

// beginNamespace fills a namespace and has it deleted.
func (r *round) beginNamespace(ctx context.Context) error {
	if _, err := r.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.template()}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	for i := range 20 {
		if _, err := r.client.CoreV1().ConfigMaps(r.template()).Create(ctx, configMap(fmt.Sprint("c-", i), nil), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	if _, err := r.tryKubectl(ctx, r.via, "-n", r.template(), "create", "deployment", "web", "--image=kontiki.local/web:v1", "--replicas=2"); err != nil {
		return err
	}
	return r.client.CoreV1().Namespaces().Delete(ctx, r.template(), metav1.DeleteOptions{})
}

func (r *round) namespaceGone(ctx context.Context) error {
	if ns, err := r.client.CoreV1().Namespaces().Get(ctx, r.template(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return errors.Join(err, fmt.Errorf("it is there: %+v", ns.Status))
	}
	left, err := r.client.CoreV1().ConfigMaps(r.template()).List(ctx, metav1.ListOptions{})
	if err == nil && len(left.Items) > 0 {
		err = fmt.Errorf("%d ConfigMaps of it are left", len(left.Items))
	}
	return err
}

// ranEachMinute: from the first minute that it ran in to the last, there is one Job for
// each.
func (c *cluster) ranEachMinute(t *testing.T) {
	client := c.client(t, c.Hosts()[0])
	var minutes []int
	c.eventually(t, "two runs of the CronJob at least", func(ctx context.Context) error {
		jobs, err := client.BatchV1().Jobs("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		minutes = nil
		for _, job := range jobs.Items {
			if at, ok := strings.CutPrefix(job.Name, "minutely-"); ok {
				minute, err := strconv.Atoi(at)
				if err != nil {
					return err
				}
				minutes = append(minutes, minute)
			}
		}
		slices.Sort(minutes)
		if len(minutes) < 2 {
			return fmt.Errorf("it ran in minutes %v", minutes)
		}
		return nil
	})
	for i := range minutes {
		if minutes[i] != minutes[0]+i {
			t.Fatalf("it ran in the minutes %v", minutes)
		}
	}
	t.Logf("it ran %d times", len(minutes))
}
