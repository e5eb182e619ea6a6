package statefulset

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/history"
	"kontiki/controllers/podcontrol"
)

var identity = regexp.MustCompile(`^(.*)-([0-9]+)$`)

// parse splits a pod's name into its set's and its ordinal; -1 if it has none.
func parse(pod string) (set string, ordinal int) {
	m := identity.FindStringSubmatch(pod)
	if m == nil {
		return "", -1
	}
	n, err := strconv.ParseInt(m[2], 10, 32)
	if err != nil {
		return "", -1
	}
	return m[1], int(n)
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// newPod is the pod of an ordinal as a revision wants it.
func newPod(set *appsv1.StatefulSet, revision *appsv1.ControllerRevision, ordinal int) (*corev1.Pod, error) {
	template, err := history.Template(revision)
	if err != nil {
		return nil, err
	}
	pod := podcontrol.PodOf(set, kind, template)
	pod.GenerateName, pod.Name = "", set.Name+"-"+strconv.Itoa(ordinal)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, identityLabels(pod))
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision.Name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	pod.Spec.Volumes = withClaims(set, pod.Spec.Volumes, ordinal)
	return pod, nil
}

// identityLabels say which of the set a pod is, by its name.
func identityLabels(pod *corev1.Pod) map[string]string {
	_, ordinal := parse(pod.Name)
	return map[string]string{appsv1.StatefulSetPodNameLabel: pod.Name, appsv1.PodIndexLabel: strconv.Itoa(ordinal)}
}

// identified says whether a pod has these labels.
func identified(pod *corev1.Pod) bool {
	for key, value := range identityLabels(pod) {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}

// withClaims puts the pod's claims in; a volume of the template of the same name
// gives way.
func withClaims(set *appsv1.StatefulSet, volumes []corev1.Volume, ordinal int) []corev1.Volume {
	claimed := map[string]bool{}
	var all []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		claimed[t.Name] = true
		all = append(all, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, t, ordinal)},
		}})
	}
	for _, v := range volumes {
		if !claimed[v.Name] {
			all = append(all, v)
		}
	}
	return all
}

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// claimsOf are the claims of an ordinal as they are made.
func claimsOf(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var claims []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		claim := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		claim.Name, claim.Namespace = claimName(set, claim, ordinal), set.Namespace
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		if set.Spec.Selector != nil {
			for k, v := range set.Spec.Selector.MatchLabels {
				claim.Labels[k] = v
			}
		}
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		claim.OwnerReferences = claimOwners(set, nil, nil)
		claims = append(claims, claim)
	}
	return claims
}

// claimOwners are the owner references a claim of a pod should have: the set's, if claims
// go with it; the pod's, if the pod is one too many and claims go when it is scaled away.
// pod is nil while there is none. Others' references stay.
func claimOwners(set *appsv1.StatefulSet, pod *corev1.Pod, have []metav1.OwnerReference) []metav1.OwnerReference {
	var owners []metav1.OwnerReference
	for _, o := range have {
		if o.UID != set.UID && !ofPod(set, o) {
			owners = append(owners, o)
		}
	}
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return owners
	}
	if policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && pod != nil {
		if _, wanted := slot(set, pod); !wanted {
			return append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID})
		}
	}
	if policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return append(owners, metav1.OwnerReference{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: set.Name, UID: set.UID})
	}
	return owners
}

// ofPod says whether a claim's owner is a pod of the set.
func ofPod(set *appsv1.StatefulSet, o metav1.OwnerReference) bool {
	parent, _ := parse(o.Name)
	return o.APIVersion == "v1" && o.Kind == "Pod" && parent == set.Name
}

// condemned says whether a claim goes with a pod that was scaled away. Until it has gone,
// the pod of that ordinal is not made: it would start on what is deleted under it.
func condemned(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(o metav1.OwnerReference) bool { return ofPod(set, o) })
}
