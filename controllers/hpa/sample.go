package hpa

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/podview"
)

// Upstream's horizontal-pod-autoscaler-cpu-initialization-period and
// -initial-readiness-delay.
const (
	cpuInitialization = 5 * time.Minute
	readinessDelay    = 30 * time.Second
)

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// sorted are an autoscaler's pods by what their samples are worth.
type sorted struct {
	counted map[string]sample
	unready map[string]bool // not ready yet, or not for long: their samples mislead
	missing map[string]bool // that should have a sample
	ignored map[string]bool // on their way out
}

// sortPods tells which samples count. A pod's CPU does not while the pod starts.
func sortPods(pods []*corev1.Pod, samples map[string]sample, resource corev1.ResourceName, now time.Time) sorted {
	s := sorted{map[string]sample{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	for _, pod := range pods {
		got, ok := samples[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			s.ignored[pod.Name] = true
		case pod.Status.Phase == corev1.PodPending:
			s.unready[pod.Name] = true
		case !ok:
			s.missing[pod.Name] = true
		case resource == corev1.ResourceCPU && starting(pod, got, now):
			s.unready[pod.Name] = true
		default:
			s.counted[pod.Name] = got
		}
	}
	return s
}

func starting(pod *corev1.Pod, got sample, now time.Time) bool {
	ready := podview.Condition(pod, corev1.PodReady)
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	unready, since := ready.Status == corev1.ConditionFalse, ready.LastTransitionTime.Time
	if pod.Status.StartTime.Add(cpuInitialization).After(now) {
		return unready || got.at.Before(since.Add(got.window))
	}
	return unready && pod.Status.StartTime.Add(readinessDelay).After(since) // it was never ready
}

// requests are what the pods, or one container of each, ask for of a resource.
func requests(pods []*corev1.Pod, resource corev1.ResourceName, container string) (map[string]int64, error) {
	all := make(map[string]int64, len(pods))
	for _, pod := range pods {
		sum, found := int64(0), false
		if container == "" && pod.Spec.Resources != nil {
			if q, ok := pod.Spec.Resources.Requests[resource]; ok {
				all[pod.Name] = q.MilliValue()
				continue
			}
		}
		for _, c := range podview.Lasting(pod) {
			if container != "" && c.Name != container {
				continue
			}
			found = true
			q, ok := c.Resources.Requests[resource]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, pod.Name)
			}
			sum += q.MilliValue()
		}
		if container != "" && !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
		}
		all[pod.Name] = sum
	}
	return all, nil
}

// ratio is how much the samples are of what they should be, with what is shown of
// them: their share of the requests in percent, and their mean.
type ratio func(samples map[string]sample) (of float64, percent int32, mean int64, err error)

// againstRequests compares with a percentage of what the pods request.
func againstRequests(asked map[string]int64, target int32) ratio {
	return func(samples map[string]sample) (float64, int32, int64, error) {
		used, requested, n := int64(0), int64(0), int64(0)
		for name, s := range samples {
			if request, ok := asked[name]; ok {
				used += s.value
				requested += request
				n++
			}
		}
		if requested == 0 {
			return 0, 0, 0, errors.New("no metrics returned matched known pods")
		}
		percent := int32(used * 100 / requested)
		return float64(percent) / float64(target), percent, used / n, nil
	}
}

// againstValue compares the mean with a value.
func againstValue(target int64) ratio {
	return func(samples map[string]sample) (float64, int32, int64, error) {
		sum := int64(0)
		for _, s := range samples {
			sum += s.value
		}
		mean := sum / int64(len(samples))
		return float64(mean) / float64(target), 0, mean, nil
	}
}

// size is how many replicas the samples speak for. Pods without a sample are held
// to use all they may when that would mean fewer replicas, and nothing when it would
// mean more: so what is not known never moves anything by itself.
func (s sorted) size(current int32, within tolerance, compare ratio, full func(pod string) int64) (replicas int32, percent int32, mean int64, err error) {
	if len(s.counted) == 0 {
		return 0, 0, 0, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	of, percent, mean, err := compare(s.counted)
	if err != nil {
		return 0, 0, 0, err
	}
	growing := len(s.unready) > 0 && of > 1
	if !growing && len(s.missing) == 0 {
		if within.holds(of) {
			return current, percent, mean, nil
		}
		return int32(math.Ceil(of * float64(len(s.counted)))), percent, mean, nil
	}
	all := make(map[string]sample, len(s.counted)+len(s.missing)+len(s.unready))
	for name, got := range s.counted {
		all[name] = got
	}
	for name := range s.missing {
		if of < 1 {
			all[name] = sample{value: full(name)}
		} else if of > 1 {
			all[name] = sample{}
		}
	}
	if growing {
		for name := range s.unready {
			all[name] = sample{}
		}
	}
	again, _, _, err := compare(all)
	if err != nil {
		return 0, percent, mean, err
	}
	if within.holds(again) || of < 1 && again > 1 || of > 1 && again < 1 {
		return current, percent, mean, nil
	}
	replicas = int32(math.Ceil(again * float64(len(all))))
	if again < 1 && replicas > current || again > 1 && replicas < current {
		replicas = current
	}
	return replicas, percent, mean, nil
}

// tolerance is how far from 1 a ratio may be before anything is changed.
type tolerance struct{ down, up float64 }

func (t tolerance) holds(of float64) bool { return 1-t.down <= of && of <= 1+t.up }
