package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func pods(cfg Config) kind.Definition {
	return &kind.Kind[*corev1.Pod]{
		Resource: "pods", Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		New:            func() *corev1.Pod { return &corev1.Pod{} },
		NewList:        func() runtime.Object { return &corev1.PodList{} },
		ReturnDeleted:  true,
		Generation:     func(p *corev1.Pod) any { return p.Spec },
		Default:        defaultPod,
		Prepare:        preparePod,
		Validate:       validatePod,
		ValidateUpdate: validatePodUpdate,
		Warn:           warnPod,
		Status:         &kind.Status[*corev1.Pod]{Prepare: preparePodStatus, Validate: validatePodStatus, Warn: warnPodStatus},
		Graceful:       deletePodGracefully,
		Fields:         podFields,
		FieldLabels:    podFieldLabels(),
		Columns:        podColumns,
		Cells:          podCells,
		RowConditions:  podRowConditions,
		Extend:         func(in kind.Storages) (kind.Storages, error) { return extendPods(in, cfg) },
	}
}

func podFields(p *corev1.Pod) fields.Set {
	ip := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	hostNetwork := "false"
	if p.Spec.HostNetwork {
		hostNetwork = "true"
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         hostNetwork,
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podFieldLabels are the names of podFields, and two that clients may use besides.
func podFieldLabels() map[string]string {
	labels := map[string]string{"spec.host": "spec.nodeName", "status.podIPs": "status.podIPs"}
	for name := range podFields(&corev1.Pod{}) {
		labels[name] = name
	}
	return labels
}

func preparePod(_ context.Context, p, old *corev1.Pod) {
	if old != nil {
		return
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

// preparePodStatus keeps what only the API decides: who owns a pod, its ending,
// its class, and where it was bound.
func preparePodStatus(p, old *corev1.Pod) {
	p.DeletionTimestamp = nil
	p.OwnerReferences = old.OwnerReferences
	p.Status.QOSClass = old.Status.QOSClass
}

// deletePodGracefully gives a pod on a node the time it asks for; the node
// confirms the end with a deletion of zero seconds. A pod that no node has
// touched goes at once.
func deletePodGracefully(_ context.Context, p *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var period int64
	if options.GracePeriodSeconds != nil {
		period = *options.GracePeriodSeconds
	} else if p.Spec.TerminationGracePeriodSeconds != nil {
		period = *p.Spec.TerminationGracePeriodSeconds
	}
	unbound := p.Spec.NodeName == ""
	if unbound && period != 0 {
		// Only as it was seen: a node that it is bound to meanwhile may have started it.
		kind.BindDeletion(options, p)
	}
	if unbound || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" {
		errs = append(errs, validateNodeName(n, path.Child("nominatedNodeName"))...)
	}
	errs = append(errs, validateTerminalStates(p.Status.ContainerStatuses, old.Status.ContainerStatuses, path.Child("containerStatuses"), p.Spec.RestartPolicy)...)
	return append(errs, validatePodIPs(p, path)...)
}
