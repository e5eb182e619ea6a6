package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes.
type indexes map[int]bool

// parseIndexes reads "1,3-5". What is not a number below limit is left out: it was
// written for another number of completions.
func parseIndexes(text string, limit int) indexes {
	set := indexes{}
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		}
		for i := max(first, 0); i <= last && i < limit; i++ {
			set[i] = true
		}
	}
	return set
}

func (s indexes) String() string {
	sorted := make([]int, 0, len(s))
	for i := range s {
		sorted = append(sorted, i)
	}
	slices.Sort(sorted)
	var parts []string
	for at := 0; at < len(sorted); {
		end := at
		for end+1 < len(sorted) && sorted[end+1] == sorted[end]+1 {
			end++
		}
		switch end - at {
		case 0:
			parts = append(parts, strconv.Itoa(sorted[at]))
		case 1:
			parts = append(parts, strconv.Itoa(sorted[at]), strconv.Itoa(sorted[end]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", sorted[at], sorted[end]))
		}
		at = end + 1
	}
	return strings.Join(parts, ",")
}

// indexOf is the completion index of a pod, -1 if it has none.
func indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return -1
	}
	return i
}

// failuresOf is how many pods of the index had failed before this one, and ignoredOf how
// many of which the failure was ignored.
func failuresOf(pod *corev1.Pod) int { return countOf(pod, batchv1.JobIndexFailureCountAnnotation) }
func ignoredOf(pod *corev1.Pod) int {
	return countOf(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func countOf(pod *corev1.Pod, annotation string) int {
	n, err := strconv.Atoi(pod.Annotations[annotation])
	if err != nil {
		return 0
	}
	return n
}
