package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// Upstream's reasons.
const (
	reasonNoVolume     = "node(s) didn't find available persistent volumes to bind"
	reasonNodeAffinity = "node(s) didn't match PersistentVolume's node affinity"
	reasonAbsentVolume = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	reasonZone         = "node(s) had no available volume zone"
	reasonExclusive    = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
	reasonImmediate    = "pod has unbound immediate PersistentVolumeClaims"
)

// noProvisioner is the provisioner of classes whose volumes are made by hand.
const noProvisioner = "kubernetes.io/no-provisioner"

// podClaims are the claims of a pod: those that are bound, and those that are bound
// with the pod, small ones first, so that large volumes are left.
type podClaims struct {
	view           *volumeView
	bound, delayed []*corev1.PersistentVolumeClaim
	free           map[string][]*corev1.PersistentVolume // by class, of delayed claims
}

// claimsOf sorts a pod's claims. why is a reason for the pod to wait, wherever it would go.
func (v *volumeView) claimsOf(pod *corev1.Pod) (p podClaims, why string) {
	p.view = v
	names := claimNames(pod)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		claim := v.claim(pod.Namespace, name)
		switch {
		case claim == nil && names[name]:
			return p, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return p, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return p, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return p, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case names[name] && !metav1.IsControlledBy(claim, pod):
			return p, fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, name, pod.Namespace, pod.Name)
		case fullyBound(claim):
			p.bound = append(p.bound, claim)
		case claim.Spec.VolumeName == "" && v.waitsForConsumer(claim):
			p.delayed = append(p.delayed, claim)
			if class := storage.GetPersistentVolumeClaimClass(claim); p.free[class] == nil {
				if p.free == nil {
					p.free = map[string][]*corev1.PersistentVolume{}
				}
				p.free[class] = v.volumes(class)
			}
		default:
			return p, reasonImmediate
		}
	}
	slices.SortStableFunc(p.delayed, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	return p, ""
}

func (v *volumeView) classOf(claim *corev1.PersistentVolumeClaim) *storagev1.StorageClass {
	name := storage.GetPersistentVolumeClaimClass(claim)
	if name == "" {
		return nil
	}
	return v.class(name)
}

func (v *volumeView) waitsForConsumer(claim *corev1.PersistentVolumeClaim) bool {
	class := v.classOf(claim)
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// on is what the claims get on a node, or why the node will not do.
func (p podClaims) on(node *corev1.Node) (found podVolumes, reasons []string) {
	found.node = node
	for _, claim := range p.bound {
		v := p.view.volume(claim.Spec.VolumeName)
		switch {
		case v == nil:
			return found, []string{reasonAbsentVolume}
		case storage.CheckNodeAffinity(v, node.Labels) != nil:
			reasons = []string{reasonNodeAffinity}
		}
	}
	taken := p.view.assumed.taken
	for _, claim := range p.delayed {
		v, provision := p.choose(claim, node, taken)
		switch {
		case v != nil:
			found.bind = append(found.bind, volumeBinding{claim, v})
			taken = maps.Clone(taken)
			taken[v.Name] = v
		case provision:
			found.provision = append(found.provision, claim)
		default:
			return podVolumes{}, append(reasons, reasonNoVolume)
		}
	}
	return found, reasons
}

// choose is the volume that a claim gets on a node, or whether one is made for it there.
func (p podClaims) choose(claim *corev1.PersistentVolumeClaim, node *corev1.Node, taken map[string]*corev1.PersistentVolume) (found *corev1.PersistentVolume, provision bool) {
	v := p.view
	if name, ok := v.assumed.volumeOf[claim.UID]; ok { // by another pod that shares the claim
		if found = v.assumed.taken[name]; storage.CheckNodeAffinity(found, node.Labels) != nil {
			return nil, false
		}
		return found, false
	}
	selected := claim.Annotations[storage.AnnSelectedNode]
	if assumed, ok := v.assumed.nodeOf[claim.UID]; ok {
		selected = assumed
	}
	if selected != "" {
		return nil, selected == node.Name
	}
	const delay, attributesClasses = true, true
	found, err := storage.FindMatchingVolume(claim, p.free[storage.GetPersistentVolumeClaimClass(claim)], node, taken, delay, attributesClasses)
	if found != nil || err != nil { // an error is a selector that the API has refused
		return found, false
	}
	class := v.classOf(claim)
	return nil, class != nil && class.Provisioner != "" && class.Provisioner != noProvisioner && allowed(class.AllowedTopologies, node.Labels)
}

func allowed(terms []corev1.TopologySelectorTerm, labels map[string]string) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, ok := labels[r.Key]
			return !ok || !slices.Contains(r.Values, value)
		})
	})
}

// volumeBindingFilter goes by the pod's claims: volumes that are bound must be usable on
// the node; for claims that wait for a consumer the node must have a volume, or one
// is to be made there.
func volumeBindingFilter() filterPlugin {
	return filterPlugin{name: "VolumeBinding", helps: storageChanged | nodeLabelsChanged, prepare: func(c *cycle) *filter {
		if !claims(&c.pod.Spec) {
			return nil
		}
		own, why := c.volumes.claimsOf(c.pod)
		if c.rejected = why; why != "" {
			return nil
		}
		return &filter{check: func(_ int, n *nodeInfo) *verdict {
			if _, reasons := own.on(n.node); len(reasons) > 0 {
				return &verdict{reasons: reasons, final: true}
			}
			return nil
		}}
	}}
}

// takeVolumes is what the pod's claims get on its node, and keeps it from the pods
// planned after it.
func (p *planner) takeVolumes(pod *corev1.Pod, node *corev1.Node) podVolumes {
	if !claims(&pod.Spec) {
		return podVolumes{}
	}
	own, _ := p.volumes.claimsOf(pod)
	found, _ := own.on(node)
	p.volumes.assumed.add(found)
	return found
}

// volumeZone keeps a pod in the zones that its volumes' labels name.
func volumeZone() filterPlugin {
	return filterPlugin{name: "VolumeZone", helps: storageChanged | nodeLabelsChanged, prepare: func(c *cycle) *filter {
		var wanted []map[string]string
		for name := range claimNames(c.pod) {
			claim := c.volumes.claim(c.pod.Namespace, name)
			if claim == nil || claim.Spec.VolumeName == "" {
				continue
			}
			if v := c.volumes.volume(claim.Spec.VolumeName); v != nil {
				if zones := zonesOf(v); len(zones) > 0 {
					wanted = append(wanted, zones)
				}
			}
		}
		if len(wanted) == 0 {
			return nil
		}
		return &filter{check: func(_ int, n *nodeInfo) *verdict {
			for _, zones := range wanted {
				for key, value := range zones {
					if !slices.Contains(strings.Split(value, "__"), n.node.Labels[key]) {
						return never(reasonZone)
					}
				}
			}
			return nil
		}}
	}}
}

func zonesOf(v *corev1.PersistentVolume) map[string]string {
	zones := map[string]string{}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion} {
		if value, ok := v.Labels[key]; ok {
			zones[key] = value
		}
	}
	return zones
}

// volumeRestrictions gives a claim that is for one pod alone to one pod alone.
func volumeRestrictions() filterPlugin {
	return filterPlugin{name: "VolumeRestrictions", helps: podGone | storageChanged, prepare: func(c *cycle) *filter {
		alone := map[string]bool{}
		for name := range claimNames(c.pod) {
			claim := c.volumes.claim(c.pod.Namespace, name)
			if claim != nil && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
				alone[name] = true
			}
		}
		if len(alone) == 0 {
			return nil
		}
		uses := func(p *placed) (n int) {
			if p.pod.Namespace != c.pod.Namespace {
				return 0
			}
			for name := range claimNames(p.pod) {
				if alone[name] {
					n++
				}
			}
			return n
		}
		others := 0
		for _, n := range c.nodes {
			for _, p := range n.pods {
				others += uses(p)
			}
		}
		return &filter{
			check: func(int, *nodeInfo) *verdict {
				if others > 0 {
					return no(reasonExclusive)
				}
				return nil
			},
			moved: func(_ int, pod *placed, by int) { others += by * uses(pod) },
		}
	}}
}
