package apiserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
	"k8s.io/apiserver/plugin/pkg/audit/truncate"
)

// Audit says which requests this node notes, and where. Nothing is noted while Path
// or PolicyFile is empty. Names and defaults are those of kube-apiserver's --audit-log-….
type Audit struct {
	PolicyFile string // YAML, a Policy of audit.k8s.io/v1
	Path       string // "-" is the standard output
	Format     string // json or legacy
	Mode       string // batch, blocking or blocking-strict

	MaxAge, MaxBackups, MaxSize int // of files: days, number, MB; 0 keeps all
	Compress                    bool

	Truncate                     bool
	MaxBatchBytes, MaxEventBytes int64
}

// What an Audit may say, as kube-apiserver's flags.
const (
	AuditJSON, AuditLegacy = auditlog.FormatJson, auditlog.FormatLegacy

	AuditBatch, AuditBlocking, AuditBlockingStrict = "batch", "blocking", "blocking-strict"
)

// auditBuffer is how many events wait in mode batch before more are lost; upstream's.
const auditBuffer = 10_000

// DefaultAudit notes nothing; its other fields are upstream's defaults.
func DefaultAudit() Audit {
	return Audit{Format: AuditJSON, Mode: AuditBlocking, MaxBatchBytes: 10 << 20, MaxEventBytes: 100 << 10}
}

// Validate tells what of an Audit cannot be, by the names of flags.
func (a Audit) Validate() error {
	if a.Path == "" && a.PolicyFile == "" {
		return nil
	}
	var errs []error
	if a.Path != "" && a.PolicyFile == "" {
		errs = append(errs, errors.New("--audit-log-path notes nothing without --audit-policy-file"))
	}
	if a.PolicyFile != "" && a.Path == "" {
		errs = append(errs, errors.New("--audit-policy-file needs --audit-log-path: where to?"))
	}
	if !slices.Contains(auditlog.AllowedFormats, a.Format) {
		errs = append(errs, fmt.Errorf("invalid audit log format %s, allowed formats are %q", a.Format, strings.Join(auditlog.AllowedFormats, ",")))
	}
	if modes := []string{AuditBatch, AuditBlocking, AuditBlockingStrict}; !slices.Contains(modes, a.Mode) {
		errs = append(errs, fmt.Errorf("invalid audit log mode %s, allowed modes are %q", a.Mode, strings.Join(modes, ",")))
	}
	for flag, n := range map[string]int{"maxage": a.MaxAge, "maxbackup": a.MaxBackups, "maxsize": a.MaxSize} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("--audit-log-%s %v can't be a negative number", flag, n))
		}
	}
	if a.Truncate && (a.MaxEventBytes <= 0 || a.MaxBatchBytes < a.MaxEventBytes) {
		errs = append(errs, errors.New("--audit-log-truncate-max-batch-size must be at least --audit-log-truncate-max-event-size, and that positive"))
	}
	return errors.Join(errs...)
}

// open returns what decides and what notes; both are nil when nothing is noted.
func (a Audit) open() (audit.PolicyRuleEvaluator, audit.Backend, error) {
	if a.PolicyFile == "" {
		return nil, nil, nil
	}
	if err := a.Validate(); err != nil {
		return nil, nil, err
	}
	rules, err := policy.LoadPolicyFromFile(a.PolicyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("loading audit policy file: %w", err)
	}
	out, err := a.writer()
	if err != nil {
		return nil, nil, fmt.Errorf("the audit log %s: %w", a.Path, err)
	}
	backend := auditlog.NewBackend(out, a.Format, auditv1.SchemeGroupVersion)
	switch a.Mode {
	case AuditBatch:
		backend = buffered.NewBackend(backend, buffered.BatchConfig{BufferSize: auditBuffer, MaxBatchSize: 1})
	case AuditBlocking:
		backend = forgiving{backend}
	}
	if a.Truncate {
		backend = truncate.NewBackend(backend, truncate.Config{MaxEventSize: a.MaxEventBytes, MaxBatchSize: a.MaxBatchBytes}, auditv1.SchemeGroupVersion)
	}
	return policy.NewPolicyRuleEvaluator(rules), backend, nil
}

func (a Audit) writer() (io.Writer, error) {
	if a.Path == "-" {
		return os.Stdout, nil
	}
	if err := os.MkdirAll(filepath.Dir(a.Path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(a.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil || a.MaxSize == 0 {
		return f, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return &lumberjack.Logger{Filename: a.Path, MaxAge: a.MaxAge, MaxBackups: a.MaxBackups, MaxSize: a.MaxSize, Compress: a.Compress}, nil
}

// forgiving goes on with requests that cannot be noted, as mode blocking does; in
// mode blocking-strict they fail.
type forgiving struct{ audit.Backend }

// ProcessEvents implements audit.Sink.
func (f forgiving) ProcessEvents(events ...*auditinternal.Event) bool {
	f.Backend.ProcessEvents(events...)
	return true
}
