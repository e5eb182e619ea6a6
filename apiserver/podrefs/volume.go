package podrefs

import corev1 "k8s.io/api/core/v1"

// VolumeSecrets are the Secrets that a node needs to mount a volume. Those that
// only a controller needs are not among them.
func VolumeSecrets(pv *corev1.PersistentVolume) []corev1.SecretReference {
	here := ""
	if pv.Spec.ClaimRef != nil {
		here = pv.Spec.ClaimRef.Namespace
	}
	var refs []corev1.SecretReference
	add := func(namespace, name string) {
		if namespace == "" {
			namespace = here
		}
		if namespace != "" && name != "" {
			refs = append(refs, corev1.SecretReference{Namespace: namespace, Name: name})
		}
	}
	ref := func(r *corev1.SecretReference) {
		if r != nil {
			add(r.Namespace, r.Name)
		}
	}
	switch s := &pv.Spec.PersistentVolumeSource; {
	case s.CSI != nil:
		ref(s.CSI.NodePublishSecretRef)
		ref(s.CSI.NodeStageSecretRef)
		ref(s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		namespace := ""
		if s.AzureFile.SecretNamespace != nil {
			namespace = *s.AzureFile.SecretNamespace
		}
		add(namespace, s.AzureFile.SecretName)
	case s.CephFS != nil:
		ref(s.CephFS.SecretRef)
	case s.Cinder != nil:
		ref(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		ref(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		ref(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		ref(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		ref(s.ISCSI.SecretRef)
	case s.StorageOS != nil && s.StorageOS.SecretRef != nil:
		add(s.StorageOS.SecretRef.Namespace, s.StorageOS.SecretRef.Name)
	}
	return refs
}
