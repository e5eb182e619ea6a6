package cronjob

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/plantest"
)

type input struct {
	Now     metav1.Time     `json:"now"`
	CronJob batchv1.CronJob `json:"cronJob"`
	Listed  []string        `json:"listed"` // in its status as active
	Jobs    []struct {
		Name  string `json:"name"`
		At    string `json:"at"`    // scheduled time
		Ended string `json:"ended"` // Complete or Failed; running by default
	} `json:"jobs"`
}

type output struct {
	Create  string   `json:"create,omitempty"`
	At      string   `json:"at,omitempty"`
	Replace []string `json:"replace,omitempty"`
	Remove  []string `json:"remove,omitempty"`
	Active  []string `json:"active,omitempty"`
	Last    string   `json:"last,omitempty"`
	Events  []string `json:"events,omitempty"`
	Again   string   `json:"again,omitempty"`
}

func names(jobs []*batchv1.Job) (all []string) {
	for _, job := range jobs {
		all = append(all, job.Name)
	}
	return all
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		in.CronJob.Name = "night"
		for _, name := range in.Listed {
			in.CronJob.Status.Active = append(in.CronJob.Status.Active, corev1.ObjectReference{Name: name, UID: types.UID(name)})
		}
		w := world{cronJob: &in.CronJob, now: in.Now.Time}
		for _, j := range in.Jobs {
			job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: j.Name, UID: types.UID(j.Name), Annotations: map[string]string{batchv1.CronJobScheduledTimestampAnnotation: j.At}}}
			if j.Ended != "" {
				job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobConditionType(j.Ended), Status: "True"}}
			}
			w.jobs = append(w.jobs, job)
		}
		todo := plan(w)
		out := output{Replace: names(todo.replace), Remove: names(todo.remove)}
		if todo.create != nil {
			out.Create, out.At = todo.create.Name, todo.create.Annotations[batchv1.CronJobScheduledTimestampAnnotation]
		}
		if s := todo.status; s != nil {
			for _, ref := range s.Active {
				out.Active = append(out.Active, ref.Name)
			}
			if s.LastScheduleTime != nil {
				out.Last = s.LastScheduleTime.UTC().Format(time.RFC3339)
			}
		}
		for _, e := range todo.events {
			out.Events = append(out.Events, e.kind+" "+e.reason+": "+e.message)
		}
		if todo.again > 0 {
			out.Again = todo.again.String()
		}
		return out
	})
}

// TestDueIsTheLatestOfAll compares with walking through every time.
func TestDueIsTheLatestOfAll(t *testing.T) {
	start := time.Date(2026, 3, 27, 23, 17, 5, 0, time.UTC) // a change of clocks follows
	for _, text := range []string{"* * * * *", "*/7 * * * *", "30 2 * * *", "0 9-17 * * 1-5", "0 0 1 * *", "15,16,45 */5 * * *"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "America/St_Johns"} {
			cj := &batchv1.CronJob{}
			cj.Spec.Schedule, cj.Spec.TimeZone = text, &zone
			schedule, err := scheduleOf(cj)
			if err != nil {
				t.Fatal(err)
			}
			for _, span := range []time.Duration{0, 90 * time.Second, 3 * time.Hour, 50 * time.Hour, 40 * 24 * time.Hour} {
				now, want := start.Add(span), time.Time{}
				for at := schedule.Next(start); !at.After(now); at = schedule.Next(at) {
					want = at
				}
				if got, _ := due(schedule, start, now); !got.Equal(want) {
					t.Errorf("%s in %s after %v: %v, want %v", text, zone, span, got, want)
				}
			}
		}
	}
}
