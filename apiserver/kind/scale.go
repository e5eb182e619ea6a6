package kind

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Scaled is what a scale subresource sees and changes of a workload.
type Scaled struct {
	Meta     *metav1.ObjectMeta
	Replicas **int32
	Status   int32
	Selector *metav1.LabelSelector
}

type scaler struct {
	of func(runtime.Object) Scaled
}

func (s scaler) scale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	from := s.of(obj)
	selector, err := metav1.LabelSelectorAsSelector(from.Selector)
	if err != nil {
		return nil, err
	}
	m := from.Meta
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.Name, Namespace: m.Namespace, UID: m.UID,
			ResourceVersion: m.ResourceVersion, CreationTimestamp: m.CreationTimestamp,
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: replicasOf(from)},
		Status: autoscalingv1.ScaleStatus{Replicas: from.Status, Selector: selector.String()},
	}, nil
}

// scaleREST shows a workload as a Scale and takes its replicas from one.
type scaleREST struct {
	main *REST
	scaler
}

var (
	_ rest.Patcher                  = &scaleREST{}
	_ rest.GroupVersionKindProvider = &scaleREST{}
)

// Scale serves the scale subresource of the workloads that main stores.
func Scale(main rest.Storage, of func(runtime.Object) Scaled) rest.Storage {
	return &scaleREST{main.(*REST), scaler{of}}
}

func replicasOf(s Scaled) int32 {
	if *s.Replicas == nil {
		return 0
	}
	return **s.Replicas
}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (*scaleREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// New implements rest.Storage.
func (*scaleREST) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage.
func (*scaleREST) Destroy() {}

// Get implements rest.Getter.
func (r *scaleREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.main.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	scale, err := r.scale(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return scale, nil
}

// ConvertToTable implements rest.TableConvertor.
func (r *scaleREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(r.main.DefaultQualifiedResource).ConvertToTable(ctx, obj, options)
}

// Update implements rest.Updater.
func (r *scaleREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := r.main.Update(ctx, name, &scaleUpdate{name, info, r.scaler},
		onScale(r.scaler, createValidation), onScaleUpdate(r.scaler, updateValidation), false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := r.scale(obj)
	if err != nil {
		return nil, false, apierrors.NewBadRequest(err.Error())
	}
	return scale, false, nil
}

// onScale shows admission the Scale that the user sent, not the workload.
func onScale(s scaler, f rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		scale, err := s.scale(obj)
		if err != nil {
			return err
		}
		return f(ctx, scale)
	}
}

func onScaleUpdate(s scaler, f rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		now, err := s.scale(obj)
		if err != nil {
			return err
		}
		before, err := s.scale(old)
		if err != nil {
			return err
		}
		return f(ctx, now, before)
	}
}

// scaleUpdate turns an update of a Scale into one of its workload.
type scaleUpdate struct {
	name string
	info rest.UpdatedObjectInfo
	scaler
}

// Preconditions implements rest.UpdatedObjectInfo.
func (u *scaleUpdate) Preconditions() *metav1.Preconditions { return u.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (u *scaleUpdate) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	out := old.DeepCopyObject()
	to := u.of(out)
	if to.Meta.ResourceVersion == "" {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, u.name)
	}
	before, err := u.scale(old)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	obj, err := u.info.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", obj))
	}
	if errs := validation.ValidateNonnegativeField(int64(scale.Spec.Replicas), field.NewPath("spec", "replicas")); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), scale.Name, errs)
	}
	if scale.ResourceVersion != "" {
		to.Meta.ResourceVersion = scale.ResourceVersion
	}
	if scale.UID != "" {
		to.Meta.UID = scale.UID
	}
	replicas := scale.Spec.Replicas
	*to.Replicas = &replicas
	return out, nil
}
