package cronjob

import (
	"time"
	_ "time/tzdata" // spec.timeZone means the same on a node without a zone database

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// tooMany missed times are worth a warning: a clock jumped, or nothing ran for long.
const tooMany = 100

// scheduleOf reads a schedule in its time zone; without one it is meant in UTC, so
// that it does not depend on which node leads.
func scheduleOf(cj *batchv1.CronJob) (cron.Schedule, error) {
	zone := ptr.Deref(cj.Spec.TimeZone, "")
	if zone == "" {
		zone = "UTC"
	}
	return cron.ParseStandard("TZ=" + zone + " " + cj.Spec.Schedule)
}

// due is the latest scheduled time after earliest and not after now, and how many
// there were, roughly; zero if there was none.
func due(schedule cron.Schedule, earliest, now time.Time) (latest time.Time, missed int64) {
	first := schedule.Next(earliest)
	if first.IsZero() || first.After(now) {
		return time.Time{}, 0
	}
	second := schedule.Next(first)
	if second.IsZero() || second.After(now) {
		return first, 1
	}
	period := max(second.Sub(first), time.Second)
	missed = int64(now.Sub(first)/period) + 1
	// Look back from now, ever further, until there is a time; then walk to the last.
	for back := period; ; back *= 2 {
		from := now.Add(-back)
		if !from.After(first) {
			from = first.Add(-time.Nanosecond)
		}
		for t := schedule.Next(from); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
			latest = t
		}
		if !latest.IsZero() {
			return latest, missed
		}
	}
}
