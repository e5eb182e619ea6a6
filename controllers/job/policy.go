package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what the pod failure policy says of a failed pod.
type verdict struct {
	action  batchv1.PodFailurePolicyAction // Count if no rule matches
	message string
}

// judge applies the first rule that matches.
func judge(job *batchv1.Job, pod *corev1.Pod) verdict {
	if job.Spec.PodFailurePolicy == nil || pod.Status.Phase != corev1.PodFailed {
		return verdict{action: batchv1.PodFailurePolicyActionCount}
	}
	for i, rule := range job.Spec.PodFailurePolicy.Rules {
		var why string
		switch {
		case rule.OnExitCodes != nil:
			why = exitCodeMatch(rule.OnExitCodes, pod)
		default:
			why = conditionMatch(rule.OnPodConditions, pod)
		}
		if why != "" {
			return verdict{rule.Action, fmt.Sprintf("%s matching %s rule at index %d", why, rule.Action, i)}
		}
	}
	return verdict{action: batchv1.PodFailurePolicyActionCount}
}

func exitCodeMatch(want *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.Pod) string {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		if want.ContainerName != nil && *want.ContainerName != s.Name || s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 {
			continue
		}
		listed := slices.Contains(want.Values, s.State.Terminated.ExitCode)
		if listed == (want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", s.Name, pod.Namespace, pod.Name, s.State.Terminated.ExitCode)
		}
	}
	return ""
}

func conditionMatch(wanted []batchv1.PodFailurePolicyOnPodConditionsPattern, pod *corev1.Pod) string {
	for _, want := range wanted {
		for _, have := range pod.Status.Conditions {
			status := want.Status
			if status == "" {
				status = corev1.ConditionTrue
			}
			if have.Type == want.Type && have.Status == status {
				return fmt.Sprintf("Pod %s/%s has condition %s", pod.Namespace, pod.Name, have.Type)
			}
		}
	}
	return ""
}

// successMet says which rule of the success policy the completed indexes meet.
func successMet(job *batchv1.Job, completed indexes) (message string, met bool) {
	if job.Spec.SuccessPolicy == nil {
		return "", false
	}
	for i, rule := range job.Spec.SuccessPolicy.Rules {
		counted, wanted := len(completed), 0
		if rule.SucceededIndexes != nil {
			counted = 0
			set := parseIndexes(*rule.SucceededIndexes, completions(job))
			for index := range set {
				if completed[index] {
					counted++
				}
			}
			wanted = len(set)
		}
		if rule.SucceededCount != nil {
			wanted = int(*rule.SucceededCount)
		}
		if wanted > 0 && counted >= wanted {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
