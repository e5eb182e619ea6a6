package statefulset

import (
	"regexp"
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
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision.Name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	pod.Spec.Volumes = withClaims(set, pod.Spec.Volumes, ordinal)
	return pod, nil
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

// claimOwners are the owner references a claim should have: the set's, if claims go
// with it; the pod's, if claims go when it is scaled away (condemned is that pod).
// Others' references stay.
func claimOwners(set *appsv1.StatefulSet, condemned *corev1.Pod, have []metav1.OwnerReference) []metav1.OwnerReference {
	var owners []metav1.OwnerReference
	for _, o := range have {
		ours := o.UID == set.UID || o.APIVersion == "v1" && o.Kind == "Pod"
		if parent, _ := parse(o.Name); !ours || o.Kind == "Pod" && parent != set.Name {
			owners = append(owners, o)
		}
	}
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return owners
	}
	if policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && condemned != nil {
		return append(owners, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: condemned.Name, UID: condemned.UID})
	}
	if policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return append(owners, metav1.OwnerReference{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: set.Name, UID: set.UID})
	}
	return owners
}
