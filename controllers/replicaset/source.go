package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"kontiki/controllers/loop"
	"kontiki/controllers/podcontrol"
)

// source is where the objects come from and how they are written: ReplicaSets as
// they are, ReplicationControllers by their ReplicaSet, which differs in names only.
type source struct {
	name, component string
	kind            schema.GroupVersionKind

	get         func(namespace, name string) (*appsv1.ReplicaSet, error)
	list        func(namespace string) ([]*appsv1.ReplicaSet, error)
	fresh       func(ctx context.Context, namespace, name string) (metav1.Object, error)
	writeStatus func(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error
	origin      func(rs *appsv1.ReplicaSet) podcontrol.Owner // what events are about
	watch       func(l *loop.Loop) error
}

func replicaSets(client kubernetes.Interface, shared informers.SharedInformerFactory) source {
	informer, lister := shared.Apps().V1().ReplicaSets().Informer(), shared.Apps().V1().ReplicaSets().Lister()
	return source{
		name: Name, component: Component, kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).Get(name)
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).List(labels.Everything())
		},
		fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
			update := rs.DeepCopy()
			update.Status = status
			_, err := client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
			return err
		},
		origin: func(rs *appsv1.ReplicaSet) podcontrol.Owner { return rs },
		watch: func(l *loop.Loop) error {
			return loop.On(l, informer, func(before, after *appsv1.ReplicaSet) { l.AddObject(last(before, after)) })
		},
	}
}

func replicationControllers(client kubernetes.Interface, shared informers.SharedInformerFactory) source {
	informer, lister := shared.Core().V1().ReplicationControllers().Informer(), shared.Core().V1().ReplicationControllers().Lister()
	return source{
		name: ReplicationName, component: ReplicationComponent, kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			rc, err := lister.ReplicationControllers(namespace).Get(name)
			if err != nil {
				return nil, err
			}
			return asReplicaSet(rc), nil
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			all, err := lister.ReplicationControllers(namespace).List(labels.Everything())
			sets := make([]*appsv1.ReplicaSet, 0, len(all))
			for _, rc := range all {
				sets = append(sets, asReplicaSet(rc))
			}
			return sets, err
		},
		fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
			if equality.Semantic.DeepEqual(replicationStatus(rs.Status), replicationStatus(status)) {
				return nil // it differs in what a ReplicationController does not tell
			}
			rc, err := lister.ReplicationControllers(rs.Namespace).Get(rs.Name)
			if err != nil {
				return err
			}
			update := rc.DeepCopy()
			update.ResourceVersion = rs.ResourceVersion // of what the status was worked out from
			update.Status = replicationStatus(status)
			_, err = client.CoreV1().ReplicationControllers(rs.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
			return err
		},
		origin: func(rs *appsv1.ReplicaSet) podcontrol.Owner {
			return &corev1.ReplicationController{ObjectMeta: rs.ObjectMeta}
		},
		watch: func(l *loop.Loop) error {
			return loop.On(l, informer, func(before, after *corev1.ReplicationController) { l.AddObject(last(before, after)) })
		},
	}
}

func last[T any](before, after *T) *T {
	if after == nil {
		return before
	}
	return after
}

// asReplicaSet is the ReplicaSet that wants what the ReplicationController wants.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: *rc.ObjectMeta.DeepCopy(),
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template.DeepCopy()
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func replicationStatus(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	status := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas, ReadyReplicas: s.ReadyReplicas,
		AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		status.Conditions = append(status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return status
}
