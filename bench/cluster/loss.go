package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"kontiki/bench/lab"
	"kontiki/bench/peer"
	"kontiki/bench/report"
)

// measureLoss takes one node after another away, with all that runs on it, whichever leads.
func measureLoss(ctx context.Context, l *lab.Lab, o options, out *report.Report) error {
	hosts, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	archive, err := filepath.Abs(filepath.Join(o.bin, "examples", "web.tar"))
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if err := l.Kontiki(ctx, h.Name, "image", "load", archive); err != nil {
			return err
		}
	}
	var skipped, replaced []time.Duration
	led := 0
	for i := range o.losses {
		now, err := l.Hosts(ctx)
		if err != nil {
			return err
		}
		x := loss{lab: l, victim: hosts[i%len(hosts)].Name}
		x.stay = others(hosts, x.victim)
		if now[0].Leader == x.victim {
			led++
		}
		if err := x.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", x.victim, err)
		}
		skipped, replaced = append(skipped, x.skipped), append(replaced, x.replaced)
	}
	first := spell("node killed with its pods, until no other loses a connection through a Service", skipped, "≤ 4 s")
	first.Detail += fmt.Sprintf("; %d of them led", led)
	return errors.Join(
		out.Add(first),
		out.Add(spell("node killed with its pods, until one in place of them is Ready, tolerationSeconds 0", replaced, "≤ 6 s")),
	)
}

// loss is the loss of one node. A Service has two pods, each on a node of its own, one of them the
// lost one; on the nodes that stay, clients connect to it all the while.
type loss struct {
	lab    *lab.Lab
	victim string
	stay   []string

	api  kubernetes.Interface // of a node that stays
	pods map[string]string    // at first: name to node

	skipped  time.Duration // from the kill until the last connection was lost
	replaced time.Duration // from the kill until there was another pod, Ready
}

func (x *loss) measure(ctx context.Context) (err error) {
	config, err := x.lab.Client(ctx, x.stay[0])
	if err != nil {
		return err
	}
	config.QPS = -1
	if x.api, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	url, err := x.serve(ctx)
	if err != nil {
		return err
	}
	var clients []*client
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.stop())
		}
	}()
	for _, host := range x.stay {
		c, err := startClient(x.lab, host, url)
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		err := peer.Wait(ctx, "answers of both pods to "+c.host, func() (bool, error) {
			return !slices.ContainsFunc(slices.Collect(maps.Keys(x.pods)), func(pod string) bool { return !c.heard(pod) }), nil
		})
		if err != nil {
			return err
		}
	}
	if err := x.strike(ctx, clients); err != nil {
		return err
	}
	return x.restore(ctx)
}

const (
	namespace = metav1.NamespaceDefault
	app       = "bench" // the Deployment, its Service and their label
)

var labels = map[string]string{"app": app}

// serve makes the Service and its pods and waits until they are Ready.
func (x *loss) serve(ctx context.Context) (url string, err error) {
	leave := func(taint string) corev1.Toleration { // the node at once, once it has this taint
		return corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)}
	}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	_, err = x.api.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](2), Selector: selector,
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Tolerations:                   []corev1.Toleration{leave(corev1.TaintNodeUnreachable), leave(corev1.TaintNodeNotReady)},
			Containers: []corev1.Container{{Name: "web", Image: "kontiki.local/web:v1", ReadinessProbe: &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
			}}},
			Affinity: &corev1.Affinity{
				PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selector, TopologyKey: corev1.LabelHostname}}},
				NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 100, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{x.victim}}},
				}}}},
			},
		}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	service, err := x.api.CoreV1().Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app}, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	err = peer.Wait(ctx, "two pods to be Ready", func() (bool, error) {
		x.pods, err = x.ready(ctx)
		return len(x.pods) == 2, err
	})
	if err != nil {
		return "", err
	}
	if x.onVictim() == "" {
		return "", fmt.Errorf("the pods are on other nodes: %v", x.pods)
	}
	return "http://" + service.Spec.ClusterIP, nil
}

// onVictim is the pod that is lost.
func (x *loss) onVictim() string {
	for pod, node := range x.pods {
		if node == x.victim {
			return pod
		}
	}
	return ""
}

// ready are the pods that are, and their nodes.
func (x *loss) ready(ctx context.Context) (map[string]string, error) {
	list, err := x.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, err
	}
	pods := map[string]string{}
	for _, pod := range list.Items {
		if slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			pods[pod.Name] = pod.Spec.NodeName
		}
	}
	return pods, nil
}

// steady is for how long no connection may be lost before the lost pod is held to be out of its Service.
const steady = 3 * time.Second

// strike kills all of the node, and looks until its pod is replaced and no client loses connections.
func (x *loss) strike(ctx context.Context, clients []*client) error {
	killed := time.Now()
	if err := x.lab.Off(ctx, x.victim); err != nil {
		return err
	}
	err := peer.Wait(ctx, "a pod in place of the lost one", func() (bool, error) {
		now, err := x.ready(ctx)
		for pod := range now {
			if x.pods[pod] == "" {
				x.replaced = time.Since(killed)
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		return err
	}
	gone := x.onVictim()
	var last time.Time
	err = peer.Wait(ctx, "clients to lose no connection", func() (bool, error) {
		for _, c := range clients {
			if lost := c.lost(killed, gone); lost.After(last) {
				last = lost
			}
		}
		return time.Since(last) > steady && time.Since(killed) > steady+patience, nil
	})
	if err != nil {
		return err
	}
	if last.IsZero() {
		return errors.New("no client has lost a connection: they do not see what is to be measured")
	}
	x.skipped = last.Sub(killed)
	return nil
}

// restore starts the node again, and leaves the cluster as it was.
func (x *loss) restore(ctx context.Context) error {
	if err := x.lab.Start(ctx, x.victim); err != nil {
		return err
	}
	for _, host := range slices.Concat(x.stay, []string{x.victim}) {
		if err := awaitWhole(ctx, x.lab, host); err != nil {
			return err
		}
	}
	if err := x.api.AppsV1().Deployments(namespace).Delete(ctx, app, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := x.api.CoreV1().Services(namespace).Delete(ctx, app, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return peer.Wait(ctx, "pods to be gone, and nodes to take others", func() (bool, error) {
		pods, err := x.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		list, err := x.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		tainted := slices.ContainsFunc(list.Items, func(n corev1.Node) bool { return len(n.Spec.Taints) > 0 })
		return len(pods.Items) == 0 && !tainted, nil
	})
}
