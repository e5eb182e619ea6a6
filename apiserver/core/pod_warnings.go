package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// containerSeccompPrefix begins the annotations by which containers had their seccomp profiles.
const containerSeccompPrefix = "container.seccomp.security.alpha.kubernetes.io/"

// deprecatedPodAnnotations are annotations that do nothing any more, in upstream's order.
var deprecatedPodAnnotations = []struct{ key, message string }{
	{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
}

// warnPod tells what is allowed in a new pod and not what its author can have meant. Changes are not
// warned of, as upstream: people seldom make them, and components often.
func warnPod(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var out []string
	if messages := utilvalidation.IsDNS1123Label(p.Name); len(messages) > 0 {
		out = append(out, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", messages))
	}
	return append(out, podWarnings(&p.Spec, &p.ObjectMeta, nil)...)
}

// WarnPodTemplate is warnPod for a template of pods at a path.
func WarnPodTemplate(t *corev1.PodTemplateSpec, at *field.Path) []string {
	return podWarnings(&t.Spec, &t.ObjectMeta, at)
}

func podWarnings(spec *corev1.PodSpec, meta *metav1.ObjectMeta, at *field.Path) []string {
	w := &warnings{at: at.Child("spec"), annotations: at.Child("metadata", "annotations"), given: meta.Annotations}
	w.labelsOfNodes(spec)
	for _, a := range deprecatedPodAnnotations {
		if _, ok := w.given[a.key]; ok {
			w.say(w.annotations.Key(a.key), "%s", a.message)
		}
	}
	w.volumes(spec.Volumes)
	w.out = append(w.out, overlappingPaths(spec.Volumes)...)
	w.duplicates(spec)
	w.fractional(spec.Overhead, w.at.Child("overhead"))
	w.podProfile(spec.SecurityContext)
	eachContainer(spec, w.at, func(c *corev1.Container, path *field.Path) {
		w.profiles(c, spec.SecurityContext)
		w.fractional(c.Resources.Limits, path.Child("resources", "limits"))
		w.fractional(c.Resources.Requests, path.Child("resources", "requests"))
		w.env(c.Env, path.Child("env"))
	})
	w.ports(spec)
	if s := spec.TerminationGracePeriodSeconds; s != nil && *s < 0 {
		w.say(w.at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.emptySelectors(spec)
	w.addresses(spec)
	return w.out
}

// warnings collects what there is to say of one pod or template.
type warnings struct {
	at, annotations *field.Path
	given           map[string]string // annotations
	out             []string
}

func (w *warnings) say(at *field.Path, format string, args ...any) {
	w.out = append(w.out, at.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warnings) labelsOfNodes(spec *corev1.PodSpec) {
	for _, key := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		if message, ok := kind.DeprecatedNodeLabel(key); ok {
			w.say(w.at.Child("nodeSelector").Key(key), "%s", message)
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		affinity, at := spec.Affinity.NodeAffinity, w.at.Child("affinity", "nodeAffinity")
		if required := affinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			terms := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			for i, t := range required.NodeSelectorTerms {
				w.out = append(w.out, nodeSelectorTermWarnings(t, false, terms.Index(i))...)
			}
		}
		preferred := at.Child("preferredDuringSchedulingIgnoredDuringExecution")
		for i, t := range affinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w.out = append(w.out, nodeSelectorTermWarnings(t.Preference, true, preferred.Index(i).Child("preference"))...)
		}
	}
	for i, t := range spec.TopologySpreadConstraints {
		at := w.at.Child("topologySpreadConstraints").Index(i)
		if message, ok := kind.DeprecatedNodeLabel(t.TopologyKey); ok {
			w.say(at.Child("topologyKey"), "%s is %s", t.TopologyKey, message)
		}
		w.matchesNothing(t.LabelSelector, at)
	}
}

// nodeSelectorTermWarnings warns of labels that were replaced, and of values that no label can have
// where those are allowed.
func nodeSelectorTermWarnings(t corev1.NodeSelectorTerm, values bool, at *field.Path) []string {
	var out []string
	for i, e := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		if message, ok := kind.DeprecatedNodeLabel(e.Key); ok {
			out = append(out, fmt.Sprintf("%s: %s is %s", at.Child("key"), e.Key, message))
		}
		if !values {
			continue
		}
		for j, v := range e.Values {
			for _, message := range utilvalidation.IsValidLabelValue(v) {
				out = append(out, fmt.Sprintf("%s: %s is invalid, %s", at.Child("values").Index(j), v, message))
			}
		}
	}
	return out
}

func (w *warnings) volumes(volumes []corev1.Volume) {
	for i := range volumes {
		v, at := &volumes[i].VolumeSource, w.at.Child("volumes").Index(i)
		for _, gone := range []struct {
			used          bool
			name, message string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		} {
			if gone.used {
				w.say(at.Child(gone.name), "%s", gone.message)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			w.out = append(w.out, WarnClaimSpec(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
		if v.CephFS != nil {
			w.say(at.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
		}
		if v.RBD != nil {
			w.say(at.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
		}
	}
}

// duplicates warns of lists that merge by a key of which there are two.
func (w *warnings) duplicates(spec *corev1.PodSpec) {
	ips := sets.New[string]()
	for i, a := range spec.HostAliases {
		if ips.Has(a.IP) {
			w.say(w.at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		ips.Insert(a.IP)
	}
	names, at := sets.New[string](), w.at.Child("imagePullSecrets")
	for i, s := range spec.ImagePullSecrets {
		if names.Has(s.Name) {
			w.say(at.Index(i).Child("name"), "duplicate name %q", s.Name)
		}
		names.Insert(s.Name)
	}
	for i, s := range spec.ImagePullSecrets {
		if s.Name == "" {
			w.say(at.Index(i).Child("name"), "invalid empty name %q", s.Name)
		}
	}
}

// fractional warns of parts of bytes.
func (w *warnings) fractional(list corev1.ResourceList, at *field.Path) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok && partOfByte(q) {
			w.out = append(w.out, fractionWarning(q, at.Key(string(name))))
		}
	}
}

func partOfByte(q resource.Quantity) bool { return q.MilliValue()%1000 != 0 }

func fractionWarning(q resource.Quantity, at *field.Path) string {
	return fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at, q.String())
}

// seccompInstead is said of annotations that the field has taken the place of.
const seccompInstead = `non-functional in v1.27+; use the "seccompProfile" field instead`

func (w *warnings) podProfile(pod *corev1.PodSecurityContext) {
	if _, ok := w.given[corev1.SeccompPodAnnotationKey]; ok && (pod == nil || pod.SeccompProfile == nil) {
		w.say(w.annotations.Key(corev1.SeccompPodAnnotationKey), seccompInstead)
	}
}

// profiles warns of a container's annotations that fields have taken the place of.
func (w *warnings) profiles(c *corev1.Container, pod *corev1.PodSecurityContext) {
	own := c.SecurityContext
	if key := containerSeccompPrefix + c.Name; own == nil || own.SeccompProfile == nil {
		if _, ok := w.given[key]; ok {
			w.say(w.annotations.Key(key), seccompInstead)
		}
	}
	key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
	value, ok := w.given[key]
	if !ok || own != nil && own.AppArmorProfile != nil {
		return
	}
	if pod == nil || pod.AppArmorProfile == nil || !apiequality.Semantic.DeepEqual(pod.AppArmorProfile, appArmorOf(value)) {
		w.say(w.annotations.Key(key), `deprecated since v1.30; use the "appArmorProfile" field instead`)
	}
}

// appArmorOf is the field that says what the annotation's value says; nil for one that
// cannot be read.
func appArmorOf(value string) *corev1.AppArmorProfile {
	switch value {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	if name, ok := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix); ok && name != "" {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}

// env warns of a variable that hides another of its name. One that adds to the other
// may be meant.
func (w *warnings) env(env []corev1.EnvVar, at *field.Path) {
	names := sets.New[string]()
	for i, e := range env {
		reference := "$(" + e.Name + ")"
		if names.Has(e.Name) && (e.ValueFrom != nil || e.Value == reference || !strings.Contains(e.Value, reference)) {
			w.say(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		names.Insert(e.Name)
	}
}

// emptySelectors warns of selectors that match nothing because they are missing.
func (w *warnings) emptySelectors(spec *corev1.PodSpec) {
	if spec.Affinity == nil {
		return
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
		for i, t := range required {
			w.matchesNothing(t.LabelSelector, at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i, t := range preferred {
			w.matchesNothing(t.PodAffinityTerm.LabelSelector, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if a := spec.Affinity.PodAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, w.at.Child("affinity", "podAffinity"))
	}
	if a := spec.Affinity.PodAntiAffinity; a != nil {
		terms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, w.at.Child("affinity", "podAntiAffinity"))
	}
}

func (w *warnings) matchesNothing(selector *metav1.LabelSelector, at *field.Path) {
	if selector == nil {
		w.say(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
	}
}

// addresses warns of IP addresses that can be written otherwise.
func (w *warnings) addresses(spec *corev1.PodSpec) {
	if spec.DNSConfig != nil {
		for i, ip := range spec.DNSConfig.Nameservers {
			w.out = append(w.out, utilvalidation.GetWarningsForIP(w.at.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, a := range spec.HostAliases {
		w.out = append(w.out, utilvalidation.GetWarningsForIP(w.at.Child("hostAliases").Index(i).Child("ip"), a.IP)...)
	}
}
