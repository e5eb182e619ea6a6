package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kontiki/apiserver/podrefs"
)

// nodePrefix begins the user names of nodes.
const nodePrefix = "system:node:"

// NodeOf tells whether u is a node, and which; the name is empty for one that
// cannot be told.
func NodeOf(u user.Info) (name string, isNode bool) {
	if u == nil || !strings.HasPrefix(u.GetName(), nodePrefix) || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	return strings.TrimPrefix(u.GetName(), nodePrefix), true
}

// Nodes is upstream's Node authorizer: a node sees and changes what is its own,
// and what the pods refer to that are bound to it. What it may write within that
// is the admission plugin NodeRestriction's to say.
//
// Most questions are answered by a graph that follows pods. What the graph does
// not know yet is looked up in this node's replica, so that a node that has just
// seen a pod is never refused what the pod needs.
type Nodes struct {
	client kubernetes.Interface // as the API server itself
	graph  *graph
	rules  []rbacv1.PolicyRule
}

// NewNodes returns the authorizer; Follow keeps it up to date.
func NewNodes(client kubernetes.Interface) *Nodes {
	return &Nodes{client, newGraph(), nodeRules()}
}

// Follow watches pods until ctx ends.
func (n *Nodes) Follow(ctx context.Context) {
	pods := n.client.CoreV1().Pods(metav1.NamespaceAll)
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc:  listing(pods.List),
		WatchFuncWithContext: pods.Watch,
	}, n.client)
	cache.NewNamedReflector("node authorizer", lw, &corev1.Pod{}, n.graph, 0).RunWithContext(ctx)
}

// Authorize implements authorizer.Authorizer.
func (n *Nodes) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := NodeOf(attrs.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", attrs.GetUser().GetName()), nil
	}
	if attrs.IsResourceRequest() {
		if decide, ok := subdivided[attrs.GetAPIGroup()+"/"+attrs.GetResource()]; ok {
			if err := decide(n, ctx, node, attrs); err != nil {
				return authorizer.DecisionNoOpinion, err.Error(), nil
			}
			return authorizer.DecisionAllow, "", nil
		}
	}
	for _, rule := range n.rules {
		if Allows(rule, attrs) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; there are no conditions.
func (n *Nodes) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(n.Authorize(ctx, attrs))
}

// EvaluateConditions implements authorizer.Authorizer.
func (*Nodes) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver.
func (*Nodes) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := NodeOf(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// errNoName is upstream's word for a request that is about many objects.
var errNoName = errors.New("No Object name found")

// errNothing is a refusal that the words of other authorizers say better.
var errNothing = errors.New("")

// subdivided are the resources of which a node sees a part; each answers with the
// reason for a refusal, in upstream's words.
var subdivided = map[string]func(n *Nodes, ctx context.Context, node string, attrs authorizer.Attributes) error{
	"/secrets":                         (*Nodes).secret,
	"/configmaps":                      (*Nodes).configMap,
	"/persistentvolumeclaims":          (*Nodes).claim,
	"/persistentvolumes":               (*Nodes).volume,
	"resource.k8s.io/resourceclaims":   (*Nodes).resourceClaim,
	"storage.k8s.io/volumeattachments": (*Nodes).attachment,
	"/serviceaccounts":                 (*Nodes).account,
	"coordination.k8s.io/leases":       (*Nodes).lease,
	"storage.k8s.io/csinodes":          (*Nodes).csiNode,
	"resource.k8s.io/resourceslices":   (*Nodes).slice,
	"/nodes":                           (*Nodes).node,
	"/pods":                            (*Nodes).pod,
}

func unrelated(node string) error {
	return fmt.Errorf("no relationship found between node '%s' and this object", node)
}

// reach refuses what no pod of the node refers to.
func (n *Nodes) reach(ctx context.Context, node string, kind relation, attrs authorizer.Attributes) error {
	if attrs.GetName() == "" {
		return errNoName
	}
	want := related{kind, attrs.GetNamespace(), attrs.GetName()}
	if n.graph.has(node, want) {
		return nil
	}
	for pod, err := range n.podsOf(ctx, node, attrs.GetNamespace()) {
		if err != nil {
			return err
		}
		if slices.Contains(boundPod(pod).refs, want) {
			return nil
		}
	}
	return unrelated(node)
}

func (n *Nodes) secret(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if err := readsOne(attrs); err != nil {
		return err
	}
	err := n.reach(ctx, node, toSecret, attrs)
	if err == nil || attrs.GetName() == "" {
		return err
	}
	// The Secret may be one of a volume that a pod has claimed.
	want := corev1.SecretReference{Namespace: attrs.GetNamespace(), Name: attrs.GetName()}
	for pod, perr := range n.podsOf(ctx, node, metav1.NamespaceAll) {
		if perr != nil {
			return perr
		}
		for claim := range podrefs.Claims(pod) {
			pv, perr := n.volumeOf(ctx, pod.Namespace, claim)
			if perr == nil && slices.Contains(podrefs.VolumeSecrets(pv), want) {
				return nil
			}
		}
	}
	return err
}

func (n *Nodes) configMap(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if err := readsOne(attrs); err != nil {
		return err
	}
	return n.reach(ctx, node, toConfigMap, attrs)
}

func (n *Nodes) claim(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if attrs.GetSubresource() == "status" {
		if !slices.Contains([]string{"update", "patch"}, attrs.GetVerb()) {
			return errors.New("can only get/update/patch this type")
		}
		return n.reach(ctx, node, toClaim, attrs)
	}
	if err := getsOne(attrs); err != nil {
		return err
	}
	return n.reach(ctx, node, toClaim, attrs)
}

func (n *Nodes) resourceClaim(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if err := getsOne(attrs); err != nil {
		return err
	}
	return n.reach(ctx, node, toResourceClaim, attrs)
}

// volume: that a volume is the claim's says the volume itself; anybody may write
// a volume's name into a claim. Of its own local volumes a node also keeps the
// directories, and says so on them.
func (n *Nodes) volume(ctx context.Context, node string, attrs authorizer.Attributes) error {
	switch attrs.GetVerb() {
	case "list", "watch":
		if attrs.GetSubresource() == "" && attrs.GetName() == "" && selectsLabel(attrs, corev1.LabelHostname, node) {
			return nil
		}
	case "update", "patch":
		pv, err := n.client.CoreV1().PersistentVolumes().Get(ctx, attrs.GetName(), local)
		if attrs.GetSubresource() == "" && err == nil && LocalVolumeOf(pv, node) {
			return nil
		}
	}
	if err := getsOne(attrs); err != nil {
		return err
	}
	if attrs.GetName() == "" {
		return errNoName
	}
	pv, err := n.client.CoreV1().PersistentVolumes().Get(ctx, attrs.GetName(), local)
	if err == nil && LocalVolumeOf(pv, node) {
		return nil
	}
	if err != nil || pv.Spec.ClaimRef == nil {
		return unrelated(node)
	}
	return n.reach(ctx, node, toClaim, authorizer.AttributesRecord{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name})
}

// LocalVolumeOf tells whether a volume is a directory on a node that the
// cluster's own provisioner has made.
func LocalVolumeOf(pv *corev1.PersistentVolume, node string) bool {
	return pv.Spec.Local != nil && pv.Labels[corev1.LabelHostname] == node && pv.Annotations["pv.kubernetes.io/provisioned-by"] == "kontiki.io/local-path"
}

func (n *Nodes) attachment(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if err := getsOne(attrs); err != nil {
		return err
	}
	va, err := n.client.StorageV1().VolumeAttachments().Get(ctx, attrs.GetName(), local)
	if err != nil || va.Spec.NodeName != node {
		return unrelated(node)
	}
	return nil
}

func (n *Nodes) account(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if attrs.GetVerb() == "get" && attrs.GetSubresource() == "" {
		return n.reach(ctx, node, toAccount, attrs)
	}
	switch {
	case attrs.GetVerb() != "create" || attrs.GetName() == "":
		return errors.New("can only create tokens for individual service accounts")
	case attrs.GetSubresource() != "token":
		return errors.New("can only create token subresource of serviceaccount")
	}
	return n.reach(ctx, node, toAccount, attrs)
}

var ownVerbs = []string{"get", "create", "update", "patch", "delete"}

func (*Nodes) lease(_ context.Context, node string, attrs authorizer.Attributes) error {
	switch {
	case !slices.Contains(ownVerbs, attrs.GetVerb()):
		return errors.New("can only get, create, update, patch, or delete a node lease")
	case attrs.GetNamespace() != corev1.NamespaceNodeLease:
		return fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	case attrs.GetVerb() != "create" && attrs.GetName() != node:
		return errors.New("can only access node lease with the same name as the requesting node")
	}
	return nil
}

func (*Nodes) csiNode(_ context.Context, node string, attrs authorizer.Attributes) error {
	switch {
	case !slices.Contains(ownVerbs, attrs.GetVerb()):
		return errors.New("can only get, create, update, patch, or delete a CSINode")
	case attrs.GetSubresource() != "":
		return errors.New("cannot authorize CSINode subresources")
	case attrs.GetVerb() != "create" && attrs.GetName() != node:
		return errors.New("can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func (n *Nodes) slice(ctx context.Context, node string, attrs authorizer.Attributes) error {
	if attrs.GetSubresource() != "" {
		return errors.New("cannot authorize ResourceSlice subresources")
	}
	switch attrs.GetVerb() {
	case "create": // whose it is says admission
		return nil
	case "get", "update", "patch", "delete":
		s, err := n.client.ResourceV1().ResourceSlices().Get(ctx, attrs.GetName(), local)
		if err != nil || s.Spec.NodeName == nil || *s.Spec.NodeName != node {
			return unrelated(node)
		}
		return nil
	case "watch", "list", "deletecollection":
		if selects(attrs, "spec.nodeName", node) || selects(attrs, "nodeName", node) {
			return nil
		}
		return errors.New("can only list/watch/deletecollection resourceslices with nodeName field selector")
	}
	return errors.New("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection")
}

func (*Nodes) node(_ context.Context, node string, attrs authorizer.Attributes) error {
	switch verb := attrs.GetVerb(); attrs.GetSubresource() {
	case "":
		switch verb {
		case "create", "update", "patch":
			return nil
		case "get", "list", "watch":
			switch attrs.GetName() {
			case node:
				return nil
			case "":
				return fmt.Errorf("node '%s' cannot read all nodes, only its own Node object", node)
			}
			return fmt.Errorf("node '%s' cannot read '%s', only its own Node object", node, attrs.GetName())
		}
	case "status":
		if verb == "update" || verb == "patch" {
			return nil
		}
	}
	return errNothing
}

func (n *Nodes) pod(ctx context.Context, node string, attrs authorizer.Attributes) error {
	switch verb := attrs.GetVerb(); attrs.GetSubresource() {
	case "":
		switch verb {
		case "get":
			return n.reach(ctx, node, toPod, attrs)
		case "list", "watch":
			if selects(attrs, "spec.nodeName", node) {
				return nil
			}
			if attrs.GetName() != "" {
				return n.reach(ctx, node, toPod, attrs)
			}
			return errors.New("can only list/watch pods with spec.nodeName field selector")
		case "create", "delete":
			return nil
		}
	case "status":
		if verb == "update" || verb == "patch" {
			return nil
		}
	case "eviction":
		if verb == "create" {
			return nil
		}
	}
	return errNothing
}

// selects tells whether a request is about one value of a field only.
func selects(attrs authorizer.Attributes, field, value string) bool {
	requirements, _ := attrs.GetFieldSelector() // what it could not parse it left out: less is selected
	return slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == field && r.Operator == selection.Equals && r.Value == value
	})
}

// selectsLabel is selects for labels.
func selectsLabel(attrs authorizer.Attributes, key, value string) bool {
	requirements, _ := attrs.GetLabelSelector()
	return slices.ContainsFunc(requirements, func(r labels.Requirement) bool {
		return r.Key() == key && (r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals) && r.Values().Len() == 1 && r.Values().Has(value)
	})
}

func getsOne(attrs authorizer.Attributes) error {
	switch {
	case attrs.GetVerb() != "get":
		return errors.New("can only get individual resources of this type")
	case attrs.GetSubresource() != "":
		return errors.New("cannot get subresource")
	}
	return nil
}

func readsOne(attrs authorizer.Attributes) error {
	switch {
	case !slices.Contains(readers, attrs.GetVerb()):
		return errors.New("can only read resources of this type")
	case attrs.GetSubresource() != "":
		return errors.New("cannot read subresource")
	case attrs.GetNamespace() == "":
		return errors.New("can only read namespaced object of this type")
	}
	return nil
}
