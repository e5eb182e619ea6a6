package apps

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containersOf lists names and images of the containers of a template.
func containersOf(s corev1.PodSpec) (names, images string) {
	n, i := make([]string, len(s.Containers)), make([]string, len(s.Containers))
	for k, c := range s.Containers {
		n[k], i[k] = c.Name, c.Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func selectorOf(s *metav1.LabelSelector) string {
	return metav1.FormatLabelSelector(s)
}
