package volumes

import (
	"fmt"
	"maps"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func warnClass(c, _ *storagev1.StorageClass) []string {
	var out []string
	for i, topology := range c.AllowedTopologies {
		for j, e := range topology.MatchLabelExpressions {
			if message, ok := kind.DeprecatedNodeLabel(e.Key); ok {
				out = append(out, fmt.Sprintf("%s: %s", field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), message))
			}
		}
	}
	return out
}

func warnCapacity(c, _ *storagev1.CSIStorageCapacity) []string {
	if c.NodeTopology == nil {
		return nil
	}
	var out []string
	at := field.NewPath("nodeTopology")
	for i, e := range c.NodeTopology.MatchExpressions {
		if message, ok := kind.DeprecatedNodeLabel(e.Key); ok {
			out = append(out, fmt.Sprintf("%s: %s is %s", at.Child("matchExpressions").Index(i).Child("key"), e.Key, message))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.NodeTopology.MatchLabels)) {
		if message, ok := kind.DeprecatedNodeLabel(key); ok {
			out = append(out, fmt.Sprintf("%s: %s", at.Child("matchLabels").Child(key), message))
		}
	}
	return out
}

func warnDriver(d, old *storagev1.CSIDriver) []string {
	asks := d.Spec.TokenRequests
	if len(asks) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil || old != nil && apiequality.Semantic.DeepEqual(old.Spec.TokenRequests, asks) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}
