package workload

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync/atomic"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

const (
	crowd           = "crowd"
	crowdPerNode    = 2
	servicesAtOnce  = 3 // of each client
	serviceTurnRate = 6
	nodesListed     = "nodes"
)

// addresses gives addresses out and takes them back, through all nodes: of pods, which
// tell themselves which they have, of Services with node ports, and subnets of nodes.
func addresses() Workload {
	w := Workload{
		Name:  "addresses",
		About: "no two pods have one address at a time, as they themselves tell, no two Services one address or node port, no two nodes one subnet",
		judge: judgeAddresses,
	}
	w.setUp = func(ctx context.Context, r *Run) error {
		pods := w.containersOf(r).crowd(w.namespace(), int32(crowdPerNode*len(r.Nodes)))
		return w.make(ctx, r,
			func(ctx context.Context, c *client) error {
				_, err := c.api.AppsV1().Deployments(pods.Namespace).Create(ctx, pods, metav1.CreateOptions{})
				return err
			},
			func(ctx context.Context, c *client) error { return crowdThere(ctx, c, w.namespace()) })
	}
	w.run = func(ctx context.Context, r *Run) error {
		var services atomic.Int64
		return w.withContainers(ctx, r, func(ctx context.Context, _ *containers) error {
			err := w.everywhereAt(ctx, r, serviceTurnRate, func(p *process) func(context.Context) {
				var own []string
				return func(ctx context.Context) { own = p.addressesTurn(ctx, &services, own) }
			})
			if err != nil {
				return err
			}
			return w.settle(ctx, r, func(ctx context.Context, k *client) error { return crowdThere(ctx, k, w.namespace()) })
		})
	}
	return w
}

// crowd are pods whose witnesses have their addresses for names.
func (c *containers) crowd(namespace string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": crowd}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: crowd, Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: c.witnessPod(labels, "live"),
		},
	}
}

// addressesTurn makes a Service or takes one away, has pods come and go, or lists nodes.
// It returns the names of the client's Services.
func (p *process) addressesTurn(ctx context.Context, services *atomic.Int64, own []string) []string {
	switch draw := p.chance.IntN(100); {
	case draw < 10:
		size := fmt.Sprintf(`{"spec":{"replicas":%d}}`, 1+p.chance.IntN(crowdPerNode*len(p.run.Nodes)))
		p.do(ctx, history.Event{F: "scale", Key: crowd, Value: size}, writeTime, func(ctx context.Context, _ *history.Event) error {
			_, err := p.api.AppsV1().Deployments(p.namespace).Patch(ctx, crowd, types.MergePatchType, []byte(size), metav1.PatchOptions{})
			return err
		})
	case draw < 25:
		p.listNodes(ctx)
	case len(own) == servicesAtOnce:
		p.removeService(ctx, own[0])
		return slices.Clone(own[1:])
	default:
		name := "s-" + strconv.FormatInt(services.Add(1), 10)
		p.makeService(ctx, name)
		return append(own, name)
	}
	return own
}

func (p *process) makeService(ctx context.Context, name string) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: p.namespace},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	p.do(ctx, history.Event{F: "create-service", Key: name}, writeTime, func(ctx context.Context, answer *history.Event) error {
		var made corev1.Service
		err := p.rest.Post().Namespace(p.namespace).Resource("services").MaxRetries(0).Timeout(writeTime).Body(service).Do(ctx).Into(&made)
		if err != nil {
			return err
		}
		answer.Items = []history.Item{{Key: made.Spec.ClusterIP, Value: "address"}}
		for _, port := range made.Spec.Ports {
			answer.Items = append(answer.Items, history.Item{Key: strconv.Itoa(int(port.NodePort)), Value: "node port"})
		}
		return nil
	})
}

func (p *process) removeService(ctx context.Context, name string) {
	p.do(ctx, history.Event{F: "delete-service", Key: name}, writeTime, func(ctx context.Context, _ *history.Event) error {
		return p.rest.Delete().Namespace(p.namespace).Resource("services").Name(name).MaxRetries(0).Timeout(writeTime).Do(ctx).Error()
	})
}

// listNodes reads which subnets nodes have.
func (p *process) listNodes(ctx context.Context) {
	p.do(ctx, history.Event{F: nodesListed}, readTime, func(ctx context.Context, answer *history.Event) error {
		var list corev1.NodeList
		if err := p.rest.Get().Resource("nodes").MaxRetries(0).Do(ctx).Into(&list); err != nil {
			return err
		}
		answer.Items = []history.Item{}
		for _, node := range list.Items {
			for _, subnet := range node.Spec.PodCIDRs {
				answer.Items = append(answer.Items, history.Item{Key: subnet, Value: node.Name})
			}
		}
		return nil
	})
}

func crowdThere(ctx context.Context, c *client, namespace string) error {
	d, err := c.api.AppsV1().Deployments(namespace).Get(ctx, crowd, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if s := d.Status; s.ObservedGeneration != d.Generation || s.ReadyReplicas != *d.Spec.Replicas || s.Replicas != *d.Spec.Replicas {
		return fmt.Errorf("the Deployment wants %d pods and is %+v", *d.Spec.Replicas, s)
	}
	return nil
}

func judgeAddresses(h judged) []check.Anomaly {
	var pods []check.Life
	for _, l := range sortedLives(h.livesIn()) {
		pods = append(pods, check.Life{Name: l.Key, Who: "pod " + l.Value + " on " + l.Node, Since: l.Since, Until: l.Until, Place: l.Index})
	}
	if len(pods) == 0 {
		return []check.Anomaly{{Kind: "no witness", Text: "no container told that it ran"}}
	}
	return slices.Concat(check.Alone(pods), check.Alone(h.services()), h.subnets())
}

// services are for how long Services certainly had what they were given: from the answer
// to their creation to the call that took them away.
func (h judged) services() (all []check.Life) {
	removed := make(map[string]int64)
	for _, op := range h.ops {
		if op.Call.F == "delete-service" {
			removed[op.Call.Key] = op.Call.Index
		}
	}
	for _, op := range h.ops {
		if op.Call.F != "create-service" || op.Return.Type != history.OK {
			continue
		}
		until, ok := removed[op.Call.Key]
		if !ok {
			until = math.MaxInt64
		}
		for _, has := range op.Return.Items {
			all = append(all, check.Life{Name: has.Value + " " + has.Key, Who: "Service " + op.Call.Key,
				Since: op.Return.Index, Until: until, Place: op.Call.Index})
		}
	}
	return all
}

// subnets tells where one list of nodes shows a subnet twice.
func (h judged) subnets() (found []check.Anomaly) {
	for _, op := range h.ops {
		if op.Call.F != nodesListed || op.Return.Type != history.OK {
			continue
		}
		holder := make(map[string]string)
		for _, has := range op.Return.Items {
			if other, taken := holder[has.Key]; taken {
				found = append(found, check.Anomaly{Kind: "two at a time", At: []int64{op.Call.Index},
					Text: fmt.Sprintf("nodes %s and %s both have the subnet %s", other, has.Value, has.Key)})
			}
			holder[has.Key] = has.Value
		}
	}
	return found
}
