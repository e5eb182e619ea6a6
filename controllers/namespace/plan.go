package namespace

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// found is what is left of one kind in the namespace after it was told to go.
type found struct {
	resource   schema.GroupVersionResource
	remaining  int
	finalizers map[string]int // how many of the remaining wait for each
	failure    error          // of deleting or listing
}

// outcome is what a pass over the namespace met.
type outcome struct {
	discovery []error // groups that could not be asked for their kinds
	parse     []error // groups whose answer made no sense
	kinds     []found
}

// pods are told to go, and awaited, before anything else: what they use must
// outlive them.
var podsResource = corev1.SchemeGroupVersion.WithResource("pods")

// done says whether nothing is left and that is certain.
func (o outcome) done() bool {
	if len(o.discovery) > 0 || len(o.parse) > 0 {
		return false
	}
	for _, k := range o.kinds {
		if k.remaining > 0 || k.failure != nil {
			return false
		}
	}
	return true
}

func (o outcome) failures() []error {
	all := append(slices.Clone(o.discovery), o.parse...)
	for _, k := range o.kinds {
		if k.failure != nil {
			all = append(all, k.failure)
		}
	}
	return all
}

// conditionsOf are the namespace's conditions after a pass, in upstream's words.
// A condition about a trouble is added only when there is, or was, that trouble.
func conditionsOf(have []corev1.NamespaceCondition, o outcome, now metav1.Time) []corev1.NamespaceCondition {
	remaining, finalizers := o.left()
	var content []error
	for _, k := range o.kinds {
		if k.failure != nil {
			content = append(content, k.failure)
		}
	}
	conditions := slices.Clone(have)
	for _, c := range []corev1.NamespaceCondition{
		trouble(corev1.NamespaceDeletionDiscoveryFailure, "DiscoveryFailed", joined("Discovery failed for some groups, ", o.discovery),
			"ResourcesDiscovered", "All resources successfully discovered"),
		trouble(corev1.NamespaceDeletionGVParsingFailure, "GroupVersionParsingFailed", joined("", o.parse),
			"ParsedGroupVersions", "All legacy kube types successfully parsed"),
		trouble(corev1.NamespaceDeletionContentFailure, "ContentDeletionFailed", joined("Failed to delete all resource types, ", content),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		trouble(corev1.NamespaceContentRemaining, "SomeResourcesRemain", remaining,
			"ContentRemoved", "All content successfully removed"),
		trouble(corev1.NamespaceFinalizersRemaining, "SomeFinalizersRemain", finalizers,
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	} {
		conditions = with(conditions, c, now)
	}
	return conditions
}

func trouble(kind corev1.NamespaceConditionType, badReason, bad, goodReason, good string) corev1.NamespaceCondition {
	if bad != "" {
		return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionTrue, Reason: badReason, Message: bad}
	}
	return corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: goodReason, Message: good}
}

func joined(prefix string, errs []error) string {
	if len(errs) == 0 {
		return ""
	}
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	if prefix != "" {
		prefix += fmt.Sprintf("%d remaining: ", len(errs))
	}
	return prefix + strings.Join(texts, ", ")
}

// left tells what remains, and what it waits for, in upstream's words.
func (o outcome) left() (resources, finalizers string) {
	var kinds, waits []string
	count := map[string]int{}
	for _, k := range o.kinds {
		if k.remaining > 0 {
			kinds = append(kinds, fmt.Sprintf("%s.%s has %d resource instances", k.resource.Resource, k.resource.Group, k.remaining))
		}
		for finalizer, n := range k.finalizers {
			count[finalizer] += n
		}
	}
	for finalizer, n := range count {
		waits = append(waits, fmt.Sprintf("%s in %d resource instances", finalizer, n))
	}
	slices.Sort(kinds)
	slices.Sort(waits)
	if len(kinds) > 0 {
		resources = "Some resources are remaining: " + strings.Join(kinds, ", ")
	}
	if len(waits) > 0 {
		finalizers = "Some content in the namespace has finalizers remaining: " + strings.Join(waits, ", ")
	}
	return resources, finalizers
}

func with(conditions []corev1.NamespaceCondition, c corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	c.LastTransitionTime = now
	at := slices.IndexFunc(conditions, func(o corev1.NamespaceCondition) bool { return o.Type == c.Type })
	if at < 0 {
		return append(conditions, c)
	}
	if old := conditions[at]; old.Status == c.Status {
		if old.Reason == c.Reason && old.Message == c.Message {
			return conditions
		}
		c.LastTransitionTime = old.LastTransitionTime
	}
	conditions[at] = c
	return conditions
}
