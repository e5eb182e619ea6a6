package node

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/apiserver/census"
	"kontiki/overlay"
)

func TestWorkOfMembers(t *testing.T) {
	s := Status{Members: []Member{
		{ID: "a", Name: "n1", Health: "alive"}, {ID: "b", Name: "n2", Health: "alive"}, {ID: "c", Name: "n3", Health: "dead"},
		{ID: "d", Name: "n4", Health: "alive"}, {ID: "e", Health: "alive"},
	}}
	now := time.Unix(1e9, 0)
	counted := census.Count{Pods: census.Pods{Running: 3, All: 6, Ended: 2}, On: map[string]census.Pods{"n1": {Running: 3, All: 4}}, Waiting: 2, Earliest: now.Add(-time.Hour)}
	s.addWork(counted, map[string]census.Node{
		"n1": {Name: "n1", Ready: corev1.ConditionTrue, Subnets: []string{"10.42.0.0/24"}},
		"n2": {Name: "n2", Ready: corev1.ConditionFalse, Message: "no disk", Cordoned: true, Subnets: []string{"10.42.1.0/24"}},
		"n3": {Name: "n3", Ready: corev1.ConditionUnknown, Subnets: []string{"10.42.2.0/24"}},
		"n4": {Name: "n4", Ready: corev1.ConditionTrue},
	}, []overlay.LeaseReport{{NodeID: "a", Used: "own"}, {NodeID: "b", Used: "no: its route is missing"}, {NodeID: "c", Used: "no: its route is missing"}})
	m := s.Members
	if m[0].Ready != "Ready" || *m[0].Pods != (census.Pods{Running: 3, All: 4}) || m[0].Route != "own" || m[0].Subnets[0] != "10.42.0.0/24" {
		t.Errorf("n1: %+v", m[0].MemberWork)
	}
	if m[1].Ready != "NotReady,SchedulingDisabled" || *m[1].Pods != (census.Pods{}) || m[4].Ready != "" || m[4].Pods != nil {
		t.Errorf("n2 %+v, e %+v", m[1].MemberWork, m[4].MemberWork)
	}
	if s.Pods.Running != 3 || s.Pods.All != 6 || s.Pods.Ended != 2 || s.Pods.Waiting != 2 {
		t.Errorf("pods: %+v", s.Pods)
	}
	got := strings.Join(diagnoseWork(s, counted, now), "\n")
	for _, want := range []string{
		"node n2 answers, but is not Ready: no disk", "pods of node n2 (10.42.1.0/24) are not reached from this node: its route is missing",
		"node n4 has no subnet", "2 pods have no node, the first since 2001-09-09T00:46:40Z",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 4 {
		t.Errorf("%d problems, of which one node that is dead gives none:\n%s", n, got)
	}
	counted.Earliest = now.Add(-time.Second)
	if got := strings.Join(diagnoseWork(Status{}, counted, now), "\n"); got != "" {
		t.Errorf("pods that wait for a second: %s", got)
	}
}
