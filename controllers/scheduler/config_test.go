package scheduler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

// TestScoringStrategies: where the next pod goes when a is half full and b is empty.
func TestScoringStrategies(t *testing.T) {
	cluster := input{}
	if err := yaml.UnmarshalStrict([]byte(`
nodes:
- {metadata: {name: a}, status: {allocatable: {cpu: "4", memory: 8Gi, pods: "110"}}}
- {metadata: {name: b}, status: {allocatable: {cpu: "4", memory: 8Gi, pods: "110"}}}
running: [{metadata: {name: r}, spec: {nodeName: a, containers: [{name: c, resources: {requests: {cpu: "2", memory: 4Gi}}}]}}]
pending: [{metadata: {name: p}, spec: {schedulerName: packed, containers: [{name: c, resources: {requests: {cpu: 400m, memory: 800Mi}}}]}}]
`), &cluster); err != nil {
		t.Fatal(err)
	}
	for strategy, want := range map[string]string{
		"{type: LeastAllocated}": "b",
		"{type: MostAllocated}":  "a",
		"{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}}": "a",
		"{type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 0, score: 10}, {utilization: 100, score: 0}]}}": "b",
	} {
		all, err := readProfiles(head + "profiles: [{schedulerName: packed, pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: " + strategy + "}}]}]")
		if err != nil {
			t.Errorf("%s: %v", strategy, err)
			continue
		}
		s, pods := cluster.snapshot(t)
		if got := plan(s, all, pods)[0]; got.node != want {
			t.Errorf("%s: %s (%s), want %s", strategy, got.node, got.message, want)
		}
	}
}

func TestWhatAConfigurationMustNotSay(t *testing.T) {
	for text, why := range map[string]string{
		"kind: Pod": "not a kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration",
		head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]": `scoringStrategy.type "Best" is none of`,
		head + "profiles: [{}, {}]": `schedulerName "default-scheduler" is there twice`,
		head + "extenders: [{}]":    "unknown field",
		head + "profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]":                          `there is no scoring plugin "Mine"`,
		head + "profiles: [{plugins: {multiPoint: {disabled: [{name: NodePorts}]}}}]":               `plugin "NodePorts" cannot be disabled`,
		head + "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: X}}]}]": `defaultingType "X" is neither System nor List`,
	} {
		if _, err := readProfiles(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %s", text, err, why)
		}
	}
	all, err := readProfiles(head)
	if err != nil || all.of(&corev1.Pod{}) == nil {
		t.Errorf("an empty configuration: %v, %v", all, err)
	}
	if all.of(&corev1.Pod{Spec: corev1.PodSpec{SchedulerName: "other"}}) != nil {
		t.Error("another scheduler's pod has a profile")
	}
}
