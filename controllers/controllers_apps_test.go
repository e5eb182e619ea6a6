package controllers

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestStatefulSetComesUpInOrderAndRollsOut(t *testing.T) {
	c, ctx := newCluster(t, node("a"), node("b")), context.Background()
	c.start()
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", Generation: 1},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To[int32](3), ServiceName: "db",
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template("db"),
		},
	}
	sets := c.AppsV1().StatefulSets("default")
	if _, err := sets.Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	rolledOut := func(image string, replicas int32) func() bool {
		return func() bool {
			got, err := sets.Get(ctx, "db", metav1.GetOptions{})
			if err != nil || got.Status.CurrentRevision != got.Status.UpdateRevision || got.Status.AvailableReplicas != replicas || got.Status.Replicas != replicas {
				return false
			}
			for _, pod := range c.pods() {
				if pod.Spec.Containers[0].Image != image {
					return false
				}
			}
			return len(c.pods()) == int(replicas)
		}
	}
	change := func(do func(*appsv1.StatefulSet)) {
		for {
			got, err := sets.Get(ctx, "db", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			do(got)
			got.Generation++
			if _, err = sets.Update(ctx, got, metav1.UpdateOptions{}); err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	c.eventually("three pods of the first revision", rolledOut("example/db", 3))
	pods := c.pods()
	for i := range pods {
		if want := fmt.Sprintf("db-%d", i); pods[i].Name != want || pods[i].Spec.Hostname != want || pods[i].Spec.Subdomain != "db" {
			t.Errorf("pod %d is %s, host name %s, subdomain %s", i, pods[i].Name, pods[i].Spec.Hostname, pods[i].Spec.Subdomain)
		}
	}
	change(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "example/db:2" })
	c.eventually("three pods of the second revision", rolledOut("example/db:2", 3))
	change(func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	c.eventually("one pod", rolledOut("example/db:2", 1))
	if list, err := c.AppsV1().ControllerRevisions("default").List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
		t.Errorf("want two revisions, have %d (%v)", len(list.Items), err)
	}
}

func TestDaemonSetFollowsTheNodes(t *testing.T) {
	c, ctx := newCluster(t, node("a"), node("b")), context.Background()
	c.start()
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log", Generation: 1},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}, Template: template("log"),
		},
	}
	if _, err := c.AppsV1().DaemonSets("default").Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	on := func(nodes ...string) func() bool {
		return func() bool {
			there := map[string]bool{}
			for _, pod := range c.pods() {
				there[pod.Spec.NodeName] = true
			}
			for _, n := range nodes {
				if !there[n] {
					return false
				}
			}
			got, err := c.AppsV1().DaemonSets("default").Get(ctx, "log", metav1.GetOptions{})
			return err == nil && len(c.pods()) == len(nodes) && int(got.Status.NumberAvailable) == len(nodes)
		}
	}
	c.eventually("a pod on each of two nodes", on("a", "b"))
	if _, err := c.CoreV1().Nodes().Create(ctx, node("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("one on the node that joined", on("a", "b", "c"))
	if err := c.CoreV1().Nodes().Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("none on the node that left", on("a", "c"))
}
