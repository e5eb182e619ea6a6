package deployment

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// Annotations kubectl and upstream's controller agree on.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"

	maxHistoryLength = 2000 // characters of historyAnnotation
)

// notCopied are annotations of a Deployment its ReplicaSets do not get.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	maxAnnotation:                      true,
	appsv1.DeprecatedRollbackTo:        true,
}

// templateHash is the pod-template-hash: FNV-1a over upstream's textual form of
// the template and the collision count, in letters that spell no words.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	hasher := fnv.New32a()
	fmt.Fprintf(hasher, "%v", dump.ForHash(*template))
	if collisions != nil {
		raw := make([]byte, 8)
		binary.LittleEndian.PutUint32(raw, uint32(*collisions))
		hasher.Write(raw)
	}
	return rand.SafeEncodeString(fmt.Sprint(hasher.Sum32()))
}

// sameTemplate compares templates without the hash label.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	left, right := a.DeepCopy(), b.DeepCopy()
	delete(left.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(right.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(left, right)
}

func revision(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) int64 {
	highest := int64(0)
	for _, rs := range sets {
		highest = max(highest, revision(rs.Annotations))
	}
	return highest
}

// annotate gives the new ReplicaSet the Deployment's annotations and its revision.
// A ReplicaSet that becomes the new one again (a rollback) keeps the revisions it
// had in its history.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, newRevision int64, exists bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !notCopied[key] {
			rs.Annotations[key] = value
		}
	}
	before, had := rs.Annotations[revisionAnnotation]
	if revision(rs.Annotations) < newRevision {
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(newRevision, 10)
		if had && before != "" {
			rs.Annotations[historyAnnotation] = appendHistory(rs.Annotations[historyAnnotation], before)
		}
	}
	if !exists {
		setSizes(rs, replicas(d), replicas(d)+maxSurge(d))
	}
}

func appendHistory(history, entry string) string {
	if history == "" {
		return entry
	}
	entries := append(strings.Split(history, ","), entry)
	for len(entries) > 1 && len(strings.Join(entries, ",")) > maxHistoryLength {
		entries = entries[1:]
	}
	return strings.Join(entries, ",")
}

// setSizes notes the Deployment's size on a ReplicaSet, which is how a scaled
// Deployment is told from a rollout, and what proportions are counted from.
func setSizes(rs *appsv1.ReplicaSet, desired, most int32) {
	annotations := maps.Clone(rs.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[desiredAnnotation] = strconv.Itoa(int(desired))
	annotations[maxAnnotation] = strconv.Itoa(int(most))
	rs.Annotations = annotations
}

func sizeNote(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil
}
