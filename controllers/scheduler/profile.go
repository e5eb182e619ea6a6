package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// profile is how pods of one spec.schedulerName are scheduled. It is never changed.
type profile struct {
	name    string
	filters []filterPlugin
	scorers []scorePlugin

	// How many nodes preemption tries: a share of them, and at least so many.
	candidatePercent, candidateMinimum int
}

type profiles map[string]*profile

// of is the profile that schedules the pod, nil for other schedulers' pods.
func (p profiles) of(pod *corev1.Pod) *profile {
	name := pod.Spec.SchedulerName
	if name == "" {
		name = corev1.DefaultSchedulerName
	}
	return p[name]
}

// options are what a profile can set; the defaults are upstream's.
type options struct {
	name                               string
	fit                                fitStrategy
	balanced                           []weighedResource
	spread                             spreadDefaults
	hardWeight                         int64 // of required affinity, in scoring
	weights                            map[string]int64
	candidatePercent, candidateMinimum int
}

func defaultOptions() options {
	cpuAndMemory := []weighedResource{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}
	return options{
		name:       corev1.DefaultSchedulerName,
		fit:        fitStrategy{kind: leastAllocated, resources: cpuAndMemory},
		balanced:   cpuAndMemory,
		spread:     spreadDefaults{system: true},
		hardWeight: 1,
		weights: map[string]int64{
			"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2,
			"NodeResourcesFit": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1,
		},
		candidatePercent: 10, candidateMinimum: 100,
	}
}

// build makes the plugins. Filters stand in upstream's order, which decides whose
// reason is told.
func (o options) build() *profile {
	p := &profile{
		name: o.name,
		filters: []filterPlugin{
			nodeUnschedulable(), nodeName(), taintToleration(), nodeAffinity(), nodePorts(),
			nodeResourcesFit(), volumeRestrictions(), volumeBindingFilter(), volumeZone(), podTopologySpread(o.spread), interPodAffinity(),
		},
		candidatePercent: o.candidatePercent, candidateMinimum: o.candidateMinimum,
	}
	for _, s := range []scorePlugin{
		{name: "TaintToleration", prepare: scoreTaints},
		{name: "NodeAffinity", prepare: scoreNodeAffinity},
		{name: "PodTopologySpread", prepare: scoreSpread(o.spread)},
		{name: "InterPodAffinity", prepare: scorePodAffinity(o.hardWeight)},
		{name: "NodeResourcesFit", prepare: o.fit.score},
		{name: "NodeResourcesBalancedAllocation", prepare: scoreBalanced(o.balanced)},
		{name: "ImageLocality", prepare: scoreImages},
	} {
		if s.weight = o.weights[s.name]; s.weight > 0 {
			p.scorers = append(p.scorers, s)
		}
	}
	return p
}
