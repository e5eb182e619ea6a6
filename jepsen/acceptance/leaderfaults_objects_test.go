package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// What controllers do to objects that run no containers, or have one beside them, in the
// middle of a fault. Each round has objects of its own, named by it.

// manifest applies a text in which ROUND stands for the round.
func (r *round) manifest(ctx context.Context, text string) error {
	file, err := os.CreateTemp("", "round-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(strings.ReplaceAll(text, "ROUND", r.template())); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	_, err = r.tryKubectl(ctx, r.via, "apply", "-f", file.Name())
	return err
}

func (r *round) beginReplication(ctx context.Context) error {
	_, err := r.tryKubectl(ctx, r.via, "scale", "rc/counted", fmt.Sprint("--replicas=", r.size()))
	return err
}

func (r *round) replicated(ctx context.Context) error {
	if err := r.pods(ctx, "counted", int(r.size()), func(*corev1.Pod) bool { return true }); err != nil {
		return err
	}
	rc, err := r.client.CoreV1().ReplicationControllers("default").Get(ctx, "counted", metav1.GetOptions{})
	if err == nil && (rc.Status.ReadyReplicas != r.size() || rc.Status.ObservedGeneration != rc.Generation) {
		err = fmt.Errorf("its status is %+v", rc.Status)
	}
	return err
}

// owned makes a ConfigMap whose owner is another.
func (r *round) owned(ctx context.Context, name string, owner *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	made := configMap(name, nil)
	if owner != nil {
		made.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: ptr.To(true)}}
	}
	return r.client.CoreV1().ConfigMaps("default").Create(ctx, made, metav1.CreateOptions{})
}

// beginCollection deletes owners of twenty objects, each of which owns another: one that waits
// for all of them to go, one that leaves them behind.
func (r *round) beginCollection(ctx context.Context) error {
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		prefix := r.owner(how)
		top, err := r.owned(ctx, prefix, nil)
		if err != nil {
			return err
		}
		for i := range 20 {
			child, err := r.owned(ctx, fmt.Sprintf("%s-%d", prefix, i), top)
			if err != nil {
				return err
			}
			if _, err := r.owned(ctx, child.Name+"-below", child); err != nil {
				return err
			}
		}
		if err := r.client.CoreV1().ConfigMaps("default").Delete(ctx, prefix, metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
			return err
		}
	}
	return nil
}

func (r *round) owner(how metav1.DeletionPropagation) string {
	return r.template() + "-" + strings.ToLower(string(how))
}

func (r *round) collected(ctx context.Context) error {
	all, err := r.client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	left, gone := r.owner(metav1.DeletePropagationOrphan), r.owner(metav1.DeletePropagationForeground)
	orphans := 0
	for _, c := range all.Items {
		switch {
		case strings.HasPrefix(c.Name, gone), c.Name == left:
			return fmt.Errorf("%s is there", c.Name)
		case strings.HasPrefix(c.Name, left+"-") && !strings.HasSuffix(c.Name, "-below"):
			if orphans++; len(c.OwnerReferences) > 0 {
				return fmt.Errorf("%s has an owner: %v", c.Name, c.OwnerReferences)
			}
		case strings.HasPrefix(c.Name, left+"-"):
			orphans++
		}
	}
	if orphans != 40 {
		return fmt.Errorf("%d of 40 that were to be left behind are there", orphans)
	}
	return nil
}

// beginServices makes Services of each kind that a controller looks after.
func (r *round) beginServices(ctx context.Context) error {
	port := fmt.Sprint(9000 + r.n) // of the nodes: each round has its own
	return r.manifest(ctx, `
apiVersion: v1
kind: Service
metadata: {name: ROUND}
spec: {type: LoadBalancer, trafficDistribution: PreferSameNode, selector: {app: back}, ports: [{port: `+port+`, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: ROUND-outside}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: ROUND-outside}
subsets: [{addresses: [{ip: 192.0.2.7}], ports: [{port: 80}]}]
`)
}

// servicesStand: the Service's slices and Endpoints say where its three pods are, for whom each
// is; it has addresses; and what is kept by hand is mirrored.
func (r *round) servicesStand(ctx context.Context) error {
	service, err := r.client.CoreV1().Services("default").Get(ctx, r.template(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(service.Status.LoadBalancer.Ingress) != 3 {
		return fmt.Errorf("its balancer has the addresses %v", service.Status.LoadBalancer.Ingress)
	}
	if _, err := r.client.NetworkingV1().IPAddresses().Get(ctx, service.Spec.ClusterIP, metav1.GetOptions{}); err != nil {
		return err
	}
	of := func(service string) (addresses []string, err error) {
		list, err := r.client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
		if err != nil {
			return nil, err
		}
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				hinted := e.Hints != nil && len(e.Hints.ForNodes) == 1 && e.NodeName != nil && e.Hints.ForNodes[0].Name == *e.NodeName
				if service == r.template() && (!hinted || e.Conditions.Ready == nil || !*e.Conditions.Ready) {
					return nil, fmt.Errorf("an endpoint is %+v", e)
				}
				addresses = append(addresses, e.Addresses...)
			}
		}
		slices.Sort(addresses)
		return addresses, nil
	}
	inSlices, err := of(r.template())
	if err != nil {
		return err
	}
	endpoints, err := r.tryKubectl(ctx, r.via, "get", "endpoints", r.template(), "-o", "jsonpath={.subsets[*].addresses[*].ip}")
	if err != nil {
		return err
	}
	inEndpoints := strings.Fields(endpoints)
	slices.Sort(inEndpoints)
	if len(inSlices) != 3 || !slices.Equal(inSlices, inEndpoints) {
		return fmt.Errorf("its slices say %v, its Endpoints %v", inSlices, inEndpoints)
	}
	mirrored, err := of(r.template() + "-outside")
	if err == nil && !slices.Equal(mirrored, []string{"192.0.2.7"}) {
		err = fmt.Errorf("the mirror says %v", mirrored)
	}
	return err
}

// beginAccess makes a namespace, an account with a Secret for its token, and a role that is
// the sum of others.
func (r *round) beginAccess(ctx context.Context) error {
	return r.manifest(ctx, `
apiVersion: v1
kind: Namespace
metadata: {name: ROUND-access}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: ROUND-access}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: token, namespace: ROUND-access, annotations: {kubernetes.io/service-account.name: robot}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ROUND-sum}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {to: ROUND}}]}
rules: []
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ROUND-part, labels: {to: ROUND}}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
`)
}

func (r *round) accessGiven(ctx context.Context) error {
	core, namespace := r.client.CoreV1(), r.template()+"-access"
	if _, err := core.ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return err
	}
	bundle, err := core.ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		return err
	}
	secret, err := core.Secrets(namespace).Get(ctx, "token", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if bundle.Data["ca.crt"] == "" || len(secret.Data["token"]) == 0 || string(secret.Data["ca.crt"]) != bundle.Data["ca.crt"] {
		return errors.New("the token's Secret or the bundle is not complete")
	}
	role, err := r.client.RbacV1().ClusterRoles().Get(ctx, r.template()+"-sum", metav1.GetOptions{})
	if err == nil && (len(role.Rules) != 1 || role.Rules[0].Resources[0] != "pods") {
		err = fmt.Errorf("the sum of the roles is %v", role.Rules)
	}
	return err
}

// beginVolume has a pod with a volume of its own, and deletes the one of the round before.
func (r *round) beginVolume(ctx context.Context) error {
	if r.n > 1 {
		// The drain may have taken it already.
		if err := r.client.CoreV1().Pods("default").Delete(ctx, r.withVolume(r.n-1), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return r.manifest(ctx, `
apiVersion: v1
kind: Pod
metadata: {name: ROUND-volume}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "kontiki.local/web:v1", volumeMounts: [{name: own, mountPath: /own}]}]
  tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [`+r.via.Name+`]}]}]}}}
  volumes:
  - name: own
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
`)
}

func (r *round) withVolume(n int) string { return fmt.Sprintf("round-%d-volume", n) }

// volumeMade: the pod runs on a volume that is bound and protected, and nothing is left of
// the one of the round before.
func (r *round) volumeMade(ctx context.Context) error {
	pod, err := r.client.CoreV1().Pods("default").Get(ctx, r.withVolume(r.n), metav1.GetOptions{})
	if err != nil {
		return err
	}
	claims := r.client.CoreV1().PersistentVolumeClaims("default")
	claim, err := claims.Get(ctx, pod.Name+"-own", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !isReady(pod) || claim.Status.Phase != corev1.ClaimBound || !slices.Contains(claim.Finalizers, "kubernetes.io/pvc-protection") {
		return fmt.Errorf("the pod is %s, its claim %s, with the finalizers %v", pod.Status.Phase, claim.Status.Phase, claim.Finalizers)
	}
	volumes, err := r.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	before := r.withVolume(r.n-1) + "-own"
	if slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Name == before }) {
		return fmt.Errorf("the volume of %s is there", before)
	}
	if _, err := claims.Get(ctx, before, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return errors.Join(err, fmt.Errorf("the claim %s is there", before))
	}
	return nil
}

// beginRequest asks for a certificate and approves it.
func (r *round) beginRequest(ctx context.Context) error {
	if err := requestCertificate(ctx, r.client, r.template()); err != nil {
		return err
	}
	_, err := r.tryKubectl(ctx, r.via, "certificate", "approve", r.template())
	return err
}

func (r *round) requestSigned(ctx context.Context) error {
	return certificateSigned(ctx, r.client, r.template())
}
